"""Checkpoints: written whole or not at all, read without running code."""

import os
from pathlib import Path

import torch

from pcpad.weights import read_file

FORMAT = 1
"""Version of the content; a reader refuses another."""


def save(path: Path, content: dict) -> None:
    """Write a checkpoint: to a temporary file beside it, synced, then renamed over `path`.

    Args:
        content: tensors, numbers, strings, bytes, and lists and dicts of them (what ``weights_only=True`` reads).

    Raises:
        OSError: it could not be written; names the file and the free space. The old file is untouched and the
            temporary one removed.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if not isinstance(error, (OSError, RuntimeError)):  # a full disk inside torch.save is a RuntimeError
            raise
        raise OSError(f"{path} could not be written: {reason(path, error)}; the previous one is untouched") from error


def reason(path: Path, error: Exception) -> str:
    """Why a write failed, with the space left where that is near nothing."""
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return str(error)
    free = room.f_bavail * room.f_frsize / 2**20
    return f"the disk is full ({free:.0f} MiB free)" if free < 64 else f"{error} ({free:.0f} MiB free)"


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: Path) -> dict:
    """Read a checkpoint of pcpad onto the CPU.

    Raises:
        ValueError: it is damaged, holds code, or is not one of this version of pcpad. OSError: it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}: the run has not finished its first epoch")
    content = read_file(str(path))
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has checkpoint format {content.get('format')}, this pcpad reads {FORMAT}")
    return content
