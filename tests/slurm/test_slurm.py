"""A real Slurm: submit, preempt, warn, cancel, requeue; the result is that of a run that nobody has disturbed.

Needs a Slurm of its own (`make test-slurm` starts one), whose partition `high` preempts `low`.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.conftest import difference

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 240
"""Seconds until a job that does not reach a state has failed."""


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Slurm's node, idle."""
    if shutil.which("sinfo") is None:
        pytest.skip("no Slurm: apt install slurm-wlm munge")
    found = subprocess.run(["sinfo", "-h", "-p", "high", "-o", "%t"], capture_output=True, text=True, check=False)
    if found.stdout.strip() != "idle":
        pytest.skip(f"no idle Slurm with a partition `high` (make test-slurm starts one): {found.stdout}{found.stderr}")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes, told apart by their brightness."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, n in (("train", 16), ("val", 5)):
        for name, level in (("dark", 80), ("light", 160)):
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                pixels = rng.normal(level, 40, (40, 40, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


def arguments(data, epochs: int = 16) -> list[str]:
    settings = {"model": "resnet18", "padding": "partial", "data": data, "data.workers": 1, "device": "cpu"}
    settings |= {"data.loader": "torchvision", "recipe": "textures", "size": 64, "batch_size": 8, "epochs": epochs}
    settings |= {"optim.lr": 0.01, "log_seconds": 0, "ema": 0.9}
    return [word for key, value in settings.items() for word in (f"--{key}", str(value))]


def call(*command, **kwargs) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The last checkpoint of a run without Slurm."""
    out = tmp_path_factory.mktemp("whole") / "run"
    call(sys.executable, "-m", "pcpad", "train", "--gpus", 2, "--out", out, *arguments(data))
    return torch.load(out / "checkpoints/last.pt")


def submit(out, *options, train: list[str]) -> list[str]:
    """Submits; gives the numbers of the jobs."""
    script = ROOT / "scripts/slurm/submit.py"
    own = ["--cpu", "--gpus", 2, "--cores", 1, "--partition", "low", "--out", out, "--warning", 60, "--hours", 0.5]
    own += options
    printed = call(sys.executable, script, *own, "--", *train, cwd=Path(out).parent)
    return [line.split()[1].rstrip(":") for line in printed.splitlines()]


def state(job: str) -> str:
    found = subprocess.run(["scontrol", "show", "job", job], capture_output=True, text=True, check=False)
    words = dict(word.partition("=")[::2] for word in found.stdout.split())
    return words.get("JobState", "UNKNOWN")


def wait_for(what, *, patience: int = PATIENCE) -> None:
    until = time.monotonic() + patience
    while not what():
        assert time.monotonic() < until, subprocess.run(["squeue", "-l"], capture_output=True, text=True).stdout
        time.sleep(0.3)


def steps(out: Path) -> int:
    """The last step that the run's log tells of."""
    try:
        return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["step"]
    except (OSError, IndexError, ValueError):
        return 0


def log(out: Path, job: str) -> str:
    return "".join(path.read_text() for path in sorted((out.parent / "slurm").rglob(f"*{job}*log.*")))


@pytest.mark.parametrize("how", ["preempted", "warned"])
def test_a_job_that_is_queued_again_ends_as_if_nothing_had_been(data, whole, tmp_path, how):
    out = tmp_path / "run"
    (job,) = submit(out, train=arguments(data))
    wait_for(lambda: steps(out) >= 9)
    if how == "preempted":
        cores = os.cpu_count()
        call("sbatch", "-p", "high", "-c", cores, "-o", "/dev/null", "--wait", "--wrap", "sleep 1", cwd=tmp_path)
    else:
        call("scancel", "--signal=USR2", job)  # what Slurm sends before a job's time is over
        wait_for(lambda: state(job) == "PENDING")
    assert state(job) in ("PENDING", "RUNNING")
    if state(job) == "PENDING":  # its processes are gone
        assert json.loads((out / "requeue.json").read_text())["signal"] in ("SIGTERM", "SIGUSR1")
    stopped = steps(out)
    assert stopped < 64
    wait_for(lambda: state(job) == "COMPLETED")
    said = log(out, job)
    assert "--resume" in said
    assert f"resuming {out} after epoch " in said
    assert "Job completed successfully" in said
    assert difference(torch.load(out / "checkpoints/last.pt"), whole) is None
    assert not (out / "requeue.json").exists()
    assert [row["step"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())] == sorted(
        row["step"] for row in map(json.loads, (out / "metrics.jsonl").read_text().splitlines())
    )


def test_a_job_that_is_cancelled_stays_cancelled(data, whole, tmp_path):
    """And goes on when the same run is submitted once more."""
    out = tmp_path / "run"
    (job,) = submit(out, train=arguments(data))
    wait_for(lambda: steps(out) >= 5)
    call("scancel", job)
    wait_for(lambda: state(job) == "CANCELLED")
    assert list((out / "checkpoints").glob("step-*.pt"))
    time.sleep(15)
    assert state(job) == "CANCELLED"
    (again,) = submit(out, train=arguments(data))
    wait_for(lambda: state(again) == "COMPLETED")
    assert difference(torch.load(out / "checkpoints/last.pt"), whole) is None


def test_a_grid_is_an_array(data, tmp_path):
    train = arguments(data, epochs=3)
    jobs = submit(tmp_path / "grid", "--each", "seed=0,1", "--each", "power=1.0", train=train)
    assert [job.partition("_")[2] for job in jobs] == ["0", "1"]
    for job, seed in zip(jobs, (0, 1), strict=True):
        wait_for(lambda job=job: state(job) == "COMPLETED")
        run = json.loads((tmp_path / f"grid/seed_{seed}-power_1.0/run.json").read_text())
        assert run["settings"]["seed"] == seed
    first, second = (tmp_path / f"grid/seed_{seed}-power_1.0/checkpoints/last.pt" for seed in (0, 1))
    assert difference(torch.load(first)["model"], torch.load(second)["model"]) is not None


def test_a_job_that_fails_says_so(data, tmp_path):
    train = [*arguments(data, epochs=3), "--data.check", "none"]
    bad = tmp_path / "data"
    shutil.copytree(data, bad)
    (bad / "train/dark/0.png").write_bytes(b"<html>")
    train[train.index("--data") + 1] = str(bad)
    (job,) = submit(tmp_path / "run", train=train)
    wait_for(lambda: state(job) in ("FAILED", "COMPLETED"))
    assert state(job) == "FAILED"
    said = log(tmp_path / "run", job)
    assert f"damaged image {bad}/train/dark/0.png" in said
    assert "pcpad train has failed with exit code 1" in said


def test_a_study_is_trained_then_evaluated_and_what_fails_is_in_its_results(data, tmp_path):
    """One of two runs finds files of somebody else in its folder; without them it trains, and both are evaluated."""
    folder = tmp_path / "experiments/small"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# Small\n\n<!-- table: begin -->\n<!-- table: end -->\n")
    settings = {"size": 64, "batch_size": 8, "epochs": 2, "device": "cpu", "data.loader": "torchvision"}
    plan = {"title": "t", "question": "q", "recipe": "textures", "tables": ["training"], "data": str(data)}
    plan |= {"grid": {"model": ["torchvision/resnet18"], "padding": ["zeros", "partial"], "seed": [0]}}
    plan |= {"settings": settings, "evaluate": {"paddings": ["zeros", "reflect"], "sizes": [64]}}
    (folder / "study.yaml").write_text(json.dumps(plan))  # which is YAML
    hindered = tmp_path / "runs/small/torchvision_resnet18-partial-s0"
    hindered.mkdir(parents=True)
    (hindered / "note.txt").touch()

    def study() -> list[str]:
        script, own = ROOT / "scripts/slurm/submit.py", ["--cpu", "--cores", 2, "--partition", "low", "--hours", 0.5]
        printed = call(sys.executable, script, *own, "--study", "small", cwd=tmp_path).splitlines()
        wait_for(lambda: all(state(line.split()[1].rstrip(":")) in ("COMPLETED", "FAILED") for line in printed))
        call(sys.executable, "-m", "pcpad", "study", "table", "small", cwd=tmp_path)
        return [line.split()[2] for line in printed]

    def results() -> list[tuple]:
        lines = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
        return [(line["kind"], line["padding"], line.get("padding_evaluated"), line["status"]) for line in lines]

    assert study() == ["train", "train"]
    assert results() == [("run", "zeros", None, "done"), ("run", "partial", None, "failed")]
    done, failed = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    assert done["seconds"] > 0
    assert failed["error"] == f"pcpad: error: {hindered} exists and is not empty: choose another --out"
    assert Path(failed["log"]).is_file()
    shutil.rmtree(hindered)
    assert study() == ["train", "eval"]
    assert study() == ["eval"]
    both = [(kind, run, padding, "done") for run in ("zeros", "partial") for kind, padding in
            (("run", None), ("evaluation", "zeros"), ("evaluation", "reflect"))]  # fmt: skip
    assert results() == both
