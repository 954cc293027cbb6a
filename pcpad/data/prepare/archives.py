"""Tar archives: their checksums, remembered while a file stays as it is, and their members, read by many processes."""

import hashlib
import json
import os
import shutil
import signal
import tarfile
import threading
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from pcpad.data.prepare.tree import write_json
from pcpad.data.workers import end_with_parent
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


def in_parallel(title: str, tasks: list[tuple], workers: int) -> None:
    """Call ``task[0](*task[1:])`` for each task, with progress; the first error ends them all.

    In processes: threads would wait for Python's lock (5,000 images of 110 KB took one thread 3.0 s of CPU, four 7.2).
    They end with this process, however it ends.

    Raises:
        OSError: one of them was killed; or whatever a task raises.
    """
    bar = Progress(title, len(tasks), 30.0)
    pool = None
    try:
        if workers == 1:
            for call, *arguments in tasks:
                call(*arguments)
                bar.step(str)
            return
        pool = ProcessPoolExecutor(workers, get_context("fork"), initializer=begin)
        for future in [pool.submit(*task) for task in tasks]:
            future.result()
            bar.step(str)
    except BrokenExecutor as error:
        raise OSError("a process that wrote images was killed, by lack of memory for example; start again") from error
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
        bar.close()


def begin() -> None:
    """A process's first act: leave Ctrl-C to the process that it works for, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
