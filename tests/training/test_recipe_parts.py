"""timm's optimizers and schedules, sizes by epoch, and the digests of runs from before there were any."""

import io
import json
from dataclasses import replace
from math import sqrt

import pytest
import torch
import yaml
from torch import nn

from pcpad.cli import main
from pcpad.config import (
    AugmentSettings,
    MixSettings,
    OptimSettings,
    ProgressiveSettings,
    ScheduleSettings,
    TrainSettings,
    digest,
    result_part,
    to_dict,
)
from pcpad.training.optimizer import make_optimizer
from pcpad.training.runfolder import changed_settings
from pcpad.training.schedule import learning_rate
from pcpad.training.signals import STOPPED
from pcpad.training.sizes import SizeOf, sizes_trained_at, which_sizes
from tests.training.test_resume import signalled  # noqa: F401


def test_one_adamw_step_by_hand():
    """Decoupled decay of weights alone; the first step of Adam moves by the rate, the second by its formula."""
    net = nn.Linear(1, 1)
    with torch.no_grad():
        net.weight.fill_(2.0)
        net.bias.fill_(1.0)
    settings = OptimSettings(name="adamw", lr=0.5, weight_decay=0.1, decay="weights", options={"betas": [0.8, 0.9]})
    optimizer = make_optimizer(net, settings)
    w = 2.0
    for step, gradient in ((1, 3.0), (2, 5.0)):
        optimizer.zero_grad()
        net(torch.tensor([[gradient]])).sum().backward()
        optimizer.step()
        m = 3 * 0.2 if step == 1 else 3 * 0.2 * 0.8 + 5 * 0.2
        v = 9 * 0.1 if step == 1 else 9 * 0.1 * 0.9 + 25 * 0.1
        w = w * (1 - 0.5 * 0.1) - 0.5 * m / (1 - 0.8**step) / sqrt(v / (1 - 0.9**step))
        assert net.weight.item() == pytest.approx(w, rel=1e-5)
    assert net.bias.item() == pytest.approx(1 - 0.5 - 0.5, rel=1e-5)  # its gradient is 1: no decay


def test_groups_of_timms_optimizers_go_by_module_type():
    net = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.PReLU())
    for name in ("adamw", "lamb", "lookahead_adam"):
        optimizer = make_optimizer(net, OptimSettings(name=name, weight_decay=0.3, decay="weights"))
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert [decays[id(p)] for p in net.parameters()] == [0.3, 0, 0, 0, 0]


def steps(net: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> None:
    for number in numbers:
        for group in optimizer.param_groups:
            group["lr"] = 0.01 / (1 + number)
        optimizer.zero_grad()
        net(torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(number))).square().mean().backward()
        optimizer.step()


def goes_on(name: str) -> list[bool]:
    """Whether training ends with the same bits after a stop, with the optimizer's saved state and without it."""

    def made():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(64, 2))
        return net, make_optimizer(net, OptimSettings(name=name, lr=0.01))

    whole, optimizer = made()
    steps(whole, optimizer, range(4))
    saved, generator = (
        ({k: v.clone() for k, v in whole.state_dict().items()}, as_stored(optimizer)),
        torch.get_rng_state(),
    )
    steps(whole, optimizer, range(4, 9))
    ends = []
    for keep in (True, False):
        again, optimizer = made()
        again.load_state_dict(saved[0])
        if keep:
            optimizer.load_state_dict(saved[1])
        torch.set_rng_state(generator)
        steps(again, optimizer, range(4, 9))
        ends.append(all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True)))
    return ends


@pytest.mark.parametrize("name", ["adamw", "lamb", "lion", "muon", "rmsproptf", "adafactor", "lookahead_radam"])
def test_an_optimizer_goes_on_from_its_saved_state(name):
    assert goes_on(name) == [True, False]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_every_optimizer_of_timm_goes_on_from_its_saved_state():
    """All but those of apex and bitsandbytes, which want CUDA."""
    from timm.optim import get_optimizer_info, list_optimizers

    names = list_optimizers(exclude_filters=["bnb*", "fused*"])
    exact = {name: goes_on(name)[0] for name in names if not get_optimizer_info(name).second_order}
    assert [name for name, same in exact.items() if not same] == []
    assert len(exact) > 50


