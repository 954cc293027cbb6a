"""pcpad train --gpus 2: torchrun's processes, its signals, and one message for all of them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from pcpad.cli import fail
from pcpad.training import launch
from pcpad.training.signals import STOPPED
from tests.training.conftest import difference


def start(folder, *argv, **options) -> subprocess.Popen:
    """The command line in a process of its own, with what it says as lines."""
    arguments = [*argv, *(f"--{k}={v}" for k, v in options.items())]
    return subprocess.Popen(
        [sys.executable, "-m", "pcpad", "train", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def options(data, out: str, **more) -> dict:
    settings = {"model": "resnet18", "data": data, "data.workers": 1, "data.loader": "torchvision", "device": "cpu"}
    settings |= {"recipe": "textures", "size": 64, "batch_size": 8, "epochs": 4, "optim.lr": 0.01, "log_seconds": 0}
    return settings | {"gpus": 2, "out": out} | more


def family(pid: int) -> list[int]:
    """A process's children and theirs."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout.split()
    parents = dict(zip(map(int, found[::2]), map(int, found[1::2]), strict=True))
    below, new = [], [pid]
    while new:
        new = [child for child, parent in parents.items() if parent in new]
        below += new
    return below


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The last checkpoint of a run that nobody has disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    process = start(folder, **options(data, "whole"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "epoch 4/4" in out
    return torch.load(folder / "whole/checkpoints/last.pt")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP", "one rank", "SIGKILL"])
def test_a_signal_to_the_launcher(data, whole, tmp_path, name):
    """All processes end, none is left over, the marker is there, and the resumed run is the undisturbed one."""
    process = start(tmp_path, **options(data, "cut"))
    for line in process.stdout:
        if line.startswith("epoch 2/4 step 2"):
            break
    below = family(process.pid)
    assert len(below) >= 2
    if name == "one rank":
        ranks = [pid for pid in below if b"\0train\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(ranks[1], signal.SIGTERM)
    else:
        os.kill(process.pid, getattr(signal, name))
    _, err = process.communicate(timeout=120)
    for pid in below:
        for _ in range(100):
            if not alive(pid):
                break
            time.sleep(0.1)
        assert not alive(pid), f"{pid} is left over"
    signalled = {"one rank": "SIGTERM", "SIGKILL": "SIGTERM"}.get(name, name)
    if name != "SIGKILL":
        assert process.returncode == (130 if name == "SIGINT" else STOPPED)
        assert f"stopped by {signalled} after step " in err
        assert err.count("\n") == 1
    assert json.loads((tmp_path / "cut/requeue.json").read_text())["signal"] == signalled
    again = start(tmp_path, resume="cut", gpus=2)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "resuming cut after epoch 1 and " in out
    assert not (tmp_path / "cut/requeue.json").exists()
    assert difference(torch.load(tmp_path / "cut/checkpoints/last.pt"), whole) is None


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_process_that_is_killed_is_named_without_a_traceback(data, tmp_path, which):
    process = start(tmp_path, **options(data, "cut"))
    for line in process.stdout:
        if line.startswith("epoch 2/4 step 2"):
            break
    ranks = [pid for pid in family(process.pid) if b"\0train\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(ranks[which], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"pcpad: error: the process of rank {which} was killed by SIGKILL: memory?" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_mistake_is_told_once(data, tmp_path):
    process = start(tmp_path, **options(data, "run", padding="partail"))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert err.count("\n") == 1
    assert err.startswith("pcpad: error: unknown padding mode 'partail'")
    assert list(tmp_path.iterdir()) == []
    assert "Traceback" not in out


def failed(tmp_path, codes: dict, texts: dict):
    """torchrun's report of processes that have failed."""
    failures = {}
    for rank, code in codes.items():
        file = tmp_path / f"{rank}.json"
        if rank in texts:
            file.write_text("{}")
        failures[rank] = SimpleNamespace(exitcode=code, error_file=str(file), message=texts.get(rank, ""))
    return SimpleNamespace(failures=failures)


@pytest.mark.parametrize(
    ("codes", "texts", "said"),
    [
        ({0: 1, 1: 1}, {0: "no such file", 1: "no such file"}, "no such file"),
        ({0: -15, 1: 1}, {1: "the disk is full"}, "the disk is full"),
        ({0: -15, 1: -9}, {}, "the process of rank 1 was killed by SIGKILL: memory?"),
        ({0: 3, 1: 3}, {}, "the processes have failed with exit codes [3]"),
        ({0: 1, 1: 1}, {0: "a", 1: "b"}, "a; b"),
        ({0: 75, 1: 1}, {0: "stopped by SIGTERM", 1: "no such file"}, "no such file"),
        ({0: 75, 1: -9}, {0: "stopped by SIGTERM"}, "the process of rank 1 was killed by SIGKILL: memory?"),
    ],
)
def test_one_message_for_all(tmp_path, codes, texts, said):
    error = failed(tmp_path, codes, texts)
    assert launch.failure(error) == said
    with pytest.raises(ValueError, match=re.escape(said)):
        launch.ended(error)


@pytest.mark.parametrize(
    ("codes", "texts"),
    [
        ({0: 75, 1: 75}, {0: "stopped by SIGTERM", 1: "stopped by SIGTERM"}),
        ({0: 75, 1: 1}, {0: "stopped by SIGTERM"}),  # it has lost the other
        ({0: 75, 1: -15}, {0: "stopped by SIGTERM"}),  # it did not listen yet
    ],
)
def test_processes_that_were_asked_to_stop_before_the_first_step(tmp_path, codes, texts, capsys):
    assert launch.ended(failed(tmp_path, codes, texts)) == STOPPED
    assert capsys.readouterr().err == "pcpad: stopped by SIGTERM\n"


@pytest.mark.parametrize(
    ("status", "received", "code", "said"),
    [
        ({"folder": "run", "signal": None, "text": None}, None, 0, ""),
        (
            {"folder": "run", "signal": "SIGTERM", "text": "stopped by SIGTERM after step 3"},
            None,
            STOPPED,
            "after step 3",
        ),
        (
            {"folder": "run", "signal": "SIGINT", "text": "stopped by SIGINT after step 3"},
            "SIGINT",
            130,
            "after step 3",
        ),
        (None, "SIGTERM", STOPPED, "stopped by SIGTERM; the process of rank 0 has not said that it saved anything"),
    ],
)
def test_the_outcome(tmp_path, capsys, status, received, code, said):
    path = tmp_path / "status.json"
    if status:
        path.write_text(json.dumps(status))
    assert launch.outcome(received, str(path)) == code
    assert said in capsys.readouterr().err


def test_a_launched_process_leaves_its_message_to_the_launcher(tmp_path, monkeypatch, capsys):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    monkeypatch.setenv(launch.STATUS, str(tmp_path / "status.json"))
    fail("no such file", 1)
    assert ended == [1]
    assert json.loads((tmp_path / "error.json").read_text())["message"] == "no such file"
    assert capsys.readouterr().err == ""
    (tmp_path / "error.json").unlink()
    fail("the connection to another process is lost", 1, told=False)  # torchrun knows which has ended
    assert ended == [1, 1]
    assert not (tmp_path / "error.json").exists()
    monkeypatch.delenv(launch.STATUS)  # under a torchrun of the user's own
    assert fail("no such file", 1) == 1
    assert capsys.readouterr().err == "pcpad: error: no such file\n"
