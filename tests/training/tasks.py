"""What a pair of processes can be asked to do. Each runs in both, with RANK and WORLD_SIZE set."""

import os
import signal
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from pcpad import models
from pcpad.cli import main
from pcpad.data import reference
from pcpad.data.batch import Batch
from pcpad.evaluation.counts import count
from pcpad.training import loop
from pcpad.training.distributed import this_world
from tests.training.pair import captured

ON_CPU = {"device": torch.device("cpu"), "channels_last": False}


def rank() -> int:
    return int(os.environ.get("RANK", "0"))


def cli(argv: list[str], folder) -> dict:
    """A command of pcpad in a folder: exit code and what it printed."""
    os.chdir(folder)
    with captured() as (out, err):
        code = main(argv)
    return {"code": code, "out": out.getvalue(), "err": err.getvalue()}


def cli_signalled(argv: list[str], folder, step: int, at: int) -> dict:
    """The command; rank `at` gets SIGTERM after its optimizer step `step`."""
    done, original = [], loop.optimizer_step

    def stepping(state):
        original(state)
        done.append(None)
        if len(done) == step and rank() == at:
            os.kill(os.getpid(), signal.SIGTERM)

    with patch.object(loop, "optimizer_step", stepping):
        return cli(argv, folder) | {"steps": len(done)}


def cli_not_finite(argv: list[str], folder, what: str, step: int, at: int) -> dict:
    """The command; at a step, rank `at` meets a loss or a gradient that is not finite."""
    steps, weights, original = [], {}, loop.backward
    original_step = loop.optimizer_step

    def backward(model, images, labels, *args, **kwargs):
        steps.append(None)
        if what == "loss" and len(steps) == step and rank() == at:
            images = images * float("nan")
        bad = what == "gradient" and len(steps) >= step and rank() == at
        handle = model.register_forward_hook(lambda _, __, y: broken(y)) if bad else None
        try:
            return original(model, images, labels, *args, **kwargs)
        finally:
            if handle:
                handle.remove()

    def broken(y):
        if y.requires_grad:
            y.register_hook(lambda g: g * float("inf"))
        return y

    def optimizer_step(state):
        weights["before"] = [p.detach().clone() for p in state.model.parameters()]
        original_step(state)
        weights["after"] = [p.detach().clone() for p in state.model.parameters()]

    with patch.object(loop, "backward", backward), patch.object(loop, "optimizer_step", optimizer_step):
        found = cli(argv, folder)
    kept = all(torch.equal(a, b) for a, b in zip(weights["before"], weights["after"], strict=True))
    return found | {"steps": len(steps), "kept": kept}


def cli_mixing(argv: list[str], folder) -> dict:
    """The command; and of each batch of this rank the larger share of its first image's labels."""
    shares, original = [], loop.backward

    def noting(model, images, labels, *args, **kwargs):
        shares.append(round(float(labels[0].max()), 9))
        return original(model, images, labels, *args, **kwargs)

    with patch.object(loop, "backward", noting):
        return cli(argv, folder) | {"shares": shares}


def small_network() -> nn.Module:
    """Without batch statistics, in float64."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1, stride=2), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.GELU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 3)).double()


def cli_in_float64(argv: list[str], folder) -> dict:
    """The command with `small_network` and images in float64."""
    finish = reference._Finish.__call__

    def double(self, item):
        batch = finish(self, item)
        return Batch(batch.images.double(), batch.labels, batch.index)

    with ExitStack() as stack:
        stack.enter_context(patch.object(models, "build", lambda *_: small_network()))
        stack.enter_context(patch.object(reference._Finish, "__call__", double))
        stack.enter_context(patch("pcpad.training.run.probe", lambda *_: None))
        return cli(argv, folder)


def counts(cases: list[tuple[int, int]]) -> list[dict]:
    """Evaluations of n images in batches of b by a fixed linear model: their integers, and images seen by this rank."""
    world, found = this_world(torch.device("cpu")), []
    try:
        for n, b in cases:
            data = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(n))
            labels = torch.arange(n) % 6
            torch.manual_seed(1)
            model = nn.Sequential(nn.Flatten(), nn.Linear(16, 6))
            own = range(world.rank, n, world.size)
            rows = [torch.tensor(own[i : i + b], dtype=torch.int64) for i in range(0, len(own), b)]
            batches = [Batch(data[r], labels[r], r) for r in rows]
            made = count(
                model, batches, expected=n, num_classes=6, device=torch.device("cpu"), world=world, channels_last=False
            )
            found.append(
                {
                    "n": made.n,
                    "top1": made.top1,
                    "top5": made.top5,
                    "predictions": made.predictions.tolist(),
                    "loss": made.loss,
                }
            )
    finally:
        world.close()
    return found


def duplicated() -> str:
    """An evaluation in which both ranks see the same images."""
    world = this_world(torch.device("cpu"))
    rows = torch.arange(4)
    batches = [Batch(torch.zeros(4, 16), rows % 3, rows)]
    try:
        count(
            nn.Linear(16, 3),
            batches,
            expected=4,
            num_classes=3,
            device=torch.device("cpu"),
            world=world,
            channels_last=False,
        )
    except RuntimeError as error:
        return str(error)
    finally:
        world.close()
    return ""


def damage(path: str) -> None:
    """Write over a file, once for both."""
    if rank() == 0:
        Path(path).write_bytes(b"<html>404</html>")


def random_numbers(seed: int) -> list[float]:
    """The first random numbers of an epoch on this rank."""
    from pcpad.training.state import seed_epoch

    seed_epoch(seed, 3, rank())
    return [float(torch.rand(())), float(np.random.rand())]
