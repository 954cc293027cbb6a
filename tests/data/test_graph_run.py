"""How DALI's pipelines end: at once, where nothing waits for itself, and with the process."""

import subprocess
import sys
import weakref

import pytest
import torch

from tests.data.made import eval_loader

pytest.importorskip("nvidia.dali")

from nvidia.dali.pipeline import Pipeline

from pcpad.data.dali_batches import Copies


def test_what_a_signal_raises_while_an_evaluation_ends_gets_through(dali, photo_files, monkeypatch):
    """Python ignores what is raised where the last reference to something is dropped."""
    signals, end = iter([KeyboardInterrupt]), Pipeline._shutdown

    def interrupted(pipeline):
        end(pipeline)
        for signal in signals:
            raise signal

    monkeypatch.setattr(Pipeline, "_shutdown", interrupted)
    with pytest.raises(KeyboardInterrupt):
        list(eval_loader(dali, photo_files))
    assert next(signals, None) is None


def test_memory_of_dali_is_held_until_it_is_copied(monkeypatch):
    """A GPU's copies are made long after they were asked for; what lies in it before that is not to be written over."""

    class Lent:
        is_cuda, device = True, "the GPU"

        def clone(self):
            return "a copy"

    class Event:
        made = ()

        def __init__(self):
            self.over = False
            Event.made += (self,)

        def record(self, stream):
            assert stream == "its stream"

        def query(self):
            return self.over

        def synchronize(self):
            self.over = True

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: "its stream")
    copies, index, there = Copies(), torch.arange(3), []
    for _ in range(3):
        images = Lent()
        there.append(weakref.ref(images))
        assert copies.of({"images": images, "index": index}) == {"images": "a copy", "index": index}
        del images
    assert all(one() for one in there)
    Event.made[0].over = True
    copies.of({"index": index})
    assert [one() is None for one in there] == [True, False, False]
    copies.end()
    assert not any(one() for one in there)
    assert all(event.over for event in Event.made)


@pytest.mark.parametrize(("end", "code"), [("", 0), ("raise SystemExit(3)", 3)])
def test_a_process_ends_while_images_are_resized(photo_files, end, code):
    """DALI's threads wait for Python's lock, which the process takes with it."""
    code_to_run = f"""
from pcpad.data import dali
from tests.data.made import train_loader, train_transform
loader = train_loader(dali, {photo_files!r} * 20, train_transform(224), batch_size=8, workers=2)
batches = loader.epoch(0)
next(batches)
{end}
"""
    done = subprocess.run([sys.executable, "-c", code_to_run], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(
    ("waiting", "calls", "there", "here"),
    [
        ("dali_resize.Resizer.__call__", 1, "gc.collect()", "pass"),
        ("dali_resize.resized", 8, "gc.collect()", "pass"),
        ("dali_resize.Resizer.__call__", 1, "pass", "gc.collect()"),
    ],
    ids=["in a thread of DALI", "in a thread that resizes for it", "in one whose lock they need"],
)
def test_a_pipeline_is_not_ended_by_the_garbage_collector(photo_files, waiting, calls, there, here):
    """A loader is lost in a cycle of references, while the next batch is made."""
    code_to_run = f"""
import concurrent.futures.thread, gc, os, threading
from pcpad.data import dali, dali_batches, dali_resize
from tests.data.made import train_loader, train_transform

def threads():
    return len(os.listdir("/proc/self/task"))

def wait_first(*args):
    if not next(of_the_first_batch, None):
        assert lost.wait(10)
        with one_at_a_time:
            {there}
            went_on.set()
    return real(*args)

of_the_first_batch = iter([True] * {calls})
lost, went_on, one_at_a_time = threading.Event(), threading.Event(), threading.Lock()
real, {waiting} = {waiting}, wait_first
gc.disable()
loader = train_loader(dali, {photo_files!r} * 20, train_transform(64), batch_size=8, workers=2)
batches = loader.epoch(0)
next(batches)
running = threads()
cycle = [loader, batches]
cycle.append(cycle)
del cycle, loader, batches
with concurrent.futures.thread._global_shutdown_lock:  # a thread pool takes it for each job
    lost.set()
    {here}
assert went_on.wait(10)
assert dali_batches._left.qsize() == 1
dali_batches.end_left()
assert threads() < running - 2, "ended by the next use"
"""
    done = subprocess.run([sys.executable, "-c", code_to_run], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_forked_process_does_not_end_the_pipelines_of_its_parent(photo_files):
    code_to_run = f"""
import os, signal, warnings
from pcpad.data import dali, dali_batches
from tests.data.made import train_loader, train_transform
warnings.filterwarnings("ignore", "This process", DeprecationWarning)  # of Python 3.12: what is tried here may lock
loader = train_loader(dali, {photo_files!r} * 20, train_transform(64), batch_size=8, workers=2)
batches = loader.epoch(0)
next(batches)
child = os.fork()
if not child:
    signal.alarm(20)
    del loader, batches
    dali_batches.end_left()
    os._exit(0)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
next(batches)
raise SystemExit(code)
"""
    done = subprocess.run([sys.executable, "-c", code_to_run], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
