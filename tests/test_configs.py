"""Every recipe: it builds, and one step of it runs, on the meta device."""

from pathlib import Path

import pytest
import torch

import pcpad
from pcpad import models
from pcpad.arguments import parse
from pcpad.config import TrainSettings
from pcpad.training.loop import backward, optimizer_step
from pcpad.training.optimizer import make_optimizer
from pcpad.training.schedule import learning_rate
from pcpad.training.state import State

CONFIGS = Path(__file__).resolve().parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_one_step_of_every_recipe(path):
    settings = parse(TrainSettings, [], "train", [CONFIGS / "base.yaml", path])
    name = models.resolve(settings.model)
    with torch.device("meta"):
        model = models.build(name, 10)
        if settings.zero_init:
            models.zero_init_residual(model)
        pcpad.convert(model, settings.padding)
        images = torch.zeros(settings.batch_size, 3, settings.size, settings.size)
        labels = torch.zeros(settings.batch_size, dtype=torch.int64)
    state = State(model, make_optimizer(model, settings.optim), torch.amp.GradScaler("cpu", enabled=False), None)
    loss, _ = backward(model, images, labels, state.scaler, "off", settings.label_smoothing)
    optimizer_step(state)
    assert loss.shape == ()
    last = settings.epochs * 100 - 1
    assert 0 <= learning_rate(last, settings.schedule, settings.optim.lr, settings.epochs, 100) < settings.optim.lr
    models.eval_transform(name, settings.preprocess, settings.size)
    assert "TBD" not in path.read_text()
