"""Intervals of medians, for the tables of this folder."""

from scipy.stats import binom


def median_interval(values: list[float]) -> tuple[float, float]:
    """The 95% interval of a median, whatever the distribution: two of the values in order; of five, the whole range."""
    low, high = binom.interval(0.95, len(values), 0.5)
    ordered = sorted(values)
    return ordered[max(int(low) - 1, 0)], ordered[min(int(high), len(values) - 1)]
