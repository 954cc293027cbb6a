"""Erasing, mixup and CutMix: what becomes of images, labels and loss, by hand; where the random numbers come from."""

import random

import numpy as np
import pytest
import torch
from torch import nn

from pcpad.config import AugmentSettings, MixSettings, TrainSettings
from pcpad.data.batch import Batch
from pcpad.training.loop import backward
from pcpad.training.mixing import make_mixing

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


def batch() -> Batch:
    images = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Batch(images, LABELS.clone(), torch.arange(6))


def mixer(**settings):
    augment = AugmentSettings(**{k: v for k, v in settings.items() if k == "erase"})
    mix = MixSettings(**{k: v for k, v in settings.items() if k != "erase"})
    return make_mixing(TrainSettings(augment=augment, mix=mix), 3, CPU)


def shares(labels: torch.Tensor) -> list[float]:
    """The share of each image's own label, where that of its partner is another."""
    return [float(row[own]) for row, own, other in zip(labels, LABELS, LABELS.flip(0), strict=True) if own != other]


def targets(share: float) -> torch.Tensor:
    own, other = torch.eye(3)[LABELS], torch.eye(3)[LABELS.flip(0)]
    return share * own + (1 - share) * other


def test_mixup_blends_images_and_labels_alike():
    before, change = batch().images, mixer(mixup=1.0)
    found = set()
    for step in range(4):
        mixed = change(batch(), 0, 0, step, 0, 0)
        share, *rest = shares(mixed.labels)
        assert rest == pytest.approx([share] * len(rest))
        torch.testing.assert_close(mixed.labels, targets(share))
        torch.testing.assert_close(mixed.images, share * before + (1 - share) * before.flip(0))
        found.add(share)
    assert len(found) == 4
    assert 0 < min(found) < max(found) < 1


def test_cutmix_gives_labels_by_area():
    before, change = batch().images, mixer(cutmix=1.0)
    cut = []
    for step in range(6):
        mixed = change(batch(), 0, 0, step, 0, 0)
        own, other = mixed.images == before, mixed.images == before.flip(0)
        assert (own | other).all()
        share = float(own.float().mean())
        torch.testing.assert_close(mixed.labels, targets(share))
        rows, columns = (~own[0, 0]).nonzero().unbind(1)
        if len(rows):  # one rectangle
            assert len(rows) == (np.ptp(rows.numpy()) + 1) * (np.ptp(columns.numpy()) + 1)
        cut.append(1 - share)
    assert 0 < max(cut) < 1


@pytest.mark.parametrize("mode", ["pair", "elem"])
def test_every_image_may_have_its_own_share(mode):
    before, mixed = batch().images, mixer(mixup=1.0, mode=mode)(batch(), 3)
    differing = [i for i in range(6) if LABELS[i] != LABELS[5 - i]]
    found = dict(zip(differing, shares(mixed.labels), strict=True))
    for i, share in found.items():
        torch.testing.assert_close(mixed.images[i], share * before[i] + (1 - share) * before[5 - i])
    assert len({round(share, 6) for share in found.values()}) > 1


def test_nothing_is_mixed_with_probability_0():
    mixed = mixer(mixup=1.0, cutmix=1.0, prob=0.0)(batch(), 0)
    assert torch.equal(mixed.images, batch().images)
    torch.testing.assert_close(mixed.labels, targets(1.0))
    assert make_mixing(TrainSettings(), 3, CPU) is None


def test_erasing_fills_one_rectangle_with_noise():
    before, change = batch().images, mixer(erase=1.0)
    areas = []
    for step in range(5):
        mixed = change(batch(), step)
        assert torch.equal(mixed.labels, LABELS)
        for old, new in zip(before, mixed.images, strict=True):
            rows, columns = (old != new).any(0).nonzero().unbind(1)
            assert len(rows) == (np.ptp(rows.numpy()) + 1) * (np.ptp(columns.numpy()) + 1)
            areas.append(len(rows) / 64)
    assert 0.01 < min(areas) < max(areas) < 0.5  # 0.02 to a third, before rounding
    assert torch.equal(mixer(erase=1e-9)(batch(), 0).images, before)


def test_the_key_alone_gives_the_random_numbers():
    """Global generators are neither read nor changed; each part of the key matters."""
    change, states = mixer(mixup=0.8, cutmix=1.0, erase=0.5), []

    def now() -> tuple:
        return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()

    found = []
    for seed in (1, 2):
        torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
        states.append(now())
        found.append(change(batch(), 7, 3, 2, 1, 0))
        assert now() == states[-1]
    assert torch.equal(found[0].images, found[1].images)
    assert torch.equal(found[0].labels, found[1].labels)
    assert states[0] != states[1]
    for key in ((8, 3, 2, 1, 0), (7, 4, 2, 1, 0), (7, 3, 3, 1, 0), (7, 3, 2, 0, 0), (7, 3, 2, 1, 1)):
        assert not torch.equal(change(batch(), *key).images, found[0].images)


@pytest.mark.parametrize("kind", ["ce", "bce"])
def test_the_loss_of_mixed_labels_by_hand(kind):
    torch.manual_seed(0)
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), torch.randn(4, 3, 2, 2)
    labels = torch.tensor([[0.7, 0.3, 0], [0, 0.4, 0.6], [1.0, 0, 0], [0.2, 0, 0.8]])
    outputs, smooth = model(images), 0.9 * labels + 0.1 / 3
    if kind == "ce":
        expected = -(smooth * outputs.log_softmax(1)).sum(1).mean()
    else:
        p = outputs.sigmoid()
        expected = -(smooth * p.log() + (1 - smooth) * (1 - p).log()).mean()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    total, hits = backward(model, images, labels, scaler, "off", 0.1, kind=kind)
    torch.testing.assert_close(total, 4 * expected.detach())
    larger = torch.tensor([0, 2, 0, 2])
    assert int(hits) == int((outputs.argmax(1) == larger).sum())
    gradient = model[1].weight.grad.clone()
    model.zero_grad()
    expected.backward()
    torch.testing.assert_close(gradient, model[1].weight.grad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mix.mixup": 0.2, "batch_size": 9}, "even number of images, and each part of batch_size=9 has 9"),
        ({"mix.cutmix": 1, "batch_size": 6, "accumulate": 2}, "has 3: choose a multiple of 4"),
        ({"mix.cutmix": 1, "data.native": "true"}, "take images of one size: they go without --data.native"),
        ({"augment.erase": 0.1, "data.native": "true"}, "take images of one size"),
        ({"augment.randaugment": 2, "data.native": "true"}, "take images of one size"),
        ({"progressive.start": 16, "data.native": "true"}, "they go without --data.native"),
    ],
)
def test_what_cannot_be_mixed_is_refused(call, tmp_path, capsys, options, message):
    assert call("train", **options) != 0
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
