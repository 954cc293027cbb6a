"""How sure an accuracy is, and whether two of them differ on the same images."""

from collections.abc import Sequence


def interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's 95% interval of an accuracy: lower and upper bound, in 0..1.

    Args:
        hits: images that were right. n: images, at least 1.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    from scipy.stats import binomtest

    found = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def paired(right: Sequence[bool], base: Sequence[bool]) -> tuple[int, int, float]:
    """McNemar's exact test of two predictions on the same images.

    Args:
        right: whether each image was right. base: the same images by what is compared with.

    Returns:
        Images that are right only in `right`, only in `base`, and the two-sided p of as unequal a split by chance.

    Source: McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12
    (1947), in its exact binomial form.
    """
    from scipy.stats import binomtest

    pairs = list(zip(right, base, strict=True))
    gained, lost = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
    p = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    return gained, lost, float(p)
