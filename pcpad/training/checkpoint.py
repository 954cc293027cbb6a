"""Checkpoints: written whole or not at all, checked when read, read without running code; a few are kept."""

import hashlib
import os
import re
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from pcpad.folders import reason
from pcpad.weights import DamagedFileError, read_file

FORMAT = 3
"""Version of the content; a reader refuses another."""
SEAL = b"pcpad sha256 "
"""What the digest at the end of a file follows."""
FOLDER = "checkpoints"
"""Where a run keeps them, as ``step-00001234.pt``, ``best.pt`` and ``last.pt``: links to one of the numbered."""


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
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w+b") as file:
            torch.save({"format": FORMAT, **content}, file)
            seal(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        why = reason(path, error)  # before the room that the temporary file took is free again
        temporary.unlink(missing_ok=True)
        if not isinstance(error, (OSError, RuntimeError)):  # a full disk inside torch.save is a RuntimeError
            raise
        raise OSError(f"{path} could not be written: {why}; the checkpoints before it are untouched") from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: Path) -> dict:
    """Read a checkpoint of pcpad onto the CPU, after a look at the digest of the whole file.

    Raises:
        DamagedFileError: it is damaged. ValueError: it holds code, or is not one of this version of pcpad.
            PermissionError: it may not be read.
    """
    if not os.path.lexists(path):
        raise ValueError(f"there is no checkpoint {path}")
    try:
        sealed = check_seal(path)
    except PermissionError:
        raise
    except OSError as error:  # a folder, a link to nothing, a disk that fails
        raise DamagedFileError(f"{path} is damaged ({error.strerror})") from error
    content = read_file(str(path))
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has checkpoint format {content.get('format')}, this pcpad reads {FORMAT}")
    if not sealed:
        raise DamagedFileError(f"{path} is damaged (there is no digest at its end)")
    return content


def seal(file: BinaryIO) -> None:
    """Put the digest of all that a zip file holds at its end, as the zip's comment, so that it stays a zip file."""
    file.seek(-2, os.SEEK_END)
    file.write(struct.pack("<H", len(SEAL) + 64))  # the length of the comment
    file.seek(0)
    found = hashlib.file_digest(file, "sha256").hexdigest()
    file.write(SEAL + found.encode())


def check_seal(path: Path) -> bool:
    """Whether a file has a digest at its end; raises DamagedFileError where it is not that of the file.

    The checksums inside a zip file are not enough: torch.load does not look at them, and they leave out its directory.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END) - len(SEAL) - 64
        file.seek(max(size, 0))
        end = file.read()
        if size < 0 or not end.startswith(SEAL):
            return False
        file.seek(0)
        sha = hashlib.sha256()
        while size:
            part = file.read(min(size, 2**20))
            sha.update(part)
            size -= len(part)
    if sha.hexdigest().encode() != end[len(SEAL) :]:
        raise DamagedFileError(f"{path} is damaged (its digest is not that at its end)")
    return True


@dataclass(frozen=True, order=True)
class Saved:
    """A checkpoint file.

    Attributes:
        step: the optimizer steps before it.
        epoch_end: whether an epoch was finished there, evaluation included.
    """

    step: int
    epoch_end: bool
    path: Path


class Shelf:
    """The checkpoints of one run: the newest few, and the best.

    Args:
        folder: the run's.
        keep: how many of the newest stay. The newest of an epoch's end stays in any case: from there training can go
            on with another number of processes.
    """

    def __init__(self, folder: Path, keep: int = 2):
        self.folder, self.keep = Path(folder) / FOLDER, keep

    def all(self) -> list[Saved]:
        """The numbered checkpoints, in the order of their steps."""
        found = []
        for path in self.folder.glob("step-*.pt") if self.folder.is_dir() else ():
            number = re.fullmatch(r"step-(\d+)(-epoch)?\.pt", path.name)
            if number:
                found.append(Saved(int(number[1]), number[2] is not None, path))
        return sorted(found)

    def put(self, content: dict, *, epoch_end: bool, best: bool) -> Path:
        """Save after ``content["step"]`` steps, then remove what is no longer kept.

        Args:
            epoch_end: the state at the end of an epoch, evaluation included.
            best: also becomes best.pt.

        Raises:
            OSError: as `save`; nothing is removed then.
        """
        path = self.folder / f"step-{content['step']:08d}{'-epoch' if epoch_end else ''}.pt"
        save(path, content)
        if best:
            link(path, self.folder / "best.pt")
        link(path, self.folder / "last.pt")
        self.sweep(path)
        return path

    def sweep(self, newest: Path) -> None:
        """Remove what is older than the newest few, and what an earlier start saved at later steps.

        One that cannot be removed stops no other.
        """
        saved = self.all()
        here = [one.path for one in saved].index(newest) + 1
        kept = {*saved[:here][-self.keep :], *[one for one in saved[:here] if one.epoch_end][-1:]}
        for one in saved:
            if one not in kept:
                remove(one.path)

    def sweep_temporary(self) -> None:
        """Remove what a crash left half-written."""
        for path in self.folder.glob("*.tmp") if self.folder.is_dir() else ():
            remove(path)

    def newest(self, only_epoch_ends: bool = False) -> tuple[dict | None, Path | None, list[str]]:
        """Read the newest intact checkpoint.

        Args:
            only_epoch_ends: of those at an epoch's end.

        Returns:
            Its content and path, None where there is no checkpoint at all, and why each newer one was passed over.

        Raises:
            ValueError: every one is damaged; names them. Or the newest intact one cannot be used (`load`).
        """
        saved = [one for one in reversed(self.all()) if one.epoch_end or not only_epoch_ends]
        damaged = []
        for one in saved:
            try:
                return load(one.path), one.path, damaged
            except DamagedFileError as error:
                damaged.append(str(error))
        if damaged:
            raise ValueError(
                f"no checkpoint of {self.folder.parent} is intact: {'; '.join(damaged)}; restore one of these files, "
                "or start a new run"
            )
        return None, None, []


def link(path: Path, name: Path) -> None:
    """Make `name` another name of the file `path`, at once; a copy where the file system has no links.

    Raises:
        OSError: as `save`; the file `path` stays.
    """
    temporary = name.with_name(f"{name.name}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        os.replace(temporary, name)
    except OSError as error:
        why = reason(name, error)
        temporary.unlink(missing_ok=True)
        raise OSError(f"{name} could not be written: {why}; {path} is saved") from error


def remove(path: Path) -> None:
    """Delete a file; if that fails, it stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        print(f"warning: {path} cannot be removed ({error.strerror})", flush=True)
