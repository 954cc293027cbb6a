"""What a training is after a step: all that has to be saved for the next step to be the same."""

import random
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from pcpad.training.distributed import World


@dataclass
class Sums:
    """What one process has summed up since its epoch began, and since its last entry in the log (the mark).

    Attributes:
        loss: sum over images, float32 on the device. hits: correct predictions, int64 on the device. images: seen.
    """

    loss: torch.Tensor
    hits: torch.Tensor
    images: int = 0
    mark: tuple[float, int, int] = (0.0, 0, 0)

    def add(self, loss: torch.Tensor, hits: torch.Tensor, images: int) -> None:
        """One step's."""
        self.loss, self.hits, self.images = self.loss + loss, self.hits + hits, self.images + images

    def since_mark(self, world: World, move: bool = False) -> tuple[float, float]:
        """Mean loss and top-1 in percent of all processes' images since the mark; all processes have to call it.

        Args:
            move: the mark, to here.
        """
        now = (self.loss.item(), self.hits.item(), self.images)
        own = [value - before for value, before in zip(now, self.mark, strict=True)]
        self.mark = now if move else self.mark
        loss, hits, images = (sum(values) for values in zip(*world.collect(own), strict=True))
        return loss / max(images, 1), 100 * hits / max(images, 1)


@dataclass
class State:
    """A training after `step` optimizer steps.

    Attributes:
        model: the network, unwrapped. average: timm's moving average of its weights, or None.
        epoch: finished epochs, evaluation included. step_in_epoch: steps of the epoch under way.
        best: top1 and epoch of the best evaluation so far.
        result: top1 and n of the last evaluation; None while an epoch is under way.
        sums: of the epoch under way.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: nn.Module | None
    epoch: int = 0
    step: int = 0
    step_in_epoch: int = 0
    best: dict = field(default_factory=lambda: {"top1": -1, "epoch": 0})
    result: dict | None = None
    sums: Sums | None = None

    @property
    def evaluated(self) -> nn.Module:
        """What is evaluated: the averaged weights where there are any."""
        return self.average.module if self.average is not None else self.model

    def save(self, loader: dict, world: World) -> dict:
        """Everything, as plain values and tensors; all processes have to call it.

        Args:
            loader: the state of this process's loader after `step`.
        """
        own = {"loader": loader, "random": random_state(self.device)}
        if self.sums is not None:
            own["sums"] = [float(self.sums.loss), int(self.sums.hits), self.sums.images, list(self.sums.mark)]
        return {
            "epoch": self.epoch,
            "step": self.step,
            "step_in_epoch": self.step_in_epoch,
            "best": self.best,
            "top1": self.result and self.result["top1"],
            "n": self.result and self.result["n"],
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.average and self.average.state_dict(),
            "world": world.size,
            "ranks": world.collect(own),
        }

    def load(self, content: dict, world: World) -> None:
        """Go back to what `save` gave; the random state of an epoch under way included."""
        self.model.load_state_dict(content["model"])
        self.optimizer.load_state_dict(content["optimizer"])
        self.scaler.load_state_dict(content["scaler"])
        if self.average is not None:
            self.average.load_state_dict(content["ema"])
        self.epoch, self.step, self.step_in_epoch = (content[key] for key in ("epoch", "step", "step_in_epoch"))
        self.best = content["best"]
        if content["top1"] is not None:
            self.result = {"top1": content["top1"], "n": content["n"]}
        if self.step_in_epoch:
            own = content["ranks"][world.rank]
            set_random_state(own["random"], self.device)
            loss, hits, images, mark = own["sums"]
            self.sums = self.new_sums()
            self.sums.loss += loss
            self.sums.hits += hits
            self.sums.images, self.sums.mark = images, tuple(mark)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.model.parameters()).device

    def new_sums(self) -> Sums:
        """Zeros, for the start of an epoch."""
        loss = torch.zeros((), device=self.device)
        return Sums(loss, torch.zeros((), dtype=torch.int64, device=self.device))


def make_average(model: nn.Module, decay: float | None):
    """timm's moving average of the weights, or None."""
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay)


def seed_epoch(seed: int, epoch: int, rank: int) -> None:
    """Random numbers (dropout and the like) start anew in every epoch, different on every rank."""
    words = np.random.SeedSequence([seed, epoch, rank]).generate_state(3)
    torch.manual_seed(int(words[0]))
    random.seed(int(words[1]))
    np.random.seed(int(words[2]))


def random_state(device: torch.device) -> dict:
    """The states of all random generators that a model or an augmentation may draw from."""
    kind, keys, *rest = np.random.get_state()
    version, numbers, gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "python": [version, list(numbers), gauss],
        "numpy": [kind, keys.tolist(), *rest],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict, device: torch.device) -> None:
    """Go back to what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
