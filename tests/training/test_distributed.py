"""Two processes on the CPU: what one process gives, exact resume, and failures that stop both."""

import json
import shutil

import pytest
import torch

from pcpad.cli import main
from pcpad.training.signals import STOPPED
from tests.training import tasks
from tests.training.conftest import difference
from tests.training.pair import Pair
from tests.training.test_resume import curves, last


@pytest.fixture(scope="module")
def pair():
    made = Pair()
    yield made
    made.close()


@pytest.fixture
def argv(data):
    """The arguments of a small training."""

    def make(out: str, **options) -> list[str]:
        settings = {
            "model": "timm/test_resnet",
            "data": data,
            "data.workers": 1,
            "data.loader": "torchvision",
            "device": "cpu",
            "recipe": "textures",
            "size": 32,
            "batch_size": 8,
            "epochs": 2,
            "out": out,
            "optim.lr": 0.01,
        }
        return ["train", *(f"--{k}={v}" for k, v in {**settings, **options}.items())]

    return make


@pytest.mark.parametrize("ways", [{}, {"accumulate": 2}], ids=["whole", "in parts"])
def test_two_processes_give_the_weights_of_one(pair, argv, tmp_path, monkeypatch, ways):
    """Half the batch each, in float64: the weights, the curves and the counts, to rounding."""
    options = {"model": "resnet18", "padding": "partial", "optim.momentum": 0.9, "label_smoothing": 0.1}
    monkeypatch.chdir(tmp_path)
    assert tasks.cli_in_float64(argv("one", **options), tmp_path)["code"] == 0
    found = pair("cli_in_float64", argv("two", **options, **ways), tmp_path)
    assert [f["code"] for f in found] == [0, 0]
    parts = "2 processes x 2 parts x 2 images" if ways else "2 processes x 4 images"
    assert f"batch of a step: 8 = {parts}; peak learning rate: 0.01" in found[0]["out"]
    assert found[1]["out"] == ""  # the main process speaks
    one, two = last(tmp_path / "one"), last(tmp_path / "two")
    assert all(p.dtype == torch.float64 for p in one["model"].values())
    torch.testing.assert_close(two["model"], one["model"], rtol=1e-10, atol=1e-12)
    for entry, other in zip(curves(tmp_path / "one"), curves(tmp_path / "two"), strict=True):
        known = [value for value in entry if value is not None]
        assert known == pytest.approx([value for value in other if value is not None], rel=1e-7)  # float32
    start = tasks.small_network().state_dict()
    assert max(float((one["model"][k] - start[k]).abs().max()) for k in start) > 1e-3
    assert (two["world"], len(two["ranks"])) == (2, 2)


@pytest.mark.slow
def test_another_order_would_be_seen(pair, argv, tmp_path):
    """The control: with another seed of the order the weights are others."""
    options = {"model": "resnet18", "padding": "partial", "epochs": 2}
    for out, seed in (("a", 0), ("b", 1)):
        pair("cli_in_float64", argv(out, **options, seed=seed), tmp_path)
    a, b = (last(tmp_path / name)["model"] for name in "ab")
    assert max(float((a[k] - b[k]).abs().max()) for k in a) > 1e-6


