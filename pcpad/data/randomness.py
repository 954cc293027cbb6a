"""Random numbers for code that draws from the global generators, which are left as they were."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def drawn_from(*key: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside, Python's and numpy's global generators start from `key`; afterwards they are as they were.

    Args:
        key: whole numbers from 0 up; the same key gives the same numbers.
        device: torch's generators too, those of the CPU and of this device.

    >>> with drawn_from(1, 2):
    ...     first = random.random(), np.random.rand()
    >>> with drawn_from(1, 2):
    ...     first == (random.random(), np.random.rand())
    True
    """
    words = [int(word) for word in np.random.SeedSequence(key).generate_state(3)]
    before = random.getstate(), np.random.get_state()
    random.seed(words[0])
    np.random.seed(words[1])
    try:
        if device is None:
            yield
        else:
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed(words[2])
                yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
