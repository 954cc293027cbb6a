"""Shifts of the crop window, counted by a slow loop over images and shifts."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from pcpad.data.batch import EvalTransform
from pcpad.data.reference import eval_pixels
from pcpad.evaluation.border.shifts import ShiftCounts, parse_shifts, shift_transform, window
from tests.data.conftest import picture


def network() -> nn.Module:
    """Four classes that many windows are close between."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(net, nn.BatchNorm1d(8, affine=False, momentum=None), nn.Linear(8, 4)).double()


def test_counts_against_a_loop():
    model = network()
    torch.manual_seed(1)
    images = torch.randn(12, 3, 21, 21, dtype=torch.float64)
    model.train()(images)  # statistics under which no class is always the first
    model.eval()
    labels = torch.tensor([0, 1, 2, 3] * 3)
    counts = ShiftCounts(parse_shifts("1,4"))
    with torch.no_grad():
        counts.add(model, images[:5], labels[:5], 12)
        counts.add(model, images[5:], labels[5:], 12)
        wanted = []
        for dx, dy in [(0, 0), (1, 0), (4, 0), (0, 1), (0, 4), (1, 1), (4, 4)]:
            changed = top1 = 0
            for i in range(12):
                array = images.numpy()[i]
                plain = model(torch.tensor(np.ascontiguousarray(array[:, 4:16, 4:16]))[None])[0].argmax()
                moved = array[:, 4 + dy : 16 + dy, 4 + dx : 16 + dx]
                found = model(torch.tensor(np.ascontiguousarray(moved))[None])[0].argmax()
                changed += int(found != plain)
                top1 += int(found == labels[i])
            wanted.append({"dx": dx, "dy": dy, "changed": changed, "top1": top1})
    assert counts.result() == {"shifts": wanted, "labelled": 12}
    assert counts.n == 12
    assert wanted[0]["changed"] == 0
    assert max(row["changed"] for row in wanted) > 2  # else the loop would agree on nothing


def test_without_labels_there_is_no_accuracy():
    class First(nn.Module):
        def forward(self, x):
            return torch.eye(3)[:1].expand(len(x), 3)

    counts = ShiftCounts(parse_shifts("2"))
    counts.add(First(), torch.zeros(5, 3, 9, 9), torch.full((5,), -1), 4)
    result = counts.result()
    assert result["labelled"] == 0
    assert all((row["changed"], row["top1"]) == (0, None) for row in result["shifts"])


@pytest.mark.parametrize(
    ("size", "crop_pct", "shifts", "side", "resize"),
    [
        (224, 0.875, "16,1", 256, 256),
        (224, 0.875, "1,2", 228, 256),
        (224, 0.875, "17", 260, 260),
        (64, 0.95, "3", 72, 72),
        (64, 0.7, "3", 72, 91),
    ],
)
def test_the_image_has_room_for_every_shift(size, crop_pct, shifts, side, resize):
    own = EvalTransform(size, crop_pct, "bicubic", (0.0,) * 3, (1.0,) * 3)
    found = shift_transform(own, parse_shifts(shifts))
    assert (found.size, found.resize) == (side, resize)


def test_the_unshifted_window_has_the_pixels_of_an_evaluation():
    for width, height in ((101, 77), (78, 120), (99, 99), (80, 83)):
        image = Image.fromarray(picture(height, width, seed=width))
        own = EvalTransform(33, 0.6, "bilinear", (0.0,) * 3, (1.0,) * 3)
        for shifts in (parse_shifts("1"), parse_shifts("2,3")):
            larger = eval_pixels(image, shift_transform(own, shifts))
            assert torch.equal(window(larger, 33, (0, 0)), eval_pixels(image, own))
            moved = window(larger, 33, shifts[-1])
            assert moved.shape == (3, 33, 33)
            d = shifts[-1][0]
            assert torch.equal(moved[:, : 33 - d, : 33 - d], eval_pixels(image, own)[:, d:, d:])


def test_steps_are_sorted_and_taken_once():
    assert parse_shifts("3,1,3") == [(0, 0), (1, 0), (3, 0), (0, 1), (0, 3), (1, 1), (3, 3)]