@pytest.mark.parametrize("at", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize("loader", ["torchvision", pytest.param("dali", marks=pytest.mark.slow)])
def test_a_signal_to_one_rank_stops_both_after_one_step(pair, argv, tmp_path, loader, at):
    """And the resumed run ends as the undisturbed one, bit for bit."""
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    options = {"data.loader": loader, "ema": 0.9, "padding": "partial"}
    for found in pair("cli", argv("whole", **options), tmp_path):
        assert found["code"] == 0, found["err"]
    step = 2 + 3 * at  # within the first epoch, and the first of the second
    found = pair("cli_signalled", argv("cut", **options), tmp_path, step, at)
    assert [(f["code"], f["steps"]) for f in found] == [(STOPPED, step)] * 2
    assert f"stopped by SIGTERM after step {step}" in found[0]["err"]
    assert json.loads((tmp_path / "cut/requeue.json").read_text())["signal"] == "SIGTERM"
    found = pair("cli", ["train", "--resume", "cut"], tmp_path)
    assert [f["code"] for f in found] == [0, 0], found[0]["err"]
    assert not (tmp_path / "cut/requeue.json").exists()
    assert difference(last(tmp_path / "cut"), last(tmp_path / "whole")) is None
    assert curves(tmp_path / "cut") == curves(tmp_path / "whole")


def test_another_number_of_processes_goes_on_from_an_epoch(pair, argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = {"epochs": 3, "padding": "partial"}
    found = pair("cli_signalled", argv("cut", **options), tmp_path, 2, 0)
    assert main(["train", "--resume", "cut"]) == 1
    assert "inside epoch 1, with 2 processes; with 1 it can go on from the end of an epoch only, and there is no" in (
        capsys.readouterr().err
    )
    found = pair("cli_signalled", ["train", "--resume", "cut"], tmp_path, 4, 0)  # after step 6: inside epoch 2
    assert [f["code"] for f in found] == [STOPPED, STOPPED]
    assert main(["train", "--resume", "cut"]) == 0
    out = capsys.readouterr().out
    assert "note: the run was stopped inside epoch 2, with 2 processes" in out
    assert "with 1 it can go on from the end of an epoch only: what was done after step 4 is done again" in out
    assert last(tmp_path / "cut")["step"] == 12


@pytest.mark.slow
def test_two_processes_mix_apart_and_go_on_exactly(pair, argv, tmp_path):
    """Each rank draws its own; stopped where the size of the images changes, the run ends as one that was not."""
    options = {"padding": "partial", "size": 64, "progressive.start": 32, "progressive.from_epoch": 1}
    options |= {"progressive.to_epoch": 1, "mix.mixup": 0.8, "mix.cutmix": 1, "augment.erase": 0.5}
    options |= {"model_kwargs.drop_path_rate": 0.3, "augment.randaugment": 1, "optim.name": "adamw"}
    found = pair("cli_mixing", argv("whole", **options), tmp_path)
    assert [f["code"] for f in found] == [0, 0]
    shares = [f["shares"] for f in found]
    assert len(shares[0]) == len(shares[1]) == 8
    assert not set(shares[0]) & set(shares[1]) - {1.0}
    found = pair("cli_signalled", argv("cut", **options), tmp_path, 4, 1)
    assert [f["code"] for f in found] == [STOPPED, STOPPED]
    found = pair("cli_mixing", ["train", "--resume", "cut"], tmp_path)
    assert [f["shares"] for f in found] == [share[4:] for share in shares]
    assert difference(last(tmp_path / "cut"), last(tmp_path / "whole")) is None


@pytest.mark.parametrize(("what", "step", "at"), [("loss", 6, 1), ("gradient", 2, 0)])
def test_what_is_not_finite_stops_both_before_the_weights(pair, argv, tmp_path, what, step, at):
    found = pair("cli_not_finite", argv("run"), tmp_path, what, step, at)
    said = "the loss is nan" if what == "loss" else "the gradient's norm is not finite"
    for one in found:
        assert one["code"] == 1
        assert f"{said} at step {step} (epoch {1 + step // 5}), rank {at}: training has diverged" in one["err"]
        assert one["kept"]
    if what == "loss":
        assert "the last checkpoint is kept (run/checkpoints/step-00000004-epoch.pt)" in found[0]["err"]
        assert all(bool(p.isfinite().all()) for p in last(tmp_path / "run")["model"].values())
    else:
        assert "there is no checkpoint yet" in found[0]["err"]
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("loader", "split"),
    [
        ("dali", "train"),
        pytest.param("torchvision", "train", marks=pytest.mark.slow),
        *(pytest.param(loader, "val", marks=pytest.mark.slow) for loader in ("torchvision", "dali")),
    ],
)
def test_a_file_that_goes_bad_stops_both_and_is_named(pair, argv, tmp_path, data, loader, split):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / split / "down/3.jpg").write_bytes(b"<html>404</html>")
    options = {"data": tmp_path / "data", "data.check": "none", "data.loader": loader}
    for found in pair("cli", argv("run", **options), tmp_path):
        assert found["code"] == 1
        assert found["err"].startswith("pcpad: error: damaged image ")
        assert f"data/{split}/down/3.jpg: not an image, or its header is damaged" in found["err"]
        assert found["err"].count("\n") == 1
    assert (tmp_path / "run/checkpoints").exists() == (split == "val")  # the epoch's training is kept


def test_every_validation_image_counts_once(pair):
    """Any number of images and batch size: the single process's integers; also where a rank has no image."""
    cases = [(n, b) for n in (1, 2, 3, 7, 12, 23) for b in (1, 2, 5, 16)]
    alone = tasks.counts(cases)
    for found in pair("counts", cases):
        for one, other in zip(found, alone, strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)  # float32
            assert {**one, "loss": 0.0} == {**other, "loss": 0.0}
    assert pair("duplicated") == ["saw 8 images, 4 of them different, of 4"] * 2


def test_one_start_of_two_proceeds(pair, argv, tmp_path):
    """Each process a training of its own, on one folder; the other one leaves it alone."""
    found = pair("cli", argv("run"), tmp_path, together=False)
    assert sorted(f["code"] for f in found) == [0, 1]
    loser = next(f for f in found if f["code"])
    assert "run is in use by process " in loser["err"] or "run exists and is not empty" in loser["err"]
    assert last(tmp_path / "run")["epoch"] == 2


def test_ranks_draw_different_random_numbers(pair):
    first, second = pair("random_numbers", 0)
    assert not set(first) & set(second)
    assert pair("random_numbers", 0) == [first, second]
    assert not set(first) & set(pair("random_numbers", 1)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 9}, "cannot be shared by 2 processes in 1 parts each: choose 8 or 10"),
        (
            {"sync_bn": "true"},
            "sync_bn does not exist on the device cpu: torch's SyncBatchNorm takes CUDA",
        ),
        ({"batch_size": 40}, "36 training images of 2 processes do not fill one batch of 20 on each"),
        ({"padding": "partail"}, "unknown padding mode 'partail'"),
        ({"data": "no/such"}, "neither textures, elpv, cifar10, imagenette, imagenet nor a folder"),
    ],
)
def test_a_mistake_leaves_nothing_behind(pair, argv, tmp_path, options, message):
    for found in pair("cli", argv("run", **options), tmp_path):
        assert found["code"] == 1
        assert message in found["err"]
    assert list(tmp_path.iterdir()) == []
