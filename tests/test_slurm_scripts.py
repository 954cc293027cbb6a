"""scripts/slurm without a Slurm: which commands come of a call, and what is refused. tests/slurm has a real one."""

import importlib.util
import json
import pickle
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

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
    wanted = submit.grid(str(tmp_path), ["padding=zeros,partial", "model=timm/a,b"], ["--epochs", "3"])
    assert [Path(one.out).name for one in wanted] == [
        "padding_zeros-model_timm_a",
        "padding_zeros-model_b",
        "padding_partial-model_timm_a",
        "padding_partial-model_b",
    ]
    assert wanted[2].arguments == ("--epochs", "3", "--padding", "partial", "--model", "timm/a")
    assert submit.grid("one", [], ["--seed", "1"]) == [submit.Wanted(str(Path("one").resolve()), ("--seed", "1"))]


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
        (
            ["--data", "/x"],
            "--data belongs to --study, and the images of a training stand behind --: -- --data.name DIR",
        ),
        (["--only", "*partial*"], "--only belongs to --study"),
        (["--", "--help"], "would train nothing"),
        (["--", "--print_config"], "would train nothing"),
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


STUDY = """
title: t
question: q
recipe: textures
tables: [training]
grid: {model: [torchvision/resnet18], padding: [zeros, partial], seed: [0, 1]}
"""

OTHER = """
title: t
question: q
from: small
tables: [cross]
evaluate: {paddings: [zeros, reflect], sizes: [32, 64]}
"""


@pytest.fixture
def sent(tmp_path, monkeypatch):
    """The jobs that a call would submit where there are two studies: one trains, one evaluates the other's runs."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("small", STUDY), ("other", OTHER)):
        Path("experiments", name).mkdir(parents=True)
        Path("experiments", name, "study.yaml").write_text(text)
    jobs = []

    def submitted(wanted, _):
        jobs.extend(wanted)
        return [SimpleNamespace(job_id=str(i), paths=SimpleNamespace(stdout="log")) for i in range(len(wanted))]

    monkeypatch.setattr(submit, "submit", submitted)
    return jobs


def test_a_study_s_missing_runs_are_submitted(tmp_path, sent, capsys):
    """Each with the arguments and the folder that `pcpad study run` would give it."""
    assert submit.main(["--study", "small", "--only", "*-partial-*", "--data", "/images"]) == 0
    folders = [tmp_path / f"runs/small/torchvision_resnet18-partial-s{seed}" for seed in (0, 1)]
    assert [one.out for one in sent] == [str(folder) for folder in folders]
    wanted = ("--recipe", "textures", "--model", "torchvision/resnet18", "--padding", "partial", "--seed", "1")
    assert sent[1].arguments == (*wanted, "--data.name", "/images")
    assert sent[1].note == f"{tmp_path}/runs/small/jobs/{folders[1].name}.jsonl"
    assert f"job 1: train {folders[1]}, log log" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--study", "small"], "study small names no images"),
        (["--study", "smal"], "unknown study 'smal': choose from other, small"),
        (["--study", "small", "--data", "/x", "--", "--epochs", "3"], "nothing stands behind --study NAME"),
        (["--study", "other"], "study other: there is nothing to evaluate; study small trains its runs"),
    ],
)
def test_a_mistake_in_a_study_is_named(argv, message, sent, capsys):
    assert submit.main(argv) == 1
    assert message in capsys.readouterr().err
    assert not sent


def test_a_finished_run_s_missing_evaluations_are_submitted(tmp_path, sent, monkeypatch, capsys):
    """The command that `pcpad study run` would start for them, with the run's whole path."""
    from pcpad.study import launch
    from pcpad.study.states import DONE, State

    monkeypatch.setattr(
        launch, "state_of", lambda run, _=None: State(DONE if run.name.endswith("zeros-s1") else "missing")
    )
    monkeypatch.setattr(launch, "covered", lambda *_: {("zeros", "32"), ("zeros", "64")})
    folder = tmp_path / "runs/small/torchvision_resnet18-zeros-s1"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.pt").touch()
    assert submit.main(["--study", "other"]) == 0
    (one,) = sent
    assert (one.task, one.out) == ("eval", str(folder))
    assert one.arguments == ("--run", str(folder), "--paddings", "reflect", "--sizes", "32,64")
    assert job.Evaluation(one.out, [*one.arguments], one.note).command()[1:4] == ["-m", "pcpad", "eval"]
    (folder / "checkpoints/last.pt").unlink()
    assert submit.main(["--study", "other"]) == 1
    told = f"evaluations are missing, and 1 of the runs have no weights here ({folder.name}); pcpad study run other"
    assert told in capsys.readouterr().err


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
    train.arguments += [
        "--recipe",
        "paper",
        "--seed=3",
        "--weights=pretrained",
        "--config",
        "mine.yaml",
        "--ema",
        "0.9",
    ]
    train.nodes = 2
    monkeypatch.setenv("SLURM_JOB_ID", "41234")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[07-08]")
    monkeypatch.setattr(job, "slurm", lambda *command: {"hostnames": "node07\nnode08\n"}[command[2]])
    expected = ["--gpus", "8", "--nodes", "2", "--rendezvous", "node07:21234", "--resume", str(out)]
    expected += train.arguments  # the run is refused if it has others
    assert train.command()[4:] == expected


@pytest.mark.parametrize(
    ("code", "error"),
    [(0, None), (75, None), (1, "pcpad: error: no such image"), (-9, "killed by SIGKILL; pcpad: error: no such image")],
)
def test_a_study_s_job_notes_how_it_has_ended(code, error, tmp_path, monkeypatch, capfd):
    """In a file of its own, from which the study's results have it; what it said is in the log all the same."""
    note = tmp_path / "jobs/a-zeros-s0.jsonl"
    text = "import os, sys; print('first', file=sys.stderr); print('pcpad: error: no such image\\n', file=sys.stderr)\n"
    text += f"sys.stderr.flush(); os.kill(os.getpid(), {-code}) if {code} < 0 else exit({code})"
    monkeypatch.setattr(job.Evaluation, "command", lambda _: [sys.executable, "-c", text])
    monkeypatch.setattr(job, "job_state", lambda: "COMPLETING")
    evaluation = job.Evaluation(str(tmp_path / "run"), [], str(note))
    fails = pytest.raises(RuntimeError, match=f"pcpad eval has failed with exit code {code}")
    with fails if error else nullcontext():
        evaluation()
    (line,) = map(json.loads, note.read_text().splitlines())
    assert (line["name"], line["task"], line["exit_code"], line["error"]) == ("a-zeros-s0", "eval", code, error)
    assert (line["resumed"], line["seconds"] >= 0, line["log"]) == (False, True, "")
    assert "first\npcpad: error: no such image\n" in capfd.readouterr().err
    monkeypatch.setenv("SLURM_PROCID", "1")  # the second node of a job says nothing
    with fails if error else nullcontext():
        evaluation()
    assert len(note.read_text().splitlines()) == 1


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
