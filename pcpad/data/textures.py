"""Built-in data set: ten classes of full-frame procedural texture, written once into a cache as JPEGs.

It stands in for a photo collection where none is at hand. Every image is one texture from edge to edge, so
that the class can be read as well at the border, where padding acts, as in the centre. Colour, contrast,
lighting and noise are drawn the same way for every class, so that only spatial structure tells the classes
apart.
"""

import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

VERSION = 1
"""Goes up whenever any image changes: it is part of every seed and of the folder's name."""

TRAIN_PER_CLASS = 100
VAL_PER_CLASS = 50

SHORTER_SIDE = (72, 128)
LARGEST_ASPECT = 4 / 3
JPEG_QUALITY = 90

_SPLITS = ("train", "val")
_TAU = 2 * np.pi


def _plane(height: int, width: int, rng: np.random.Generator, turn: float = np.pi) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (u, v), each (H, W), turned by up to ``turn`` either way and shifted at random."""
    y, x = np.mgrid[:height, :width].astype(np.float64)
    angle = rng.uniform(-turn, turn)
    shift_u, shift_v = rng.uniform(0, 1000, 2)
    u = np.cos(angle) * x + np.sin(angle) * y + shift_u
    v = np.cos(angle) * y - np.sin(angle) * x + shift_v
    return u, v


def _step(distance: np.ndarray) -> np.ndarray:
    """0 to 1 across a signed distance in pixels of 0, over one and a half pixels to keep edges unaliased."""
    return np.clip(distance / 1.5 + 0.5, 0, 1)


def _noise(height: int, width: int, rng: np.random.Generator, gain: Callable) -> np.ndarray:
    """White noise filtered by ``gain(frequency)``, frequency in cycles per pixel, as (H, W)."""
    # Filtered on a larger frame and cut: the FFT is periodic, and opposite borders must not match.
    rows, columns = height + 32, width + 32
    frequency = np.hypot(np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None, :])
    spectrum = np.fft.rfft2(rng.standard_normal((rows, columns))) * gain(frequency)
    return np.fft.irfft2(spectrum, s=(rows, columns))[16 : 16 + height, 16 : 16 + width]


def _band(wavelength: float, width: float) -> Callable:
    """Gain of a log-normal band-pass around ``wavelength`` pixels, ``width`` octaves wide."""

    def gain(frequency: np.ndarray) -> np.ndarray:
        octaves = np.log2(np.maximum(frequency, 1e-6) * wavelength)
        return np.exp(-0.5 * (octaves / width) ** 2)

    return gain


def _blobs(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    field = _noise(height, width, rng, _band(rng.uniform(16, 24), 0.3))
    return np.tanh(3 * (field / field.std() + rng.uniform(-0.3, 0.3)))


def _bricks(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    u, v = _plane(height, width, rng, turn=0.3)
    tall = rng.uniform(9, 13)
    long = tall * rng.uniform(1.8, 2.4)
    mortar = rng.uniform(2.0, 3.5)
    row = np.floor(v / tall)
    across = np.abs((v / tall) % 1 - 0.5) * tall
    along = np.abs((u / long + row / 2) % 1 - 0.5) * long
    return _step(tall / 2 - mortar / 2 - across) * _step(long / 2 - mortar / 2 - along)


def _cells(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    pitch = rng.uniform(14, 20)
    # One jittered seed per square of a grid that reaches two squares beyond the frame on every side.
    rows, columns = int(height / pitch) + 5, int(width / pitch) + 5
    grid = np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 2) - 2
    seeds = (grid + rng.uniform(0, 1, grid.shape)) * pitch
    y, x = np.arange(height)[:, None], np.arange(width)[None, :]
    first, second = np.full((2, height, width), np.inf)
    level = np.zeros((height, width))
    for (seed_y, seed_x), seed_level in zip(seeds, rng.uniform(-1, 1, len(seeds)), strict=True):
        distance = (y - seed_y) ** 2 + (x - seed_x) ** 2
        second = np.minimum(second, np.maximum(first, distance))
        level[distance < first] = seed_level
        first = np.minimum(first, distance)
    gap = (np.sqrt(second) - np.sqrt(first)) / 2
    return _step(gap - rng.uniform(0.8, 1.4)) * (2.5 + level)


def _checks(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    u, v = _plane(height, width, rng, turn=0.3)
    side = rng.uniform(7, 11)
    return np.tanh(4 * np.sin(np.pi * u / side) * np.sin(np.pi * v / side))


def _chevrons(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    u, v = _plane(height, width, rng, turn=0.3)
    wavelength, period = rng.uniform(9, 14), rng.uniform(24, 36)
    zigzag = np.abs((v / period) % 1 - 0.5) * period * rng.uniform(0.9, 1.3)
    return np.tanh(2 * np.sin(_TAU * (u + zigzag) / wavelength))


def _clouds(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    slope = rng.uniform(1.8, 2.3)
    # Flat above 40 px, so that each border holds some of the relief and not one smooth ramp.
    return _noise(height, width, rng, lambda frequency: (frequency**2 + 40.0**-2) ** (-slope / 2))


def _dots(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    u, v = _plane(height, width, rng)
    pitch = rng.uniform(15, 20)
    radius = pitch * rng.uniform(0.2, 0.26)
    nearest = np.full((height, width), np.inf)
    # A hexagonal lattice is two rectangular ones, the second on the centres of the first.
    for half in (0.0, 0.5):
        across = ((u / pitch + half) % 1 - 0.5) * pitch
        along = ((v / (pitch * 3**0.5) + half) % 1 - 0.5) * pitch * 3**0.5
        nearest = np.minimum(nearest, np.hypot(across, along))
    return _step(radius - nearest)


def _grain(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    return _noise(height, width, rng, _band(rng.uniform(3.0, 5.0), 0.5))


def _rings(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    radius = np.hypot(y - height * rng.uniform(0.1, 0.9), x - width * rng.uniform(0.1, 0.9))
    return np.tanh(2 * np.sin(_TAU * (radius / rng.uniform(12, 18) + rng.uniform())))


def _stripes(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    u, _ = _plane(height, width, rng)
    return np.tanh(2 * np.sin(_TAU * u / rng.uniform(7, 12)))


_FIELDS: dict[str, Callable[[int, int, np.random.Generator], np.ndarray]] = {
    "blobs": _blobs,
    "bricks": _bricks,
    "cells": _cells,
    "checks": _checks,
    "chevrons": _chevrons,
    "clouds": _clouds,
    "dots": _dots,
    "grain": _grain,
    "rings": _rings,
    "stripes": _stripes,
}
CLASSES: tuple[str, ...] = tuple(sorted(_FIELDS))


def _standardise(field: np.ndarray) -> np.ndarray:
    """``field`` at mean 0 and deviation 1."""
    return (field - field.mean()) / field.std()


def texture(name: str, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Draw one texture of class ``name``, full-frame.

    Returns (height, width, 3) uint8 RGB, which depends on the arguments and the state of ``rng`` alone.
    Raises ``ValueError`` for a name that is not in ``CLASSES``.
    """
    if name not in _FIELDS:
        raise ValueError(f"no texture class {name!r}: it is one of {', '.join(CLASSES)}")
    # Bounded, then standardised again: with no tail to clip at 0 or 255, the deviation of the colours stays
    # what was drawn for it and says nothing about the class.
    field = _standardise(np.clip(_standardise(_FIELDS[name](height, width, rng)), -2, 2))
    field *= rng.choice((-1.0, 1.0))
    base = rng.uniform(100, 156, 3)
    contrast = rng.uniform(16, 40) * rng.uniform(0.5, 1.0, 3)
    light, _ = _plane(height, width, rng)
    light = _standardise(light) * rng.uniform(0, 6)
    light += rng.standard_normal(light.shape) * rng.uniform(1, 3)
    image = base + field[..., None] * contrast + light[..., None]
    return np.clip(np.rint(image), 0, 255).astype(np.uint8)


