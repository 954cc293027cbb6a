"""Signals that ask a training to stop: noted, and obeyed after the step it is in."""

import os
import signal
import threading

NOTED = ("SIGTERM", "SIGUSR1", "SIGINT")
STOPPED = 75
"""Exit code of a training that was asked to stop, and has saved what it needs to go on (EX_TEMPFAIL of sysexits.h)."""


class Stopped(Exception):
    """A training has stopped because a signal asked for it, and saved its state.

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
    """Notes the first of SIGTERM, SIGUSR1 and SIGINT while it is open; a second SIGINT is Ctrl-C as ever.

    A process that torchrun has started also stops when torchrun is gone: nobody would collect its result.
    """

    def __init__(self):
        self.noted: str | None = None
        self._before: dict = {}
        self._parent = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None

    def __enter__(self) -> "Signals":
        if threading.current_thread() is threading.main_thread():
            for name in NOTED:
                self._before[name] = signal.signal(getattr(signal, name), self._note)
        return self

    def __exit__(self, *_) -> None:
        for name, handler in self._before.items():
            signal.signal(getattr(signal, name), handler)

    def _note(self, number: int, _) -> None:
        name = signal.Signals(number).name
        if name == "SIGINT" and self.noted == "SIGINT":
            raise KeyboardInterrupt
        self.noted = self.noted or name

    @property
    def asked(self) -> str | None:
        """Name of the signal that asks for a stop; None as long as none does."""
        if self.noted is None and self._parent is not None and os.getppid() != self._parent:
            self.noted = "SIGTERM"
        return self.noted


def name_of(code: int) -> str:
    """The signal of a number that the processes have agreed on; 0 is none."""
    return NOTED[code - 1]


def code_of(name: str | None) -> int:
    """A number for a signal's name, to be agreed on; 0 for none."""
    return NOTED.index(name) + 1 if name else 0
