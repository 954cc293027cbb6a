"""Statistics against values worked by hand, textbooks, enumeration and numerical integration; never against scipy."""

import itertools
import math

import pytest

from pcpad.statistics import (
    Comparison,
    compare,
    decimals,
    deviation,
    discordant,
    holm,
    mcnemar,
    mean,
    mean_interval,
    paired,
    rounded,
    rounded_p,
    wilson,
)

SLEEP = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
"""Student's sleep data (Biometrika 6, 1908): extra hours under two drugs, treated as independent groups."""


def t_density(x: float, df: float) -> float:
    scale = math.gamma((df + 1) / 2) / (math.sqrt(df * math.pi) * math.gamma(df / 2))
    return scale * (1 + x * x / df) ** (-(df + 1) / 2)


def two_sided(t: float, df: float, steps: int = 20_000) -> float:
    """P of |T| > t by Simpson's rule over -t..t."""
    h = 2 * t / steps
    inner = sum((4 if i % 2 else 2) * t_density(-t + i * h, df) for i in range(1, steps))
    return 1 - h / 3 * (2 * t_density(t, df) + inner)


def test_mean_and_deviation_by_hand():
    assert mean([2, 4, 4, 4, 5, 5, 7, 9]) == 5
    assert deviation([2, 4, 4, 4, 5, 5, 7, 9]) == pytest.approx(math.sqrt(32 / 7))
    assert deviation([1e9 + 1, 1e9 + 2, 1e9 + 3]) == pytest.approx(1)  # no cancellation
    assert deviation([3.5, 3.5]) == 0


@pytest.mark.parametrize("n", [2, 3, 5, 7, 9])
def test_equal_values_have_no_spread(n):
    """Their mean as floats is another number in one of ten cases, and a spread of 1e-15 would make any p 0."""
    for hits in range(0, 10_000, 7):
        same = compare([100 * hits / 10_000] * n, [100 * (hits + 1) / 10_000] * n)
        assert (same.low, same.p) == (None, None)
        assert same.difference == pytest.approx(-0.01)


def test_what_does_not_exist_is_none():
    assert (mean([]), deviation([]), deviation([4.0]), mean_interval([4.0])) == (None, None, None, None)
    assert compare([], [1.0]) is None
    assert compare([1.0], []) is None
    lone = compare([3.0], [1.0, 2.0])
    assert (lone.difference, lone.low, lone.p, lone.half_width) == (1.5, None, None, None)
    constant = compare([3.0, 3.0], [1.0, 1.0])
    assert (constant.difference, constant.low, constant.p) == (2.0, None, None)


def test_interval_of_a_mean():
    """Student's t of 4 degrees of freedom is 2.776 at 95%, of 1 it is 12.706 (any table)."""
    low, high = mean_interval([1, 2, 3, 4, 5])
    half = 2.7764451 * math.sqrt(2.5) / math.sqrt(5)
    assert (low, high) == pytest.approx((3 - half, 3 + half))
    assert mean_interval([0, 2])[1] == pytest.approx(1 + 12.7062047, abs=1e-6)


def test_welch_is_the_textbook_s():
    """R's t.test(extra ~ group, data = sleep): t = -1.8608, df = 17.776, p = 0.07939, -3.3654832 to 0.2054832."""
    found = compare(*SLEEP)
    assert found.t == pytest.approx(-1.8608, abs=5e-5)
    assert found.df == pytest.approx(17.776, abs=5e-4)
    assert found.p == pytest.approx(0.07939, abs=5e-6)
    assert (found.low, found.high) == pytest.approx((-3.3654832, 0.2054832), abs=5e-8)
    back = compare(*SLEEP[::-1])
    assert (back.difference, back.low, back.p) == pytest.approx((-found.difference, -found.high, found.p))


@pytest.mark.parametrize(("a", "b"), [([73.9, 74.1, 73.8], [73.2, 73.6]), ([1, 2, 3, 4, 9], [2, 2, 2, 2, 2.5])])
def test_p_is_the_area_under_the_density(a, b):
    found = compare(a, b)
    assert found.p == pytest.approx(two_sided(abs(found.t), found.df), abs=1e-9)
    at_edge = two_sided(found.half_width / (found.difference / found.t), found.df)
    assert at_edge == pytest.approx(0.05, abs=1e-9)  # the interval ends where p would be 5%


def test_paired_gives_student_s_own_numbers():
    """The same ten people under both drugs, as textbooks (and R's manual) have it: t = -4.0621 with 9 degrees."""
    found = paired(*SLEEP)
    assert found.difference == pytest.approx(-1.58)
    assert (found.t, found.df) == (pytest.approx(-4.0621, abs=5e-5), 9)
    assert found.p == pytest.approx(0.002833, abs=5e-7)
    assert found.p == pytest.approx(two_sided(4.0621277, 9), rel=1e-5)
    assert (found.low, found.high) == pytest.approx((-2.4598858, -0.7001142), abs=5e-8)
    assert compare(*SLEEP).p > 0.05  # as independent groups they do not differ


