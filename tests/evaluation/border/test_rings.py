"""The sums of the border study against loops over positions, and against values worked out by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import pcpad
from pcpad.evaluation.border.report import bias, fidelity
from pcpad.evaluation.border.rings import FidelitySums, MeanMap, ring_index


def ring(i, j, height, width):
    return min(i, j, height - 1 - i, width - 1 - j)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (6, 6), (7, 4)])
def test_rings_are_distances_from_the_border(height, width):
    wanted = [[ring(i, j, height, width) for j in range(width)] for i in range(height)]
    assert ring_index(height, width).tolist() == wanted


def test_fidelity_is_the_norm_of_all_images_together():
    rng = np.random.default_rng(0)
    true, own = rng.normal(size=(2, 7, 3, 5, 6))
    true[0] *= 100  # an image that leads a sum and not a mean of quotients
    error, size = np.zeros(3), np.zeros(3)
    for n, c, i, j in itertools.product(range(7), range(3), range(5), range(6)):
        error[ring(i, j, 5, 6)] += (own[n, c, i, j] - true[n, c, i, j]) ** 2
        size[ring(i, j, 5, 6)] += true[n, c, i, j] ** 2
    sums = FidelitySums(5, 6)
    for part in (slice(0, 4), slice(4, 7)):
        sums.add(torch.tensor(own[part]), torch.tensor(true[part]))
    record = {"error": sums.error.tolist(), "true": sums.true.tolist()}
    assert np.allclose(record["error"], error)
    assert np.allclose(fidelity(record), np.sqrt(error / size))
    each = np.mean([np.linalg.norm(own[n] - true[n]) / np.linalg.norm(true[n]) for n in range(7)])
    assert not np.isclose(np.sqrt(error.sum() / size.sum()), each, rtol=0.2)  # the control


def test_a_ring_without_true_features_has_no_relative_error():
    assert fidelity({"error": [1.0, 4.0], "true": [0.0, 1.0]}) == [None, 2.0]


def test_bias_against_a_loop():
    maps = np.random.default_rng(1).normal(size=(9, 4, 9, 10))
    maps[:, 2] = 0.1  # a constant channel has no unit
    maps[:, 3, 0] += 5
    away = []
    for c in (0, 1, 3):
        values = {d: [] for d in range(5)}
        for n, i, j in itertools.product(range(9), range(9), range(10)):
            values[ring(i, j, 9, 10)].append(maps[n, c, i, j])
        centre = np.array(values[2] + values[3] + values[4])
        away.append([abs(np.mean(values[d]) - centre.mean()) / centre.std() for d in range(5)])
    held = MeanMap(4, 9, 10)
    held.add(torch.tensor(maps[:2]))
    held.add(torch.tensor(maps[2:]))
    result = held.bias()
    assert result["channels"] == 3
    assert np.allclose(bias({"bias": result}), np.mean(away, axis=0))
    live = [0, 1, 3]
    inner = maps[:, :, 2:-2, 2:-2].transpose(1, 0, 2, 3).reshape(4, -1)
    mean = maps.mean(0)
    picture = np.mean([abs(mean[c] - inner[c].mean()) / inner[c].std() for c in live], axis=0)
    assert np.allclose(held.picture(), picture, atol=1e-4)


def constant_images_through(mode):
    """Bias of a 3x3 convolution of ones over images that are each constant: 1, 2, ... 5."""
    net = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1, bias=False)).double()
    nn.init.ones_(net[0].weight)
    pcpad.convert(net, mode)
    images = torch.arange(1.0, 6, dtype=torch.float64).view(5, 1, 1, 1).expand(5, 1, 6, 6)
    held = MeanMap(1, 6, 6)
    with torch.no_grad():
        held.add(net(images))
    return bias({"bias": held.bias()})


@pytest.mark.parametrize("mode", ["partial", "reflect", "replicate", "circular"])
def test_constant_images_have_no_spatial_bias(mode):
    assert np.allclose(constant_images_through(mode), 0, atol=1e-14)


def test_zeros_gives_constant_images_the_bias_worked_out_by_hand():
    # Of the 20 outermost positions 4 see 4 of 9 taps and 16 see 6: 5.6 on average. The images have mean 3, variance 2.
    assert np.allclose(constant_images_through("zeros"), [(9 - 5.6) * 3 / (9 * 2**0.5), 0, 0])


def test_a_large_map_is_not_kept_whole():
    assert MeanMap(1, 17, 4).total is None


def test_a_map_of_one_ring_has_no_centre():
    held = MeanMap(1, 2, 2)
    held.add(torch.randn(3, 1, 2, 2))
    assert bias({"bias": held.bias()}) == [None]
    assert held.picture() is None


def test_channels_that_are_all_constant_have_no_bias():
    held = MeanMap(2, 4, 4)
    held.add(torch.ones(3, 2, 4, 4))
    assert held.bias() == {"sum": [0.0, 0.0], "channels": 0}
    assert bias({"bias": held.bias()}) == [None, None]
    assert held.picture() is None
