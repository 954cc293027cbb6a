"""The smallest input that a model takes, and the smallest at which every padding can be filled."""

from bisect import bisect_left
from collections.abc import Callable

LADDER = [*range(1, 17), 18, 20, 24, 28, 32, 36, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 192, 224, 256, 288, 320]
LADDER += [384, 448, 512, 576, 640, 768, 896, 1024]
"""Sides that are tried first; what lies between two of them is tried after that."""


def smallest_size(works: Callable[[int], bool | None], own: int) -> tuple[int | None, int | None]:
    """The smallest side of a square input that works, and the next smaller one that runs but does not.

    Args:
        works: side in pixels to True, False (the model runs but the mode cannot), or None (the model does not run).
            Among the sides that run it must be False up to some side and True from there on; where the model runs
            at multiples of a number only, the multiples must be in the ladder. Called once for each side.
        own: the model's own side.

    Returns:
        Both in pixels; None where there is no such side up to 1024 pixels (or `own`).
    """
    known: dict[int, bool | None] = {}

    def at(side: int) -> bool | None:
        if side not in known:
            known[side] = works(side)
        return known[side]

    ladder = sorted({*LADDER, own})

    def works_from(i: int) -> bool:
        """Whether the first side of the ladder from `i` on that runs also works."""
        return next((at(side) for side in ladder[i:] if at(side) is not None), True)

    found = bisect_left(range(len(ladder)), True, key=works_from)
    found = next((i for i in range(found, len(ladder)) if at(ladder[i])), None)
    if found is None:
        return None, None
    best, floor = ladder[found], ladder[found - 1] if found else 0
    low, high = floor, best
    while high - low > 1:  # narrow the gap by halves; a side that does not run counts as too small
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle) else (middle, high)
    best = high
    for side in range(best - 1, max(0, min(floor, best - 65)) - 1, -1):  # and mend what holes have misled
        if side > 0 and at(side):
            best = side
        elif side > 0 and at(side) is False:
            return best, side
    return best, max((side for side in ladder if side < best and at(side) is False), default=None)
