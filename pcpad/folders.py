"""Folders that results go to: made when a command starts, gone again if it fails without a result; full disks."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LEAST_FREE = 64
"""MiB of free space below which a disk counts as full."""


@contextmanager
def result_folder(folder: Path, result: str) -> Iterator[Path]:
    """Make `folder` for the time of a command; on an error without a result in it, undo that.

    Args:
        result: a glob of what is a result.

    Only what was made here is removed: a folder that was there before stays, and what it held.

    Raises:
        OSError: it cannot be made or written.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    before = set(folder.iterdir()) if folder.is_dir() else set()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        remove_empty(created)
        raise OSError(f"the folder {folder} cannot be written ({error.strerror}); choose another with --out") from error
    try:
        yield folder
    except BaseException:
        if not any(folder.glob(result)):
            for path in set(folder.iterdir()) - before:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            remove_empty(created)
        raise


def remove_empty(folders: list[Path]) -> None:
    """Remove those of the folders, innermost first, that exist and are empty."""
    for path in folders:
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def reason(path: Path, error: BaseException) -> str:
    """Why a write failed, with the space left where that is near nothing."""
    text = (isinstance(error, OSError) and error.strerror) or str(error)
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return text
    free = room.f_bavail * room.f_frsize / 2**20
    return f"the disk is full ({free:.0f} MiB free)" if free < LEAST_FREE else f"{text} ({free:.0f} MiB free)"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old or the new one, never a part; of two writers at once, either's.

    Raises:
        OSError: it could not be written; names the file and the free space.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        os.replace(temporary, path)
    except OSError as error:
        why = reason(path, error)  # before the room that the temporary file took is free again
        with suppress(OSError):
            temporary.unlink()
        raise OSError(f"{path} could not be written: {why}") from error


def read_text(path: Path) -> str:
    """The text of a file, its newlines as they are.

    Raises:
        ValueError: it is no UTF-8; names the file and the place. OSError: it cannot be read.
    """
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no text in UTF-8 (byte {error.start}: {error.reason})") from None
