"""A small study in an empty folder."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pcpad.config import to_dict
from pcpad.study import children, launch
from pcpad.study.plan import load_plan
from tests.training.conftest import make_stripes

TINY = {
    "title": "Tiny",
    "question": "Does it run?",
    "recipe": "textures",
    "settings": {"size": 32, "epochs": 2, "batch_size": 12, "optim.lr": 0.01, "data.loader": "torchvision"},
    "grid": {"model": ["timm/test_byobnet"], "padding": ["zeros", "partial"], "seed": [0]},
    "tables": ["training"],
}


@pytest.fixture(scope="session")
def stripes(tmp_path_factory) -> Path:
    """Three classes, 12 training and 7 validation images each."""
    return make_stripes(tmp_path_factory.mktemp("stripes"))


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write experiments/NAME/study.yaml, TINY with what is given in its place (None leaves a key out)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))  # for processes that are started here

    def make(name: str = "tiny", **changes) -> Path:
        content = {key: value for key, value in {**TINY, **changes}.items() if value is not None}
        folder = Path("experiments", name)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "study.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        (folder / "README.md").write_text("# Tiny\n\n<!-- table: begin -->\n<!-- table: end -->\n\nThe end.\n")
        return folder

    return make


@pytest.fixture
def fake(monkeypatch):
    """Let studies start `fake.py`; gives a function that says what single runs are to do there."""

    def load_and_tell(*args):
        plan = load_plan(*args)
        told = {run.name: [to_dict(run.settings), run.digest("torchvision")] for run in plan.runs}
        Path("plan.json").write_text(json.dumps(told))
        return plan

    monkeypatch.setattr(launch, "load_plan", load_and_tell)
    monkeypatch.setattr(launch, "check_names", lambda plan: None)  # takes seconds; test_plan looks names up
    monkeypatch.setattr(launch, "check_data", lambda name: None)
    monkeypatch.setattr(children, "PROGRAM", (sys.executable, str(Path(__file__).with_name("fake.py"))))
    return lambda **told: Path("fake.json").write_text(json.dumps(told))


@pytest.fixture
def finished(write):
    """Make the folder of a finished run by hand; gives its plan and its study's folder."""
    folder = write(data="/images", evaluate={"paddings": ["zeros", "partial"], "sizes": [32]})
    plan = load_plan("tiny")
    for run in plan.runs:
        settings = {"data": {"loader": "torchvision"}}
        about = {"id": run.name, "settings_digest": run.digest("torchvision"), "settings": settings, "hardware": "h"}
        (run.folder / "records").mkdir(parents=True)
        (run.folder / "run.json").write_text(json.dumps(about | {"versions": {"torch": "2"}, "commit": "c0ffee"}))
        shared = {"run": run.name, "n": 4, "top5": None, "loss": 0.5, "size": "32", "loader": "torchvision"}
        shared |= {"manifest_digest": "m", "run_digest": about["settings_digest"], "settings_digest": "s"}
        shared |= {"schema": 1, "model": run.model}
        lines = [{"checkpoint": "epoch", "step": step, "top1": step // 3, "padding": run.padding} for step in (3, 6)]
        for padding, top in (("zeros", [0, 1, 1, 0]), ("partial", [0, 0, 0, 1])):
            file = f"records/{padding}.npz"
            np.savez(run.folder / file, label=np.array([0, 1, 0, 1]), top5=np.array(top)[:, None], index=np.arange(4))
            right = int((np.array([0, 1, 0, 1]) == top).sum())
            lines.append({"checkpoint": "last", "step": 6, "top1": right, "padding": padding, "predictions": file})
        text = "".join(json.dumps({**shared, **line}) + "\n" for line in lines)
        (run.folder / "records.jsonl").write_text(text)
    return plan, folder
