"""Signals that ask a training to stop: obeyed at once until it trains, then noted, and obeyed after a step."""

import os
import signal
import threading

NOTED = ("SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP", "SIGQUIT")
STOPPED = 75
"""Exit code of a training that was asked to stop, and has saved what it needs to go on (EX_TEMPFAIL of sysexits.h)."""
PARENT = "PCPAD_LAUNCHER"
"""Environment variable: number of the process that has started this one and collects its result."""


class Stopped(BaseException):
    """A training has stopped because a signal asked for it, and what it needs to go on is saved.

    As KeyboardInterrupt it is no Exception: it may be raised anywhere, and no library is to take it for a failure.

    Attributes:
        signal: its name.
    """

    def __init__(self, name: str, text: str):
        super().__init__(text)
        self.signal = name

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, as every program; else `STOPPED`."""
        return 130 if self.signal == "SIGINT" else STOPPED


class Signals:
    """Notes the first of the signals `NOTED` while it is open; a second SIGINT is Ctrl-C as ever.

    Before `wait` is called there is nothing to save: then a signal raises `Stopped` at once, and SIGINT is Ctrl-C. What
    is ignored when it is opened (SIGHUP under nohup) stays ignored. It may be opened again inside itself.

    A process that a launcher has started also stops when that is gone: nobody would collect its result.

    Args:
        told: how `Stopped` goes on where it is raised at once.
    """

    def __init__(self, told: str = "before the first step: nothing has changed"):
        self._told = told
        self.noted: str | None = None
        self.waits = self._interrupted = False
        self._before: list[dict] = []
        launched = "TORCHELASTIC_RUN_ID" in os.environ
        self._parent = int(os.environ.get(PARENT, os.getppid())) if launched else None

    def __enter__(self) -> "Signals":
        before = {}
        if threading.current_thread() is threading.main_thread() and not any(self._before):
            for name in heeded():
                before[name] = signal.signal(getattr(signal, name), self._note)
        self._before.append(before)
        return self

    def __exit__(self, *_) -> None:
        for name, handler in self._before.pop().items():
            signal.signal(getattr(signal, name), handler)

    def wait(self) -> None:
        """From now on note signals, and leave it to the training when to obey."""
        self.waits = True

    def _note(self, number: int, _) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and (self._interrupted or not self.waits):
            raise KeyboardInterrupt
        self._interrupted = self._interrupted or name == "SIGINT"
        self.noted = self.noted or name
        if not self.waits:
            raise Stopped(name, f"stopped by {name} {self._told}")

    @property
    def asked(self) -> str | None:
        """Name of the signal that asks for a stop; None as long as none does."""
        if self.noted is None and self._parent is not None and os.getppid() != self._parent:
            self.noted = "SIGTERM"
        return self.noted


def heeded() -> list[str]:
    """Those of `NOTED` that are not ignored."""
    return [name for name in NOTED if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN]


def name_of(code: int) -> str:
    """The signal of a number that the processes have agreed on; 0 is none."""
    return NOTED[code - 1]


def code_of(name: str | None) -> int:
    """A number for a signal's name, to be agreed on; 0 for none."""
    return NOTED.index(name) + 1 if name else 0
