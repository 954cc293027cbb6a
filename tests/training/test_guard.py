"""What counts as finite, against math.isfinite of every number."""

import math

import pytest
import torch

from pcpad.training.guard import are_finite

LARGE = 3e38  # finite, but its square is not
VALUES = [0.0, -1.5, LARGE, -LARGE, 1e-45, math.inf, -math.inf, math.nan]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("at", [0, 41, 76])
def test_one_number_in_many(value, dtype, at):
    tensors = [torch.tensor(0.25), torch.ones(7, 11, dtype=dtype), torch.randn(3, 2, 5, 5).to(dtype)]
    tensors[1].view(-1)[at] = value
    assert are_finite(tensors) == all(math.isfinite(x) for tensor in tensors for x in tensor.flatten().tolist())


def test_infinities_of_both_signs_are_seen():
    assert not are_finite([torch.tensor([math.inf, -math.inf])])


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_the_loss_alone(loss):
    assert not are_finite([torch.tensor(loss)])


def test_nothing_is_finite():
    assert are_finite([])
