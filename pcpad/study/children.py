"""The processes of a study: started apart from the terminal's Ctrl-C, stopped in order, their last words kept."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from pcpad.lock import locked
from pcpad.study.plan import Plan
from pcpad.study.results import note_launch

PROGRAM = (sys.executable, "-m", "pcpad")
"""What a task's command is given to."""


class Asked:
    """Counts Ctrl-C and SIGTERM while it is open, so that neither comes between two steps of the bookkeeping."""

    def __init__(self):
        self.times = 0
        self._before: dict = {}

    def __enter__(self) -> "Asked":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, *_) -> None:
        self.times += 1


@dataclass
class Child:
    """A process under way.

    Attributes:
        task: what it does (`launch.Task`).
        log, errors: files of its output and of its errors, of all its starts. offset: where this start's errors begin.
        hold: what `claim` gave, to be closed when it has ended.
    """

    task: object
    process: subprocess.Popen
    log: Path
    errors: Path
    offset: int
    began: float
    ended: float | None = None
    hold: ExitStack = field(default_factory=ExitStack)

    def seconds(self) -> float:
        """Wall time."""
        return (self.ended or time.monotonic()) - self.began

    def error(self) -> str:
        """The last line that this start has written to stderr, and the signal that has killed it."""
        with open(self.errors, "rb") as file:
            file.seek(self.offset)
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        last = lines[-1] if lines else "it has said nothing"
        code = self.process.returncode
        return f"killed by {signal.Signals(-code).name}; {last}" if code < 0 else last


def claim(task) -> ExitStack | None:
    """The right to evaluate a run for any study, until it is closed; None where another process has it.

    A training takes the lock of its folder itself.
    """
    hold = ExitStack()
    if task.kind == "eval":
        try:
            hold.enter_context(locked(task.run.folder.parent / "evaluating" / task.run.name))
        except ValueError:
            return None
    return hold


def start(plan: Plan, task, slot: dict[str, str], hold: ExitStack) -> Child:
    """Start a task's process in a session of its own: Ctrl-C reaches it through `stop` alone.

    Args:
        slot: what to add to its environment; PCPAD_WORKERS becomes --data.workers.
        hold: what `claim` gave.
    """
    logs = Path("runs", plan.name, "logs")
    logs.mkdir(parents=True, exist_ok=True)
    log, errors = (logs / f"{task.run.name}.{ending}" for ending in ("log", "err"))
    extra = dict(slot)
    workers = extra.pop("PCPAD_WORKERS", None)
    options = [] if workers is None else ["--data.workers", workers]
    command = [*PROGRAM, *task.command, *options]
    with open(log, "a") as out, open(errors, "a") as err:
        out.write(f"$ pcpad {' '.join([*task.command, *options])}\n")
        out.flush()
        offset = err.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env={**os.environ, **extra},
            start_new_session=True,
        )
    return Child(task, process, log, errors, offset, time.monotonic(), hold=hold)


def end(plan: Plan, child: Child, error: str | None) -> None:
    """Note in the study's launches how a process has ended; `error` is None unless it has failed."""
    child.ended = time.monotonic()
    note_launch(
        plan,
        {
            "name": child.task.run.name,
            "task": child.task.kind,
            "time": time.strftime("%Y-%m-%d %H:%M:%S"),
            "resumed": child.task.resumed,
            "exit_code": child.process.returncode,
            "seconds": round(child.seconds(), 1),
            "error": error,
            "log": str(child.log),
        },
    )


def stop(processes: list[subprocess.Popen], asked: Asked) -> None:
    """Ask processes to stop and wait until they have saved; being asked a second time kills them."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    while any(process.poll() is None for process in processes):
        if asked.times > 1:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.05)
