"""The worker processes of the torchvision loader: where they come from, and what signals do to them."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from types import TracebackType

ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT}
"""What ends a job is often sent to all its processes, while the training still has to finish a step and save."""


def start_method(world: int) -> BaseContext | None:
    """How the workers of one of several processes are started; None for one process: as Python does.

    A worker that is forked from a process with a gloo group can hang at its birth: when a thread of gloo drops a
    tensor, it takes the lock on Python's list of threads, and CPython 3.11 waits for that lock in the child, which has
    no such thread. A server forks them instead, a process of one thread.
    """
    if world == 1 or "forkserver" not in multiprocessing.get_all_start_methods():
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torchvision.transforms.functional"])
    # The server inherits these, and Python's resource tracker: which tells of semaphores that it has to remove itself
    # where a process of this training ends at once.
    before, warnings = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING), os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [warnings, "ignore:resource_tracker:UserWarning"]))
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        del os.environ["PYTHONWARNINGS"]
        if warnings is not None:
            os.environ["PYTHONWARNINGS"] = warnings
    return context


def heed_only(main: int, _: int) -> None:
    """A worker's first act: of the signals that end it, heed those of the process that it works for.

    That process may still have a step to finish and a checkpoint to write. Where the system cannot say who sent a
    signal (macOS) all are heeded.

    Args:
        main: number of that process.
    """
    known = hasattr(signal, "sigwaitinfo")
    signal.pthread_sigmask(signal.SIG_BLOCK if known else signal.SIG_UNBLOCK, ENDING)
    if known:
        threading.Thread(target=end_at_signal, args=(main,), daemon=True).start()
    threading.Thread(target=end_with_parent, daemon=True).start()
    sys.excepthook = tell_unless_left


def end_at_signal(main: int) -> None:
    """End this process at the first signal of `main`; the signals have to be blocked."""
    while signal.sigwaitinfo(ENDING).si_pid != main:
        pass
    os._exit(0)


def end_with_parent() -> None:
    """End this process when the one that it works for is gone: torch looks for the server only, which waits for us."""
    multiprocessing.parent_process().join()
    os._exit(1)


def tell_unless_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error of this process, but for a connection that broke since the process that it works for is gone.

    Batches are handed over by a thread of Python's (`multiprocessing.resource_sharer`), which may meet the broken
    connection before `end_with_parent` has ended this process, and would show a traceback.
    """
    if isinstance(error, (OSError, EOFError)):
        multiprocessing.parent_process().join(1)  # what is killed closes its connections first, then it is gone
        if not multiprocessing.parent_process().is_alive():
            os._exit(1)
    sys.__excepthook__(kind, error, trace)
