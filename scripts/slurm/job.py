"""One training as a Slurm job: what runs on each node, before and after the job was queued again."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from submitit.helpers import Checkpointable, DelayedSubmission

STOPS = (75, -signal.SIGTERM, -signal.SIGUSR1)
"""Exit codes of `pcpad train` that was asked to stop: it has saved, or had not yet begun."""
WARNING = signal.SIGUSR2
"""submitit's signal that the job's time is nearly over, or that it is preempted."""


class Training(Checkpointable):
    """``pcpad train`` in `gpus` processes on each of `nodes` nodes; one task runs on each node.

    Args:
        out: folder of the run, on a file system that all nodes see.
        arguments: of ``pcpad train``, without --out, --gpus, --nodes and --rendezvous.
    """

    def __init__(self, out: str, arguments: list[str], gpus: int = 1, nodes: int = 1):
        self.out, self.arguments, self.gpus, self.nodes = out, arguments, gpus, nodes
        self._process = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_process": None}

    def __call__(self) -> str:
        """Train, from the run's last checkpoint if it has one; returns the run's folder.

        Raises:
            RuntimeError: the training has failed; its message is in the job's error log.
        """
        main = os.environ.get("SLURM_PROCID", "0") == "0"
        command = self.command()
        print(" ".join(command), flush=True)
        # Slurm sends the warning to all processes of a job; this one hands it on in the form that all of them know.
        ignore = {"preexec_fn": lambda: signal.signal(WARNING, signal.SIG_IGN)}
        self._process = subprocess.Popen(command, **ignore)
        code = self._wait()
        if code in STOPS and main and job_state() == "RUNNING":
            requeue()  # preempted with SIGTERM alone; where the warning came first, `checkpoint` has run
        if code not in (0, *STOPS):
            raise RuntimeError(f"pcpad train has failed with exit code {code} on {socket.gethostname()}")
        return self.out

    def command(self) -> list[str]:
        """The command of this node."""
        command = [sys.executable, "-m", "pcpad", "train", "--gpus", str(self.gpus)]
        if self.nodes > 1:
            command += ["--nodes", str(self.nodes), "--rendezvous", rendezvous()]
        if any(Path(self.out, "checkpoints").glob("step-*.pt")):
            # with its settings, so that a run of others is refused and not taken for this one
            return [*command, "--resume", self.out, *without(self.arguments, ("--recipe", "--weights"))]
        return [*command, *self.arguments, "--out", self.out]

    def checkpoint(self) -> DelayedSubmission:
        """submitit calls this at the warning and queues the job again: let the training stop and save."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGUSR1)
            self._wait()
        return DelayedSubmission(self)

    def _wait(self) -> int:
        """The exit code of the process. The warning, whose handler waits too, comes between two looks, never in one."""
        while True:
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {WARNING})
            code = self._process.poll()
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            if code is not None:
                return code
            time.sleep(0.5)


def without(arguments: list[str], names: tuple[str, ...]) -> list[str]:
    """Arguments less some options and their values: ``--name value`` or ``--name=value``."""
    kept, skip = [], False
    for word in arguments:
        if not skip and word.partition("=")[0] not in names:
            kept.append(word)
        skip = not skip and word in names
    return kept


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
