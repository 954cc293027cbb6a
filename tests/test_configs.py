"""Every recipe: it builds, and one step of it runs, on the meta device."""

import re
from pathlib import Path

import pytest
import torch

import pcpad
from pcpad import models
from pcpad.arguments import parse
from pcpad.config import TrainSettings
from pcpad.data.batch import Batch
from pcpad.training.loop import backward, optimizer_step
from pcpad.training.mixing import check_mixing, make_mixing
from pcpad.training.optimizer import make_optimizer
from pcpad.training.schedule import check_schedule, learning_rate
from pcpad.training.sizes import SizeOf, sizes_trained_at
from pcpad.training.state import State

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_one_step_of_every_recipe(path):
    settings = parse(TrainSettings, [], "train", [CONFIGS / "base.yaml", path])
    name = models.resolve(settings.model)
    with torch.device("meta"):
        model = models.build(name, 10, None, False, settings.model_kwargs)
        if settings.zero_init:
            models.zero_init_residual(model)
        pcpad.convert(model, settings.padding)
    check_mixing(settings, 1)
    check_schedule(settings.schedule, settings.epochs)
    mix = make_mixing(settings, 10, torch.device("meta"))
    state = State(model, make_optimizer(model, settings.optim), torch.amp.GradScaler("cpu", enabled=False), None)
    for size in {*sizes_trained_at(settings), settings.size}:
        with torch.device("meta"):
            images = torch.zeros(settings.batch_size, 3, size, size)
            batch = Batch(images, torch.zeros(settings.batch_size, dtype=torch.int64), torch.arange(0))
        if mix:
            batch = mix(batch, 0)
        smoothing = settings.label_smoothing
        loss, _ = backward(model, batch.images, batch.labels, state.scaler, "off", smoothing, kind=settings.loss)
        optimizer_step(state)
        assert loss.shape == ()
    last = settings.epochs * 100 - 1
    assert 0 <= learning_rate(last, settings.schedule, settings.optim.lr, settings.epochs, 100) < settings.optim.lr
    models.eval_transform(name, settings.preprocess, settings.size)
    assert "TBD" not in path.read_text()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_recipe_says_what_it_costs_and_by_whom(path):
    """Its command takes it, a figure of its cost is measured or computed, and what is expected has a source."""
    if path.stem == "base":
        return
    head = " ".join(line.lstrip("# ") for line in path.read_text().splitlines() if line.startswith("#"))
    command, rest = head.partition("command:")[2].split("cost:")
    cost, expected = rest.split("expected:")
    assert path.stem in command.lower() or path.stem in ("paper", "textures")
    assert re.search(r"measured|computed", cost)
    assert re.search(r"hours|minutes| s\b|seconds", cost)
    assert re.search(r"not measured|experiments/|paper|chance", expected)


def test_short_costs_less_than_half_of_the_paper():
    """In pixels, by hand: 32 epochs at 160 and 8 at 192 to 100 at 224."""
    settings = [
        parse(TrainSettings, [], "train", [CONFIGS / "base.yaml", CONFIGS / f"{n}.yaml"]) for n in ("short", "paper")
    ]
    pixels = [sum(SizeOf(s.progressive, s.size)(e) ** 2 for e in range(s.epochs)) for s in settings]
    assert pixels == [32 * 160**2 + 8 * 192**2, 100 * 224**2]
    assert 0.22 < pixels[0] / pixels[1] < 0.225
