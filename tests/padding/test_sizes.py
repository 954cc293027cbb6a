"""The search for the smallest input."""

import pytest

from pcpad.padding.sizes import LADDER, smallest_size


def brute(works, own):
    """Every side from below."""
    runs = [(s, works(s)) for s in range(1, 1100) if works(s) is not None]
    good = [s for s, fine in runs if fine]
    below = [s for s, fine in runs if not fine and good and s < good[0]]
    return (good[0] if good else None, below[-1] if below else None)


@pytest.mark.parametrize("threshold", [1, 2, 16, 17, 23, 33, 129, 289, 1000])
@pytest.mark.parametrize("least", [1, 7, 32])
def test_every_side_runs_from_some_side_on(threshold, least):
    def works(side):
        return None if side < least else side >= threshold

    assert smallest_size(works, 224) == brute(works, 224)


@pytest.mark.parametrize("threshold", [1, 33, 65, 100, 224])
@pytest.mark.parametrize("step", [2, 4, 8, 16, 32])
def test_multiples_only(threshold, step):
    def works(side):
        return None if side % step else side >= threshold

    assert smallest_size(works, 224)[0] == brute(works, 224)[0]


def test_one_side_only():
    assert smallest_size(lambda side: True if side == 384 else None, 384) == (384, None)
    assert smallest_size(lambda side: False if side == 300 else None, 300) == (None, None)


def test_a_band_of_sides():
    """As TF-same stems make it: every side that rounds up to the same grid."""
    assert smallest_size(lambda side: True if 369 <= side <= 384 else None, 384) == (369, None)


def test_nothing_is_asked_twice_and_the_whole_takes_few_questions():
    asked = []

    def works(side):
        asked.append(side)
        return side >= 65

    assert smallest_size(works, 224) == (65, 64)
    assert len(asked) == len(set(asked)) < 20
    assert max(LADDER) == 1024
