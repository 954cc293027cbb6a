"""The geometry: integers through any sequence of windows, against torch's own output sizes."""

import random

import pytest
import torch
from torch.nn import functional as F

from pcpad.ragged.extents import Axis, Window


def random_window(rng: random.Random) -> Window:
    kernel, stride, dilation = rng.randint(1, 5), rng.randint(1, 4), rng.randint(1, 3)
    ceil = rng.random() < 0.4
    before = rng.randint(0, kernel // 2 if ceil else 4)
    return Window(kernel, stride, dilation, before, before if ceil else rng.randint(0, 4), ceil)


def by_torch(length: int, window: Window) -> int:
    """What torch makes of a map of that length; 0 where it refuses."""
    x = torch.empty(1, 1, length, device="meta")
    try:
        if window.ceil:
            return F.max_pool1d(x, window.kernel, window.stride, window.before, window.dilation, True).shape[-1]
        x = F.pad(x, (window.before, window.after))
        weight = torch.empty(1, 1, window.kernel, device="meta")
        return F.conv1d(x, weight, None, window.stride, 0, window.dilation).shape[-1]
    except RuntimeError:
        return 0


@pytest.mark.parametrize("seed", range(60))
def test_lengths_through_a_chain(seed):
    rng = random.Random(seed)
    chain = [random_window(rng) for _ in range(rng.randint(1, 5))]
    own = list(range(1, 80))
    wanted, axis = own, Axis(torch.tensor(own)).with_twin()
    for window in chain:
        wanted = [by_torch(length, window) if length > 0 else 0 for length in wanted]
        axis = axis.through(window, False, 0)
    way, shift, stride = axis.key
    assert way == ()
    for length, want, got in zip(own, wanted, axis.stop.tolist(), strict=True):
        assert (length + shift) // stride == got
        assert got == want or want == 0  # where torch refuses, an error was raised before


def test_equal_keys_are_one_axis():
    axis = Axis(torch.tensor([9, 14, 5])).with_twin()
    strided = axis.through(Window(3, 2, 1, 1, 1), False, 0)
    assert axis.through(Window(1, 2), False, 0) is strided  # the shortcut of a residual block
    assert axis.through(Window(3, 1, 1, 1, 1), False, 0).key == axis.key
    assert axis.through(Window(2, 2), False, 0) is not strided
    assert strided.same(axis.through(Window(1, 2), False, 0))
    assert not strided.same(axis.through(Window(2, 2), False, 0))


@pytest.mark.parametrize("seed", range(40))
def test_taps_of_each_window(seed):
    rng = random.Random(seed)
    window = random_window(rng)
    start, stop = sorted(rng.sample(range(25), 2))
    axis = Axis(torch.tensor([stop]), torch.tensor([start]))
    margin = (rng.randint(0, 2), rng.randint(0, 2))
    got = axis.taps(window, 20, margin)[0].tolist()
    for i, count in enumerate(got):
        places = [i * window.stride - window.before + t * window.dilation for t in range(window.kernel)]
        assert count == sum(start - margin[0] <= place < stop + margin[1] for place in places)
