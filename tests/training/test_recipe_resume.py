"""Everything that a recipe may ask for at once: stopped and resumed, a run ends as one that was not, bit for bit."""

import json

import pytest
import torch

from pcpad.cli import main
from pcpad.evaluation.fields import read_records
from pcpad.training import checkpoint, loop
from pcpad.training.signals import STOPPED
from tests.training.conftest import difference
from tests.training.test_resume import curves, last, signalled  # noqa: F401

RECIPE = {
    "padding": "partial",
    "epochs": 2,
    "size": 64,
    "progressive.start": 32,
    "progressive.from_epoch": 1,
    "progressive.to_epoch": 1,
    "model_kwargs.drop_path_rate": 0.3,
    "model_kwargs.drop_rate": 0.2,
    "augment.randaugment": 2,
    "augment.erase": 0.5,
    "mix.mixup": 0.8,
    "mix.cutmix": 1.0,
    "label_smoothing": 0.1,
    "optim.name": "lamb",
    "schedule.name": "poly",
    "schedule.options.decay_rate": 1.0,
    "schedule.warmup_epochs": 1,
    "ema": 0.9,
}
STEPS = 4  # of an epoch: 36 images in batches of 8
QUICK = [("dali", STEPS)]  # where the size changes
CUTS = [(loader, cut) for loader in ("torchvision", "dali") for cut in range(1, 2 * STEPS + 1)]


@pytest.fixture(scope="module")
def whole():
    """Loader to the last checkpoint, curves and records of a run that was not stopped."""
    return {}


def sizes_seen(monkeypatch) -> list[int]:
    """Sides of the images that the network is trained on, as they come."""
    seen, original = [], loop.backward

    def noting(model, images, *args, **kwargs):
        seen.append(images.shape[-1])
        return original(model, images, *args, **kwargs)

    monkeypatch.setattr(loop, "backward", noting)
    return seen


@pytest.mark.parametrize(
    ("loader", "cut"), [pytest.param(*case, marks=[pytest.mark.slow] * (case not in QUICK)) for case in CUTS]
)
def test_stopped_and_resumed(call, whole, tmp_path, signalled, monkeypatch, loader, cut):  # noqa: F811
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    options = RECIPE | {"data.loader": loader}
    if loader not in whole:
        with monkeypatch.context() as patch:
            seen = sizes_seen(patch)
            assert call("train", **options, out="whole") == 0
        assert seen == [32] * STEPS + [64] * STEPS
        whole[loader] = last(tmp_path / "whole"), curves(tmp_path / "whole"), read_records(tmp_path / "whole")
    with monkeypatch.context():
        signalled(cut)
        assert call("train", **options, out="cut") == STOPPED
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1234)  # no state outside the checkpoint may matter
    assert main(["train", "--resume", "cut"]) == 0
    content, lines, records = whole[loader]
    assert difference(last(tmp_path / "cut"), content) is None
    assert curves(tmp_path / "cut") == lines
    again = read_records(tmp_path / "cut")
    assert [(r["step"], r["top1"], r["loss"], r["size"]) for r in again] == [
        (r["step"], r["top1"], r["loss"], "64") for r in records
    ]
    run = json.loads((tmp_path / "cut/run.json").read_text())
    assert run["augmented_by"]["randaugment"].startswith({"dali": "DALI 2", "torchvision": "timm 1"}[loader])
    for record in again:
        assert record["augmented_by"] == run["augmented_by"]
        assert set(record["augmented_by"]) == {"randaugment", "erase", "mix"}


@pytest.mark.parametrize("lost", ["droppath", pytest.param("step", marks=pytest.mark.slow)])
def test_what_is_drawn_inside_an_epoch_matters(call, tmp_path, signalled, monkeypatch, lost):  # noqa: F811
    """The control: without the state of drop path's numbers, or with mixing of another step, the run ends elsewhere."""
    options = {k: v for k, v in RECIPE.items() if not k.startswith(("progressive", "schedule", "augment"))}
    options |= {"epochs": 1, "size": 32, "schedule.warmup_epochs": 0}
    assert call("train", **options, out="whole") == 0
    with monkeypatch.context():
        signalled(2)
        assert call("train", **options, out="cut") == STOPPED
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    (path,) = (tmp_path / "cut/checkpoints").glob("step-*.pt")
    content = torch.load(path, weights_only=True)
    assert content["network"]["model_kwargs"] == {"drop_path_rate": 0.3, "drop_rate": 0.2}
    if lost == "droppath":
        content["ranks"][0]["random"]["torch"] = torch.Generator().manual_seed(5).get_state()
        checkpoint.save(path, content)
    else:
        original = loop.make_mixing

        def other_steps(*args):
            mix = original(*args)
            return lambda part, seed, epoch, step, *rest: mix(part, seed, epoch, step + 100, *rest)

        monkeypatch.setattr(loop, "make_mixing", other_steps)
    assert main(["train", "--resume", "cut"]) == 0
    assert difference(last(tmp_path / "cut"), last(tmp_path / "whole")) is not None
