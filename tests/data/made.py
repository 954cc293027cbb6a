"""Loaders and transforms made for the tests of both loaders, and how their batches are compared."""

import numpy as np
import pytest
import torch

from pcpad.data.batch import EvalTransform, TrainTransform

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CPU = torch.device("cpu")
RATIO = (3 / 4, 4 / 3)
gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
DEVICES = [pytest.param("cpu"), pytest.param("cuda", marks=gpu)]


def eval_transform(size=32, crop_pct=0.875, interpolation="bilinear", crop_mode="center") -> EvalTransform:
    return EvalTransform(size, crop_pct, interpolation, MEAN, STD, crop_mode)


def train_transform(size=16, scale=(0.08, 1.0), mean=MEAN, std=STD) -> TrainTransform:
    return TrainTransform(size, scale, RATIO, 0.5, "bilinear", mean, std)


def eval_loader(loader, files, transform=None, *, batch_size=8, workers=0, device=CPU, labels=None, **shard):
    labels = np.arange(len(files)) % 7 if labels is None else labels
    transform = transform or eval_transform()
    shared = {"batch_size": batch_size, "workers": workers, "device": device}
    return loader.EvalLoader(files, labels, transform, **shared, **shard)


def train_loader(loader, files, transform=None, *, batch_size=4, workers=0, device=CPU, labels=None, **rest):
    labels = np.arange(len(files)) % 7 if labels is None else labels
    transform = transform or train_transform()
    shared = {"batch_size": batch_size, "workers": workers, "device": device}
    return loader.TrainLoader(files, labels, transform, **shared, **{"seed": 0, **rest})


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Takes the normalisation back: values of 0 to 255."""
    return (images.cpu() * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)) * 255


def same(a, b) -> bool:
    """Whether two lists of batches are equal, bit for bit."""
    return len(a) == len(b) and all(all(map(torch.equal, p, q)) for p, q in zip(a, b, strict=True))


def epochs(made, number: int) -> list:
    return [batch for epoch in range(number) for batch in made.epoch(epoch)]