def _write(folder: Path, split: int, label: int, number: int) -> None:
    """Draw image ``number`` of a class and write it into ``folder``, seeded by its place alone."""
    rng = np.random.default_rng([VERSION, split, label, number])
    shorter = int(rng.integers(SHORTER_SIDE[0], SHORTER_SIDE[1] + 1))
    longer = round(shorter * rng.uniform(1, LARGEST_ASPECT))
    height, width = (shorter, longer) if rng.random() < 0.5 else (longer, shorter)
    image = Image.fromarray(texture(CLASSES[label], height, width, rng))
    # Full-resolution chroma: subsampling would flatten the colours of the finest classes only.
    image.save(folder / f"{number:04d}.jpg", quality=JPEG_QUALITY, subsampling=0)


def _is_whole(root: Path) -> bool:
    """Whether ``root`` holds the data set; it comes into being by one rename, so presence is enough."""
    return all((root / split).is_dir() for split in _SPLITS)


def generate(root: Path, *, train_per_class: int = TRAIN_PER_CLASS, val_per_class: int = VAL_PER_CLASS) -> Path:
    """Write the data set to ``root/{train,val}/<class>/<NNNN>.jpg`` and return ``root``, whole or not at all.

    The counts are images per class; an image does not depend on them. A ``root`` that already holds the data
    set is returned as it is. Raises ``ValueError`` for counts below 1 and ``OSError`` where ``root`` cannot
    be written or holds something else.
    """
    if min(train_per_class, val_per_class) < 1:
        raise ValueError(f"counts must be at least 1, not {train_per_class} and {val_per_class}")
    root = Path(root)
    if _is_whole(root):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    # A sibling, so that the rename stays on one file system; a name of its own for every writer.
    partial = root.parent / f".{root.name}.{os.getpid()}-{secrets.token_hex(4)}.partial"
    pool = ThreadPoolExecutor(min(4, os.cpu_count() or 1))
    try:
        partial.mkdir()
        pending = []
        for split, (folder, count) in enumerate(zip(_SPLITS, (train_per_class, val_per_class), strict=True)):
            for label, name in enumerate(CLASSES):
                target = partial / folder / name
                target.mkdir(parents=True)
                pending += [pool.submit(_write, target, split, label, number) for number in range(count)]
        for future in pending:
            future.result()
        try:
            os.rename(partial, root)
        except OSError:
            # Another process finished first: what it wrote is the same.
            if not _is_whole(root):
                raise
    finally:
        # The pool first, so that no thread writes into the folder while it is removed.
        pool.shutdown(cancel_futures=True)
        shutil.rmtree(partial, ignore_errors=True)
    return root


def ensure(cache: Path) -> Path:
    """Return the data set's folder inside ``cache``, ``textures-v<VERSION>``, generated on first use.

    Raises ``OSError`` where it is not there and ``cache`` cannot be written.
    """
    return generate(place(cache))


def place(cache: Path) -> Path:
    """Where ``ensure`` puts the data set."""
    return Path(cache) / f"textures-v{VERSION}"
