"""scripts/slurm without a Slurm: which commands come of a call, and what is refused. tests/slurm has a real one."""

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("submitit", reason="submitit is not installed: pip install 'pcpad[slurm]'")
FOLDER = Path(__file__).resolve().parents[1] / "scripts/slurm"


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"slurm_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


submit, job = load("submit"), load("job")


def test_a_grid_has_a_run_for_each_combination(tmp_path):
    runs = submit.grid(str(tmp_path), ["padding=zeros,partial", "model=timm/a,b"], ["--epochs", "3"])
    assert [Path(out).name for out, _ in runs] == [
        "padding_zeros-model_timm_a",
        "padding_zeros-model_b",
        "padding_partial-model_timm_a",
        "padding_partial-model_b",
    ]
    assert runs[2][1] == ["--epochs", "3", "--padding", "partial", "--model", "timm/a"]
    assert submit.grid("one", [], ["--seed", "1"]) == [(str(Path("one").resolve()), ["--seed", "1"])]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--each", "seed"], "--each seed: wanted is NAME=A,B with a setting of pcpad train"),
        (["--each", "gpus=1,2"], "--each gpus=1,2: gpus is for the submission to say, the same for all its runs"),
        (["--each", "out=a,b"], "--each out=a,b: out is for the submission to say"),
        (["--each", "seed=1,,2"], "--each seed=1,,2: wanted is NAME=A,B"),
        (["--", "--gpus", "8", "--out=x"], "--gpus and --out cannot stand behind --"),
        (["--each", "padding=zeros,partail", "--", "--modle", "x"], "unknown option --modle; did you mean 'model'?"),
        (["--each", "epochs=3,-1"], "epochs must be at least 1, not -1"),
        ([], "there is no sbatch here: submit from a machine of a Slurm cluster"),
    ],
)
def test_a_mistake_does_not_wait_in_the_queue(argv, message, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(submit.shutil, "which", lambda _: None)
    assert submit.main(["--out", str(tmp_path / "run"), *argv]) == 1
    err = capsys.readouterr().err
    assert err.startswith("submit.py: error: ")
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_study_s_missing_runs_are_submitted(tmp_path, monkeypatch, capsys):
    """Each with the arguments and the folder that `pcpad study run` would give it."""
    monkeypatch.chdir(tmp_path)
    study = Path("experiments/small")
    study.mkdir(parents=True)
    (study / "study.yaml").write_text(
        "title: t\nquestion: q\nrecipe: textures\ntables: [training]\n"
        "grid:\n  model: [torchvision/resnet18]\n  padding: [zeros, partial]\n  seed: [0, 1]\n"
    )
    sent = []
    monkeypatch.setattr(submit, "submit", lambda runs, options: sent.append((runs, options.out)) or [])
    with pytest.raises(ValueError, match="zip"):  # no jobs to tell of
        submit.main(["--study", "small", "--only", "*-partial-*", "--data", "/images"])
    ((runs, out),) = sent
    assert out == "runs/small"
    name = "torchvision_resnet18-partial-s"
    assert [folder for folder, _ in runs] == [str(tmp_path / "runs/small" / f"{name}{seed}") for seed in (0, 1)]
    wanted = ["--recipe", "textures", "--model", "torchvision/resnet18", "--padding", "partial", "--seed", "1"]
    assert runs[1][1] == [*wanted, "--data.name", "/images"]
    for argv, message in (
        (["--study", "small"], "study small names no images"),
        (["--study", "smal"], "unknown study 'smal': choose from small"),
        (["--study", "small", "--data", "/x", "--", "--epochs", "3"], "nothing stands behind --study NAME"),
    ):
        assert submit.main(argv) == 1
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["--gpus", "0"], ["--nodes", "x"], []])
def test_a_mistake_in_the_call_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        submit.main([*argv, *(["--out", "x"] if argv else [])])
    assert caught.value.code == 2


def test_the_command_of_a_node(tmp_path, monkeypatch):
    """A new run, then the same after its first checkpoint, on two nodes; its settings go along."""
    out = tmp_path / "run"
    train = job.Training(str(out), ["--model", "resnet18"], gpus=8)
    new = ["-m", "pcpad", "train", "--gpus", "8", "--model", "resnet18", "--out", str(out)]
    assert train.command()[1:] == new
    (out / "checkpoints").mkdir(parents=True)
    (out / "run.json").write_text("{}")
    assert train.command()[1:] == new  # killed before its first checkpoint: pcpad starts over, or refuses
    (out / "checkpoints/step-00000007.pt").touch()
    train.arguments += ["--recipe", "paper", "--seed=3", "--weights=pretrained", "--ema", "0.9"]
    train.nodes = 2
    monkeypatch.setenv("SLURM_JOB_ID", "41234")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[07-08]")
    monkeypatch.setattr(job, "slurm", lambda *command: {"hostnames": "node07\nnode08\n"}[command[2]])
    expected = ["--gpus", "8", "--nodes", "2", "--rendezvous", "node07:21234", "--resume", str(out)]
    expected += ["--model", "resnet18", "--seed=3", "--ema", "0.9"]  # the run is refused if it has others
    assert train.command()[4:] == expected


@pytest.mark.parametrize(("code", "state"), [(75, "RUNNING"), (-15, "RUNNING"), (75, "COMPLETING"), (-9, "RUNNING")])
def test_a_training_that_was_asked_to_stop_is_queued_again(tmp_path, monkeypatch, code, state):
    """Also one that had not yet begun, or died of the signal itself; not one that the system has killed."""
    train, queued = job.Training(str(tmp_path / "run"), []), []
    end = f"import os, signal; os.kill(os.getpid(), {-code}) if {code} < 0 else exit({code})"
    monkeypatch.setattr(job.Training, "command", lambda *_: [sys.executable, "-c", end])
    monkeypatch.setattr(job, "job_state", lambda: state)
    monkeypatch.setattr(job, "requeue", lambda: queued.append(1))
    if code == -9:
        with pytest.raises(RuntimeError, match="exit code -9"):
            train()
    else:
        assert train() == str(tmp_path / "run")
    assert len(queued) == (code != -9 and state == "RUNNING")


def test_a_training_is_stored_without_its_process(tmp_path, monkeypatch):
    """submitit stores it anew while the training still stops."""
    train = job.Training(str(tmp_path / "run"), [])
    monkeypatch.setattr(job.Training, "command", lambda *_: [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(RuntimeError, match="has failed with exit code 1 on "):
        train()
    assert isinstance(train._process, subprocess.Popen)
    again = pickle.loads(pickle.dumps(train.checkpoint())).function
    assert (again.out, again._process) == (train.out, None)
