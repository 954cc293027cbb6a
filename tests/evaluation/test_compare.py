"""Intervals and paired tests against their formulas, written out and summed up by hand."""

from math import comb, sqrt

import pytest

from pcpad.evaluation.compare import interval, paired


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (7, 10), (883, 1000), (0, 50), (50000, 50000)])
def test_wilsons_interval(hits, n):
    z, p = 1.959963984540054, hits / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = interval(hits, n)
    assert (low, high) == pytest.approx((middle - half, middle + half), abs=1e-12)
    assert low - 1e-12 <= p <= high + 1e-12


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (5, 5), (2, 9), (30, 11), (0, 12)])
def test_mcnemars_exact_test(gained, lost):
    right = [True] * gained + [False] * lost + [True] * 4 + [False] * 3
    base = [False] * gained + [True] * lost + [True] * 4 + [False] * 3
    n, chances = gained + lost, []
    for k in range(n + 1):
        chances.append(comb(n, k) / 2**n)
    wanted = sum(chance for chance in chances if chance <= chances[gained] * (1 + 1e-7))
    assert paired(right, base) == (gained, lost, pytest.approx(wanted, rel=1e-9))
    assert paired(base, right)[:2] == (lost, gained)


def test_predictions_of_other_images_are_refused():
    with pytest.raises(ValueError, match="zip"):
        paired([True], [True, False])
