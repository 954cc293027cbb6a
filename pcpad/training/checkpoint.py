"""Checkpoints: written whole or not at all, checked when read, read without running code; a few are kept."""

import os
import re
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import torch

from pcpad.weights import DamagedFileError, read_file

FORMAT = 2
"""Version of the content; a reader refuses another."""
FOLDER = "checkpoints"
"""Where a run keeps them, as ``step-00001234.pt``, ``best.pt`` and ``last.pt``: links to one of the numbered."""
LEAST_FREE = 64
"""MiB of free space below which a disk counts as full."""


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
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **content}, file)
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


def reason(path: Path, error: BaseException) -> str:
    """Why a write failed, with the space left where that is near nothing."""
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return str(error)
    free = room.f_bavail * room.f_frsize / 2**20
    return f"the disk is full ({free:.0f} MiB free)" if free < LEAST_FREE else f"{error} ({free:.0f} MiB free)"


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` survive a power cut, where the system can."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: Path) -> dict:
    """Read a checkpoint of pcpad onto the CPU, after a look at the checksum of each of its parts.

    Raises:
        DamagedFileError: it is damaged. ValueError: it holds code, or is not one of this version of pcpad. OSError:
            it cannot be read.
    """
    if not path.is_file():
        raise ValueError(f"there is no checkpoint {path}")
    check_sums(path)
    content = read_file(str(path))
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has checkpoint format {content.get('format')}, this pcpad reads {FORMAT}")
    return content


def check_sums(path: Path) -> None:
    """Compare each part of a checkpoint with its CRC, which torch.load does not; raises DamagedFileError."""
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{path} is damaged ({error})") from error
    if bad is not None:
        raise DamagedFileError(f"{path} is damaged (wrong checksum of {bad})")


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
    """Make `name` another name of the file `path`, at once; a copy where the file system has no links."""
    temporary = name.with_name(f"{name.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    os.replace(temporary, name)


def remove(path: Path) -> None:
    """Delete a file; if that fails, it stays."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        print(f"warning: {path} cannot be removed ({error.strerror})", flush=True)
