"""Damaged image files: the one way to open an image, and the search for the file that broke a batch."""

import errno
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from pcpad.data.packed import place_of, source

_CHUNK = 1024
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class DamagedImageError(ValueError):
    """An image file that cannot be decoded; the message is one line that names the file and the way out.

    Attributes:
        path: the file, where the error is about one.
        reason: what is wrong with it, on one line.
    """

    path: str | None = None
    reason: str | None = None

    @classmethod
    def of(cls, path: str, reason: str) -> "DamagedImageError":
        """Makes the error of one file."""
        reason = " ".join(reason.split())
        error = cls(f"damaged image {path}: {reason}; remove or repair it")
        error.path, error.reason = path, reason
        return error


def open_rgb(path: str) -> Image.Image:
    """Decodes a whole image file to RGB: the pixels that every loader has to give.

    As PIL's ``convert("RGB")``: alpha is dropped, EXIF orientation ignored. Only 16-bit grey differs: PIL
    clips it to 8 bits, almost white; here it is scaled, ``round(value / 257)``, as DALI scales it.

    Raises:
        DamagedImageError: the file is missing, empty, truncated, no image, or larger than PIL's limit.
    """
    # A library that sets this would let half pictures pass silently.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    with _naming(path), Image.open(source(path)) as image:
        image.load()
        # PIL would look for a colour that carries the transparency over, and warn; the pixels are the same.
        image.info.pop("transparency", None)
        if image.mode.startswith("I;16"):
            grey = np.asarray(image).astype(np.uint32)
            return Image.fromarray(((grey + 128) // 257).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def check_image(path: str) -> tuple[int, int]:
    """Decodes a whole image file as the loaders do and returns its ``(height, width)`` in pixels.

    Raises:
        DamagedImageError: the file cannot be decoded.
    """
    image = open_rgb(path)
    return image.height, image.width


def head_size(path: str) -> tuple[int, int]:
    """Height and width in pixels that the head of an image file states; the image is not decoded.

    Raises:
        DamagedImageError: the head cannot be read.
    """
    with _naming(path), Image.open(source(path)) as image:
        return image.height, image.width


def first_damaged(files: Sequence[str], formats: Collection[str] | None = None) -> tuple[str, str] | None:
    """Searches for a file that cannot be decoded: the headers of all files first, then whole images.

    Args:
        files: the paths, the likely ones first.
        formats: PIL's names of the formats that the caller can decode; a file in another one counts as
            damaged. None: whatever PIL decodes.

    Returns:
        The path and the reason of the first one found, or None where all files are fine.
    """
    with ThreadPoolExecutor() as pool:
        for check in (partial(_check_header, formats=formats), check_image):
            for start in range(0, len(files), _CHUNK):  # a chunk at a time: the pool queues all it is given
                for error in pool.map(partial(_failure, check), files[start : start + _CHUNK]):
                    if error is not None:
                        return error.path, error.reason
    return None


def _check_header(path: str, formats: Collection[str] | None) -> None:
    with _naming(path), Image.open(source(path)) as image:
        if formats is not None and image.format not in formats:
            raise DamagedImageError.of(path, f"in the format {image.format}, which this loader cannot decode")


def _failure(check: Callable[[str], object], path: str) -> DamagedImageError | None:
    try:
        check(path)
    except DamagedImageError as error:
        return error
    return None


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Turns whatever PIL raises for a damaged file into a DamagedImageError that names it."""
    try:
        yield
    except (DamagedImageError, MemoryError, Warning):
        raise
    except Exception as error:  # PIL's plugins raise OSError, SyntaxError, ValueError, struct.error and more
        if isinstance(error, OSError) and error.errno in _OUT_OF_RESOURCES:
            raise
        raise DamagedImageError.of(path, _reason(path, error)) from error


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        place = place_of(path)
        size = os.path.getsize(path) if place is None else place.size
        return "the file is empty" if size == 0 else "not an image, or its header is damaged"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
