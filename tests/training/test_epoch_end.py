"""What can go wrong between the last step of an epoch and its checkpoint."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch

from pcpad.cli import main
from pcpad.data.contract import shuffled
from pcpad.data.manifest import class_folders, list_images
from pcpad.training import ending, watch
from pcpad.training.signals import STOPPED
from tests.data.made import train_loader
from tests.training.conftest import difference

PARTS = {"batch_size": 8, "accumulate": 2}
"""Of 36 images an epoch has nine batches of four, and no step takes the last."""


def last(folder) -> dict:
    return torch.load(folder / "checkpoints/last.pt", weights_only=True)


def left_over(name: str, root) -> list[str]:
    """Training images of the first epoch that no step takes, and that are read all the same."""
    images = list_images(root / "train", {folder: i for i, folder in enumerate(class_folders(root / "train"))})
    if name == "torchvision":
        rows = shuffled(36, 0, 0, 0, 1, 36)[32:]
    else:
        dali = pytest.importorskip("pcpad.data.dali", exc_type=ImportError)
        loader = train_loader(dali, images.files, batch_size=8, workers=1, labels=np.array(images.labels))
        rows = set(range(36)) - {int(i) for batch in loader.epoch(0) for i in batch.index}
    return [images.files[row] for row in rows]


@pytest.mark.parametrize(("loader", "options"), [("torchvision", PARTS), ("dali", {"batch_size": 8})])
def test_a_damaged_image_that_no_step_takes_is_named(call, data, tmp_path, capsys, loader, options):
    shutil.copytree(data, tmp_path / "images")
    for path in (found := left_over(loader, tmp_path / "images")):
        with open(path, "wb") as file:
            file.write(b"<html>404</html>")
    assert len(found) == 4
    options = options | {"data": tmp_path / "images", "data.loader": loader, "data.check": "none"}
    assert call("train", **options) == 1
    err = capsys.readouterr().err
    assert any(f"pcpad: error: damaged image {path}: not an image" in err for path in found), err


def test_workers_that_a_signal_ends_at_the_end_of_an_epoch(call, tmp_path, monkeypatch, capsys):
    """A system that ends all processes of a job ends those that decode too: what was trained is kept all the same."""
    assert call("train", **PARTS) == 0
    whole = last(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    original, ends = watch.Watch.fetch, []

    def fetch(self, batches, count):
        if count or ends:
            return original(self, batches, count)
        ends.append(self.training.state.step)
        os.kill(os.getpid(), signal.SIGTERM)
        self.training.job.train_loader._progress.stop("its workers are gone")
        return [], RuntimeError("DataLoader worker is killed by signal")

    monkeypatch.setattr(watch.Watch, "fetch", fetch)
    assert call("train", **PARTS) == STOPPED
    assert "stopped by SIGTERM after step 4; all that is needed to go on is saved" in capsys.readouterr().err
    assert main(["train", "--resume", "run"]) == 0
    assert ends == [4]
    assert difference(last(tmp_path / "run"), whole) is None


def test_an_evaluation_without_memory_leaves_the_trained_epoch(call, tmp_path, monkeypatch, capsys):
    assert call("train") == 0
    whole = last(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")

    def count(*_, **__):
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(ending, "count", count)
        assert call("train") == 1
    assert "the GPU has too little memory: lower --batch_size" in capsys.readouterr().err
    assert last(tmp_path / "run")["step"] == 4
    assert main(["train", "--resume", "run"]) == 0
    assert difference(last(tmp_path / "run"), whole) is None