def as_stored(optimizer: torch.optim.Optimizer) -> dict:
    """Its state as a checkpoint gives it back."""
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamv"}, r"did you mean 'adam\w*'"),
        ({"name": "adahessian"}, "'adahessian': choose sgd or one of timm's"),  # it wants second derivatives
        ({"name": "adamw", "options": {"betaz": [0.9, 0.9]}}, "adamw with optim.options .*betaz"),
        ({"name": "adamw", "options": {"betas": [2.0, 0.9]}}, "adamw with optim.options .*[Ii]nvalid beta"),
        ({"name": "adamw", "options": {"betas": [0.9]}}, "adamw with optim.options .*out of range"),
        ({"name": "adamw", "options": {"betas": [0.9, 0.9, 0.9]}}, "adamw with optim.options .*"),
        ({"name": "adamw", "options": {"differentiable": True}}, "adamw with optim.options .*"),
        ({"name": "adagrad", "options": {"fused": True}}, "adagrad with optim.options .*it cannot be fused"),
        ({"name": "momentum", "options": {"fused": True, "dampening": 0.5}}, "it cannot be fused, or not with these"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_named(settings, message):
    wanted = OptimSettings(**settings)
    with pytest.raises(ValueError, match=message):
        make_optimizer(nn.Linear(2, 2), wanted)


def test_a_line_to_zero():
    plan = ScheduleSettings(name="poly", options={"decay_rate": 1.0}, warmup_epochs=2)
    rates = [learning_rate(step, plan, 0.8, 10, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([0.8 * (step + 1) / 10 for step in range(10)])
    assert rates[10:] == pytest.approx([0.8 * (1 - step / 50) for step in range(10, 50)])


def test_timms_schedules_depend_on_the_step_alone():
    """Noise included: asked in any order, and for another run in between."""
    noisy = {"noise": [0.0, 1.0], "noise_std": 0.1}
    for name, options in (
        ("tanh", noisy),
        ("multistep", {"decay_milestones": [2, 3]}),
        ("wsd", {}),
        ("rsqrt", {"stable_timescale": 1}),
    ):
        plan = ScheduleSettings(name=name, options=options)
        forward = [learning_rate(step, plan, 0.1, 4, 10) for step in range(40)]
        order = torch.randperm(40, generator=torch.Generator().manual_seed(0)).tolist()
        again = {}
        for step in order:
            again[step] = learning_rate(step, plan, 0.1, 4, 10)
            learning_rate(step, replace(plan, min_lr=0.01), 0.3, 4, 10)
        assert [again[step] for step in range(40)] == forward
        assert len(set(forward)) > 2
    milestones = ScheduleSettings(name="multistep", options={"decay_milestones": [2, 3]})
    rates = [learning_rate(10 * epoch, milestones, 0.1, 4, 10) for epoch in range(4)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_a_schedule_that_cannot_be_made_is_named(call, capsys, tmp_path):
    for options, message in (
        ({"schedule.name": "plateau"}, "schedule.name"),
        ({"schedule.name": "poly", "schedule.options.foo": 1}, "timm's schedule poly with schedule.options {'foo': 1}"),
        ({"schedule.name": "tanh", "schedule.options.noise.foo": 1}, "timm's schedule tanh cannot use"),
        ({"schedule.name": "step", "schedule.options.foo": 1}, "schedule.options must be empty for step"),
        ({"progressive.end": 16}, "need progressive.start"),
        ({"optim.name": "adamv"}, "did you mean 'adam"),
    ):
        assert call("train", **options) != 0
        assert message in capsys.readouterr().err
        assert not (tmp_path / "run").exists()


def test_sizes_by_epoch():
    """ffcv-imagenet's 160 to 192; a rise over epochs in multiples of 32; no start, no change."""
    short = SizeOf(ProgressiveSettings(start=160, end=192, from_epoch=32, to_epoch=32), 224)
    assert [short(epoch) for epoch in (0, 31, 32, 39)] == [160, 160, 192, 192]
    rising = SizeOf(ProgressiveSettings(start=100, end=230, from_epoch=1, to_epoch=5), 256)
    assert [rising(epoch) for epoch in range(7)] == [100, 100, 128, 160, 192, 230, 230]
    to_size = TrainSettings(size=96, epochs=4, progressive=ProgressiveSettings(start=32, from_epoch=0, to_epoch=2))
    assert sizes_trained_at(to_size) == [32, 64, 96]
    assert sizes_trained_at(TrainSettings(size=96, epochs=4)) == [96]
    assert which_sizes(to_size) == (  # (32^2 + 64^2 + 2 x 96^2) / (4 x 96^2)
        "pixels of training images: 32 in epoch 1, 64 in epoch 2, 96 in epochs 3 to 4; 64% of those of training at 96"
    )


def test_a_size_that_the_padding_cannot_fill_is_known_before_the_run(call, capsys, tmp_path):
    """Reflect wants a map larger than its pad, in every epoch's size."""
    assert call("train", padding="reflect", size=64, **{"progressive.start": 8, "progressive.to_epoch": 1}) == 1
    assert "cannot run with reflect padding at size 8" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


BEFORE = "bac6252902b6"
"""Digest of the default settings in the last version that had none of these settings."""


def test_digests_of_older_runs_stand():
    plain = TrainSettings()
    assert digest(plain) == BEFORE
    for changed in (
        {"mix": MixSettings(mixup=0.2)},
        {"augment": AugmentSettings(randaugment=1)},
        {"progressive": ProgressiveSettings(start=64)},
        {"optim": OptimSettings(name="adamw")},
        {"schedule": ScheduleSettings(name="poly", options={"decay_rate": 1.0})},
        {"model_kwargs": {"drop_path_rate": 0.1}},
        {"loss": "bce"},
    ):
        assert digest(replace(plain, **changed)) != BEFORE


def older(settings: dict) -> dict:
    """Saved settings as a version wrote them that had none of these."""
    kept = {k: v for k, v in settings.items() if k not in ("mix", "progressive", "model_kwargs", "loss", "adapt")}
    kept["optim"] = {k: v for k, v in kept["optim"].items() if k not in ("name", "options")}
    kept["augment"] = {k: v for k, v in kept["augment"].items() if k in ("scale", "ratio", "hflip", "interpolation")}
    kept["schedule"] = {k: v for k, v in kept["schedule"].items() if k != "options"}
    return json.loads(json.dumps(kept))


def test_what_an_older_run_did_not_state_is_its_default():
    plain = TrainSettings()
    run = {"settings": older(to_dict(plain))}
    assert result_part(TrainSettings, run["settings"]) == json.loads(json.dumps(to_dict(plain, result_only=True)))
    assert changed_settings(run, plain) == []
    other = replace(plain, mix=MixSettings(mixup=0.2), model_kwargs={"drop_path_rate": 0.1}, epochs=3)
    assert changed_settings(run, other) == [
        "epochs: 100 -> 3",
        "mix.mixup: 0.0 -> 0.2",
        "model_kwargs.drop_path_rate: None -> 0.1",
    ]


def test_an_older_run_goes_on(call, tmp_path, monkeypatch, capsys, signalled):  # noqa: F811
    """settings.yaml and run.json without the newer keys; stopped after its first epoch."""
    with monkeypatch.context():
        signalled(4)
        assert call("train") == STOPPED
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    saved = yaml.safe_load((tmp_path / "run/settings.yaml").read_text())
    (tmp_path / "run/settings.yaml").write_text(yaml.safe_dump(older(saved)))
    run = json.loads((tmp_path / "run/run.json").read_text())
    run["settings"] = older(run["settings"])
    del run["augmented_by"]
    (tmp_path / "run/run.json").write_text(json.dumps(run))
    assert main(["train", "--resume", "run"]) == 0
    assert "epoch 2/2: top-1" in capsys.readouterr().out
    assert main(["train", "--resume", "run", "--mix.mixup", "0.2"]) == 1
    assert "the run has other settings: mix.mixup: 0.0 -> 0.2; start" in capsys.readouterr().err
    assert main(["eval", "--run", "run", "--data.loader", "torchvision", "--device", "cpu"]) == 0
