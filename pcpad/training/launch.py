"""Several processes of one training: torchrun, called from here, so that its outcome is told in one message."""

import json
import logging
import os
import signal
import sys
import tempfile
from pathlib import Path

from pcpad.config import TrainSettings
from pcpad.environment import num_cores
from pcpad.training.requeue import STATUS
from pcpad.training.signals import NOTED, PARENT, STOPPED, heeded

GRACE = 180
"""Seconds that the processes have to finish their step and save, after a signal or when one of them has died."""


def is_launched() -> bool:
    """Whether this process was started by torchrun."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def launch(settings: TrainSettings, argv: list[str]) -> int:
    """Run ``pcpad train`` with `argv` in ``settings.gpus`` processes on this machine; returns the exit code.

    Raises:
        ValueError: the processes have failed; says why, once for all of them.
    """
    from torch.distributed import run as torchrun
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    check_gpus(settings)
    for name in logging.root.manager.loggerDict:
        if name.startswith("torch.distributed"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # the outcome is told here
    where = ["--standalone"]
    if settings.nodes > 1:
        where = [f"--nnodes={settings.nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={settings.rendezvous}"]
        where += [f"--rdzv-id={os.environ.get('SLURM_JOB_ID', 'pcpad')}"]
    arguments = [*where, f"--nproc-per-node={settings.gpus}", "--max-restarts=0"]
    # what torchrun hands on to the processes; one that it does not know would kill it and leave them alone
    arguments += [f"--signals-to-handle={','.join(heeded())}", f"--shutdown-timeout={GRACE}"]
    arguments += ["--module", "pcpad", "train", *argv]
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, num_cores() // settings.gpus)))
    with tempfile.TemporaryDirectory(prefix="pcpad-") as scratch:
        os.environ[STATUS] = str(Path(scratch) / "status.json")
        os.environ[PARENT] = str(os.getpid())
        try:
            torchrun.run(torchrun.parse_args(arguments))
        except SignalException as stop:
            return outcome(signal.Signals(stop.sigval).name)
        except ChildFailedError as error:
            return ended(error)
        finally:
            status = os.environ.pop(STATUS)
            del os.environ[PARENT]
        return outcome(None, status)


def check_gpus(settings: TrainSettings) -> None:
    """Refuse more processes than there are GPUs, where they are to train on GPUs."""
    from pcpad.environment import pick_device

    if pick_device(settings.device).type == "cuda":
        import torch

        here = torch.cuda.device_count()
        if settings.gpus > here:
            raise ValueError(
                f"gpus={settings.gpus}: this machine has {here}; choose at most that many, or --device cpu"
            )


def outcome(received: str | None, status: str | None = None) -> int:
    """The exit code of a training without a failure; says so where a signal has stopped it."""
    try:
        told = json.loads(Path(status or os.environ[STATUS]).read_text())
    except (OSError, ValueError, KeyError):
        told = {}
    if not (told.get("signal") or received):
        return 0
    text = told.get("text") or f"stopped by {received}; the process of rank 0 has not said that it saved anything"
    print(f"pcpad: {text}", file=sys.stderr, flush=True)
    return 130 if (told.get("signal") or received) == "SIGINT" else STOPPED


def ended(error) -> int:
    """The exit code of processes that were asked to stop before the first step; says so.

    Raises:
        ValueError: one has failed of itself. torchrun then asks the others to stop, which is no reason to start again.
    """
    if broken(error) or STOPPED not in {one.exitcode for one in error.failures.values()}:
        raise ValueError(failure(error)) from None
    print(f"pcpad: {failure(error)}", file=sys.stderr, flush=True)
    return STOPPED


def broken(error) -> dict:
    """The processes that failed of themselves, by rank: not those that a signal has stopped, or that lost another."""

    def by_itself(one) -> bool:
        if one.exitcode < 0:
            return signal.Signals(-one.exitcode).name not in NOTED
        return one.exitcode not in (STOPPED, 130) and os.path.isfile(one.error_file)

    return {rank: one for rank, one in error.failures.items() if by_itself(one)}


def failure(error) -> str:
    """One message for all processes that have failed: what each said, or which signal ended it."""
    told: dict[str, list[int]] = {}
    killed = {}
    for rank, one in sorted((broken(error) or error.failures).items()):
        if os.path.isfile(one.error_file):
            told.setdefault(one.message, []).append(rank)
        elif one.exitcode < 0:
            killed[rank] = signal.Signals(-one.exitcode).name
    if told:
        return "; ".join(told)
    if killed:  # torchrun ends the others with SIGTERM
        rank, name = min(killed.items(), key=lambda one: one[1] == "SIGTERM")
        return f"the process of rank {rank} was killed by {name}{': memory?' if name == 'SIGKILL' else ''}"
    return f"the processes have failed with exit codes {sorted({one.exitcode for one in error.failures.values()})}"
