"""Tar archives: their checksums, remembered while a file stays as it is, and their members, read by many threads."""

import hashlib
import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pcpad.data.prepare.tree import write_json
from pcpad.progress import Progress

BLOCK = 1 << 24
"""Bytes that are read at a time for a checksum."""


@dataclass(frozen=True)
class Archive:
    """An archive as it is published: name of the file, MD5 of its bytes, size in words."""

    file: str
    md5: str
    size: str


def verify(archive: Archive, folder: Path, memory: Path | None = None) -> Path:
    """The path of an archive whose checksum is right.

    Args:
        memory: a file that remembers which archives were right, by bytes and time of change.

    Raises:
        ValueError: the bytes are others; says to download it again.
    """
    path = folder / archive.file
    stat = path.stat()
    fact = [str(path.resolve()), stat.st_size, stat.st_mtime_ns, archive.md5]
    try:
        known = json.loads(memory.read_text()) if memory else []
    except (OSError, ValueError):
        known = []
    if fact in known:
        return path
    found = md5(path)
    if found != archive.md5:
        raise ValueError(
            f"{path} is damaged or incomplete: its MD5 is {found}, that of the published file ({archive.size}) "
            f"{archive.md5}; download it again"
        )
    if memory:
        write_json(memory, [*known, fact])
    return path


def md5(path: Path) -> str:
    """MD5 of a file in hexadecimal digits, with progress."""
    digest = hashlib.md5(usedforsecurity=False)
    bar = Progress(f"checksum of {path.name}", -(-path.stat().st_size // BLOCK), 30.0)
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                bar.step(str)
    finally:
        bar.close()
    return digest.hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[tarfile.TarFile]:
    """An uncompressed or gzipped tar archive; what is wrong inside it becomes a ValueError that names it."""
    try:
        with tarfile.open(path) as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}); download it again") from error


def write_member(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    """Write one file of an archive; `target` appears under its name when all its bytes are there."""
    part = target.with_name(f".{target.name}.part")
    with tar.extractfile(member) as source, open(part, "wb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    if part.stat().st_size != member.size:
        raise tarfile.ReadError(f"{member.name} is cut off")
    os.replace(part, target)


def plain_name(member: tarfile.TarInfo) -> str:
    """The name of a member that is a file in no folder; raises tarfile.ReadError for anything else."""
    if not member.isfile() or os.path.basename(member.name) != member.name or member.name.startswith("."):
        raise tarfile.ReadError(f"{member.name!r} is not what such an archive holds")
    return member.name
