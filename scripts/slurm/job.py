"""One training or evaluation as a Slurm job: what runs on each node, before and after the job was queued again."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO

from submitit.helpers import Checkpointable, DelayedSubmission

STOPS = (75, -signal.SIGTERM, -signal.SIGUSR1)
"""Exit codes of a command that was asked to stop: it has saved, or had not yet begun, or saves each cell."""
WARNING = signal.SIGUSR2
"""submitit's signal that the job's time is nearly over, or that it is preempted."""


class Command(Checkpointable):
    """A command of pcpad that can be stopped and goes on when it is started again.

    A subclass says which: `task` is the word behind ``pcpad``, and `command()` gives all words that this node runs.

    Args:
        out: folder of the run, on a file system that all nodes see.
        note: file of JSON lines to note its end in, or None.
    """

    task = ""

    def __init__(self, out: str, arguments: list[str], note: str | None = None):
        self.out, self.arguments, self.note = out, arguments, note
        self._process = self._began = self._said = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_process": None, "_said": None}

    def __call__(self) -> str:
        """Run, or go on; returns the run's folder.

        Raises:
            RuntimeError: the command has failed; its message is in the job's error log.
        """
        command = self.command()
        print(" ".join(command), flush=True)
        # Slurm sends the warning to all processes of a job; this one hands it on in the form that all of them know.
        ignore = {"preexec_fn": lambda: signal.signal(WARNING, signal.SIG_IGN)}
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, **ignore)
        self._began, self._said = time.monotonic(), LastWords(self._process.stderr)
        code = self._wait()
        self._note(code)
        if code in STOPS and is_main() and job_state() == "RUNNING":
            requeue()  # preempted with SIGTERM alone; where the warning came first, `checkpoint` has run
        if code not in (0, *STOPS):
            raise RuntimeError(f"pcpad {self.task} has failed with exit code {code} on {socket.gethostname()}")
        return self.out

    def checkpoint(self) -> DelayedSubmission:
        """submitit calls this at the warning and queues the job again: let the command stop and save."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)
            self._note(self._wait())
        return DelayedSubmission(self)

    def _note(self, code: int) -> None:
        """Note how the command has ended, where a study collects it: once a job, by its first node."""
        if self.note is None or not is_main():
            return
        from pcpad.lines import append_line

        failed = code not in (0, *STOPS)
        killed = f"killed by {signal.Signals(-code).name}; " if code < 0 else ""
        Path(self.note).parent.mkdir(parents=True, exist_ok=True)
        append_line(
            Path(self.note),
            {
                "name": Path(self.note).stem,
                "task": self.task,
                "time": time.strftime("%Y-%m-%d %H:%M:%S"),
                "resumed": "--resume" in self._process.args,
                "exit_code": code,
                "seconds": round(time.monotonic() - self._began, 1),
                "error": f"{killed}{self._said.last()}" if failed else None,
                "log": log(),
            },
        )

    def _wait(self) -> int:
        """The exit code of the process. The warning, whose handler waits too, comes between two looks, never in one."""
        while True:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {WARNING})
            code = self._process.poll()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if code is not None:
                self._said.wait()
                return code
            time.sleep(0.5)


class Training(Command):
    """``pcpad train`` in `gpus` processes on each of `nodes` nodes; one task runs on each node.

    Args:
        arguments: of ``pcpad train``, without --out, --gpus, --nodes and --rendezvous.
    """

    task = "train"

    def __init__(self, out: str, arguments: list[str], gpus: int = 1, nodes: int = 1, note: str | None = None):
        super().__init__(out, arguments, note)
        self.gpus, self.nodes = gpus, nodes

    def command(self) -> list[str]:
        """From the run's last checkpoint if it has one."""
        command = [sys.executable, "-m", "pcpad", "train", "--gpus", str(self.gpus)]
        if self.nodes > 1:
            command += ["--nodes", str(self.nodes), "--rendezvous", rendezvous()]
        if any(Path(self.out, "checkpoints").glob("step-*.pt")):
            # with its settings, so that a run of others is refused and not taken for this one
            return [*command, "--resume", self.out, *self.arguments]
        return [*command, *self.arguments, "--out", self.out]


class Evaluation(Command):
    """``pcpad eval`` in one process; a cell that has a record is not computed again."""

    task = "eval"

    def command(self) -> list[str]:
        """The same each time."""
        return [sys.executable, "-m", "pcpad", "eval", *self.arguments]


class LastWords:
    """Hands on what a process writes to stderr, and keeps the last line."""

    def __init__(self, stream: IO[bytes]):
        self._stream, self._line = stream, ""
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def _copy(self) -> None:
        with self._stream:
            for line in self._stream:
                sys.stderr.write(line.decode(errors="replace"))
                sys.stderr.flush()
                self._line = line.decode(errors="replace").strip() or self._line

    def wait(self) -> None:
        """Wait until all is handed on; a process that was left behind may hold the stream open, so not for ever."""
        self._thread.join(timeout=10)

    def last(self) -> str:
        """The last line that is not empty."""
        return self._line or "it has said nothing"


def is_main() -> bool:
    """Whether this is the first node of the job."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def log() -> str:
    """The file that Slurm writes this job's output to; empty outside of one."""
    from submitit import JobEnvironment

    try:
        return str(JobEnvironment().paths.stdout)
    except RuntimeError:
        return ""


def rendezvous() -> str:
    """Host and port at which the nodes of this job meet: its first node, and a port that other jobs do not take."""
    hosts = slurm("scontrol", "show", "hostnames", os.environ["SLURM_JOB_NODELIST"]).split()
    return f"{hosts[0]}:{20000 + int(os.environ['SLURM_JOB_ID']) % 20000}"


def job_state() -> str:
    """Slurm's state of this job: RUNNING while it is preempted, another one when it was cancelled."""
    return slurm("squeue", "--noheader", "--format=%T", f"--jobs={os.environ['SLURM_JOB_ID']}").strip()


def requeue() -> None:
    """Queue this job again; Slurm ends what is left of it."""
    print("queueing the job again", flush=True)
    slurm("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    time.sleep(600)


def slurm(*command: str) -> str:
    """What a command of Slurm prints."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
