"""What signals do to a loader's workers: those of others nothing, those of their own process end them."""

import multiprocessing
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from pcpad.data import reference
from pcpad.data.batch import EvalTransform

EVAL = EvalTransform(size=8, crop_pct=1.0, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def files(tmp_path):
    for i in range(8):
        Image.fromarray(np.full((9, 9, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    return sorted(str(path) for path in tmp_path.iterdir())


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(1, id="forked"),
        pytest.param(2, id="from the server", marks=pytest.mark.slow),
    ],  # it starts in seconds
)
@pytest.mark.parametrize("name", ["TERM", "USR1", "INT", "HUP"])
def test_a_worker_heeds_its_own_process_only(files, world, name):
    """torchrun and Slurm send a signal to all processes of a job, and the training has to finish its step."""
    cpu = torch.device("cpu")
    files = [file for file in files for _ in range(world)]  # rank 0 of two has each of them
    labels = np.zeros(len(files), np.int64)
    loader = reference.EvalLoader(files, labels, EVAL, batch_size=1, workers=1, device=cpu, world=world)
    before = set(multiprocessing.active_children())
    batches = iter(loader)
    seen = [next(batches).index.item()]
    (worker,) = set(multiprocessing.active_children()) - before
    subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)  # a process of its own
    seen += [batch.index.item() for _, batch in zip(range(5), batches, strict=False)]
    assert seen == list(range(0, 6 * world, world))
    assert worker.is_alive()
    start = time.monotonic()
    worker.terminate()  # as Python does at its end
    worker.join(30)
    assert not worker.is_alive()
    assert worker.exitcode == 0
    assert time.monotonic() - start < 20
    batches.close()


@pytest.mark.slow
def test_workers_end_with_their_process(files):
    """Also where it is killed, and the server of workers is left."""
    code = f"""
import multiprocessing, os, numpy as np, torch
from pcpad.data import reference
from pcpad.data.batch import EvalTransform
files, cpu = {files!r}, torch.device("cpu")
loader = reference.EvalLoader(files, np.zeros(8, np.int64), {EVAL!r}, batch_size=1, workers=1, device=cpu, world=2)
batches = iter(loader)
next(batches)
from multiprocessing.forkserver import _forkserver
print(multiprocessing.active_children()[0].pid, _forkserver._forkserver_pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ, check=False)
    assert done.returncode == -9
    pids = [int(word) for word in done.stdout.split()]
    assert len(pids) == 2
    until = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < until:
        time.sleep(0.2)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


CHILD = """
import multiprocessing, os, signal, sys
from pcpad.data import workers

def work(ours, theirs, error):
    theirs.close()
    workers.end_with_parent = lambda: None  # which would be too late
    workers.heed_only(os.getppid(), 0)
    try:
        ours.recv()
        raise error
    except Exception:
        sys.excepthook(*sys.exc_info())

here, there = multiprocessing.Pipe()
child = multiprocessing.get_context("fork").Process(target=work, args=(there, here, ValueError("a mistake")))
child.start()
there.close()
"""


@pytest.mark.parametrize(
    ("end", "shown"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", []),  # the child reads the end of the connection
        ("here.close(); child.join()", ["EOFError"]),
        ("here.send(1); child.join()", ["ValueError: a mistake"]),
    ],
)
def test_a_worker_is_silent_where_its_process_is_gone_and_then_alone(end, shown):
    done = subprocess.run([sys.executable, "-c", CHILD + end], stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.stderr.splitlines()[-1:] == shown
