"""One run in a folder at a time."""

import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pcpad.folders import remove_empty

NAME = ".lock"
PATIENCE = 1.0
"""Seconds that a holder has between its taking of the lock and its note of who it is."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder, which is made if it is not there and removed if it stays empty.

    The system gives up the lock of a process that dies, so that the next start takes over.

    Raises:
        ValueError: another process holds it; names its number, its machine and since when. OSError: the folder cannot
            be written.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    until = time.monotonic() + PATIENCE
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle = open_lock(folder / NAME)
            break
        except OSError as error:
            gone = isinstance(error, (FileNotFoundError, FileExistsError)) and not folder.is_file()
            if gone and time.monotonic() < until:  # a holder that ends removes the empty folder, also just now
                time.sleep(0.01)
                continue
            remove_empty(created)
            raise OSError(
                f"the folder {folder} cannot be written ({error.strerror}); choose another with --out"
            ) from error
    try:
        os.truncate(handle, 0)
        holder = {"pid": os.getpid(), "host": platform.node(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        os.write(handle, json.dumps(holder).encode())
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)
        os.close(handle)
        remove_empty(created)


def open_lock(path: Path) -> int:
    """Open and lock the file; raises ValueError where another process holds it."""
    until = time.monotonic() + PATIENCE
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process alone, not of those it forks
        except (BlockingIOError, PermissionError):  # POSIX allows both
            holder = read_holder(os.pread(handle, 1000, 0))
            os.close(handle)
            if holder is None and time.monotonic() < until:
                time.sleep(0.01)
                continue
            raise ValueError(
                f"{path.parent} is in use by {holder or 'another process'}; wait for it, or choose another folder"
            ) from None
        except BaseException:
            os.close(handle)
            raise
        try:
            if os.path.samestat(os.fstat(handle), os.stat(path)):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the holder removed this file while it was waited for


def read_holder(note: bytes) -> str | None:
    """Who holds a lock, from the note in its file; None while the file is empty or holds a dead holder's note."""
    try:
        holder = json.loads(note)
        told = f"process {holder['pid']} on {holder['host']} since {holder['since']}"
        if holder["host"] == platform.node():
            os.kill(holder["pid"], 0)  # sends nothing: is it there?
    except PermissionError:
        pass  # it is, and another user's
    except (ValueError, KeyError, TypeError, OverflowError, ProcessLookupError):
        return None
    return told