def test_paired_without_a_spread_or_a_pair():
    assert paired([3.0, 4.0], [1.0, 2.0]) == Comparison(2.0)
    assert paired([3.0], [1.0]) == Comparison(2.0)
    assert paired([], []) is None
    # Eight images of 24 right, and nine, against one more: the same difference, but not to the last bit.
    first, second = [100 * 8 / 24, 100 * 9 / 24], [100 * 7 / 24, 100 * 8 / 24]
    assert first[0] - second[0] != first[1] - second[1]
    assert paired(first, second) == Comparison(pytest.approx(100 / 24))
    assert paired([100 * 8 / 10000, 100 * 9 / 10000], [0.07, 0.07]).p == pytest.approx(
        0.2048, abs=1e-4
    )  # 1 and 2: t = 3
    with pytest.raises(ValueError, match="2 and 1 values cannot be paired"):
        paired([1.0, 2.0], [1.0])


def test_holm_counts_what_is_planned():
    assert holm([0.02, 0.01], 4) == pytest.approx([0.06, 0.04])
    assert holm([0.02, None, 0.01], 2) == pytest.approx([0.02, None, 0.02])
    assert holm([0.02, 0.01], 1) == holm([0.02, 0.01])


def test_holm_by_hand():
    """0.01, 0.02, 0.03, 0.04 times 4, 3, 2, 1 is 0.04, 0.06, 0.06, 0.04; never smaller than one before."""
    assert holm([0.02, 0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.06, 0.04, 0.06])
    assert holm([0.5, None, 0.9]) == [1.0, None, 1.0]  # what has no test does not count
    assert holm([]) == []
    assert holm([0.03]) == [0.03]


def test_holm_rejects_what_the_step_down_procedure_rejects():
    for ps in itertools.permutations([0.001, 0.012, 0.02, 0.04, 0.3]):
        rejected = set()
        for rank, p in enumerate(sorted(ps)):
            if p > 0.05 / (len(ps) - rank):
                break
            rejected.add(p)
        assert {p for p, q in zip(ps, holm(ps), strict=True) if q <= 0.05} == rejected


def test_wilson_solves_its_equation():
    """The ends are the shares whose own standard error is 1.96 times smaller than their distance."""
    for hits, n in ((81, 263), (1, 10), (9_012, 10_000)):
        for end in wilson(hits, n):
            assert abs(hits / n - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.959964, abs=1e-6)
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe, Statist. Med. 17 (1998), 857-872


def test_wilson_at_the_edges():
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(0, 20) == (0.0, pytest.approx(0.1611, abs=5e-5))  # Newcombe 1998
    assert wilson(20, 20)[1] == 1.0
    assert wilson(1, 1)[0] == pytest.approx(1 / (1 + 1.959964**2), abs=1e-6)
    with pytest.raises(ValueError, match=r"hits must be within 0\.\.3, not 4"):
        wilson(4, 3)


def test_mcnemar_is_enumeration():
    """All sequences of fair coins of the discordant images: how many are at least as uneven?"""
    for a, b in itertools.product(range(6), repeat=2):
        flips = list(itertools.product((0, 1), repeat=a + b))
        uneven = sum(abs(2 * sum(f) - (a + b)) >= abs(a - b) for f in flips)
        assert mcnemar(a, b) == pytest.approx(uneven / len(flips))
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(10_000, 9_000) < 1e-10
    with pytest.raises(ValueError, match="at least 0, not -1 and 2"):
        mcnemar(-1, 2)


def test_discordant_images_are_counted_in_pairs():
    assert discordant([True, True, False, False, True], [True, False, True, False, False]) == (2, 1)
    with pytest.raises(ValueError, match="of 2 and of 1 images cannot be paired"):
        discordant([True, False], [True])


@pytest.mark.parametrize(
    ("half", "finest", "places"),
    [
        (0.31, 0.002, 2),
        (0.058, 0.002, 3),
        (0.0004, 0.002, 3),
        (1.8, 0.002, 1),
        (12.0, 0.002, 0),
        (0.1, 1e-6, 2),
        (0.0999, 1e-6, 3),
        (None, 0.2, 1),
        (None, 0.01, 2),
        (0.0, 1.0, 0),
        (None, 0.001, 3),
    ],
)
def test_digits_follow_the_interval(half, finest, places):
    assert decimals(half, finest) == places


def test_numbers_as_text():
    assert rounded(73.6808, 2) == "73.68"
    assert rounded(0.316, 2, sign=True) == "+0.32"
    assert rounded(-0.001, 2, sign=True) == "0.00"  # no sign of what is nothing
    assert rounded(-0.3, 0) == "0"
    assert rounded(None, 3) == "-"
    assert [rounded_p(p) for p in (None, 0.00004, 0.0123, 0.5, 1.0)] == ["-", "<0.001", "0.012", "0.50", "1.00"]
