"""Statistics on plain numbers: spread, intervals, tests between paddings, and how many digits they support.

What does not exist (the deviation of one value, say) is None, never 0 or nan.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95
"""Confidence of every interval."""
EQUAL = 1e-12
"""Share of a value by which equal ones differ through rounding at most: 64 bits keep 16 digits."""


@dataclass(frozen=True)
class Comparison:
    """Two groups of independent values compared.

    Attributes:
        difference: mean of the first less mean of the second.
        low, high: its interval; None where there is no spread, or only one value in a group.
        t, df, p: Welch's statistic, its degrees of freedom (not whole) and its two-sided p; None likewise.
    """

    difference: float
    low: float | None = None
    high: float | None = None
    t: float | None = None
    df: float | None = None
    p: float | None = None

    @property
    def half_width(self) -> float | None:
        """Half the interval."""
        return None if self.low is None else (self.high - self.low) / 2


def mean(values: Sequence[float]) -> float | None:
    """Arithmetic mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None


def deviation(values: Sequence[float]) -> float | None:
    """Sample standard deviation, by n - 1; None below two values."""
    if len(values) < 2:
        return None
    if min(values) == max(values):
        return 0.0  # the rounding of their mean is no spread
    middle = mean(values)
    return math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (len(values) - 1))


def mean_interval(values: Sequence[float], level: float = LEVEL) -> tuple[float, float] | None:
    """Interval of the mean by Student's t; None below two values."""
    spread = deviation(values)
    if spread is None:
        return None
    half = t_quantile(len(values) - 1, level) * spread / math.sqrt(len(values))
    return mean(values) - half, mean(values) + half


def t_quantile(df: float, level: float) -> float:
    """The t that a share `level` of Student's distribution lies within, on both sides of 0."""
    from scipy.special import stdtrit

    return float(stdtrit(df, (1 + level) / 2))


def compare(values: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Comparison | None:
    """Difference of two means with its interval and Welch's test, which assumes no equal variances.

    Returns:
        None where a group is empty; the difference alone where a group has one value or neither has any spread.

    Source: Welch, Biometrika 34 (1947), 28-35; degrees of freedom by Satterthwaite's formula.
    """
    if not values or not baseline:
        return None
    difference = mean(values) - mean(baseline)
    spreads = deviation(values), deviation(baseline)
    if None in spreads or not any(spreads):
        return Comparison(difference)
    from scipy.special import stdtr

    parts = [spread**2 / len(group) for spread, group in zip(spreads, (values, baseline), strict=True)]
    error = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(group) - 1) for part, group in zip(parts, (values, baseline), strict=True)
    )
    half = t_quantile(freedom, level) * error
    t = difference / error
    p = min(1.0, 2 * float(stdtr(freedom, -abs(t))))
    return Comparison(difference, difference - half, difference + half, t, freedom, p)


def paired(values: Sequence[float], baseline: Sequence[float], level: float = LEVEL) -> Comparison | None:
    """Values of the same subjects compared one by one, by Student's t of their differences; None without a pair.

    Differences that are equal but for the rounding of floating point have no spread.

    Raises:
        ValueError: they are not of the same number of subjects.
    """
    if len(values) != len(baseline):
        raise ValueError(f"{len(values)} and {len(baseline)} values cannot be paired")
    differences = [value - other for value, other in zip(values, baseline, strict=True)]
    spread = deviation(differences)
    noise = EQUAL * max((abs(value) for value in (*values, *baseline)), default=0.0)
    if spread is None or spread <= noise:
        return Comparison(mean(differences)) if differences else None
    from scipy.special import stdtr

    error, freedom = spread / math.sqrt(len(differences)), len(differences) - 1
    difference, half = mean(differences), t_quantile(freedom, level) * error
    p = min(1.0, 2 * float(stdtr(freedom, -abs(difference / error))))
    return Comparison(difference, difference - half, difference + half, difference / error, freedom, p)


def holm(ps: Sequence[float | None], family: int = 0) -> list[float | None]:
    """P values adjusted over all that are there, in their order: together they err with the probability of one.

    Args:
        family: number of planned tests, where more are planned than are there.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    largest = 0.0
    for rank, (p, i) in enumerate(order):
        largest = max(largest, min(1.0, p * (max(family, len(order)) - rank)))
        adjusted[i] = largest
    return adjusted


def wilson(hits: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of one accuracy, as a share, from `hits` of `n` images; the whole of 0..1 without an image.

    Source: Wilson, JASA 22 (1927), 209-212, without continuity correction.

    Raises:
        ValueError: hits that are not within 0..n.
    """
    if not 0 <= hits <= n:
        raise ValueError(f"hits must be within 0..{n}, not {hits}")
    if n == 0:
        return 0.0, 1.0
    from scipy.special import ndtri

    z = float(ndtri((1 + level) / 2))
    share = hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of two predictions on the same images, from the images that only one of them has right.

    Source: McNemar, Psychometrika 12 (1947), 153-157; exact by the binomial distribution of one half.

    Raises:
        ValueError: a negative count.
    """
    if only_first < 0 or only_second < 0:
        raise ValueError(f"counts of images must be at least 0, not {only_first} and {only_second}")
    if only_first == only_second:
        return 1.0
    from scipy.special import bdtr

    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def discordant(first: Sequence[bool], second: Sequence[bool]) -> tuple[int, int]:
    """How many images only the first, and only the second of two predictions has right.

    Args:
        first, second: for each image, in one order, whether it is right.

    Raises:
        ValueError: they are not of the same number of images.
    """
    if len(first) != len(second):
        raise ValueError(f"predictions of {len(first)} and of {len(second)} images cannot be paired")
    pairs = list(zip(first, second, strict=True))
    return sum(bool(a) and not b for a, b in pairs), sum(bool(b) and not a for a, b in pairs)


def decimals(half_width: float | None, finest: float) -> int:
    """How many decimals a number supports: two significant digits of its interval's half, and none below `finest`.

    Args:
        half_width: half of the interval, in the unit of the number; None or 0 where there is no interval.
        finest: the smallest step that the number can make, one image of n as percent for example.
    """
    most = max(0, math.ceil(-math.log10(finest) - 1e-9))
    if not half_width:
        return most
    return min(most, max(0, 1 - math.floor(math.log10(half_width))))


def rounded(value: float | None, places: int, sign: bool = False) -> str:
    """A number as text, rounded here and nowhere before; ``-`` for None.

    Args:
        sign: also of a positive number.
    """
    if value is None:
        return "-"
    text = f"{value:+.{places}f}" if sign else f"{value:.{places}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def rounded_p(p: float | None) -> str:
    """A p value with two significant digits, at least a thousandth."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"
