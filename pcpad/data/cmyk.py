"""CMYK images for DALI: converted once by PIL, because DALI's own conversion gives other pixels.

Measured: DALI truncates where PIL rounds (0.4 of 255 on average for an image with black in it), and a file without an
Adobe marker comes out inverted.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from PIL import Image

from pcpad.data.damage import DamagedImageError, open_rgb
from pcpad.data.manifest import cache_dir
from pcpad.data.packed import source


def without_cmyk(files: Sequence[str]) -> list[str]:
    """The paths, with an RGB copy from the cache (a PNG, the pixels of `open_rgb`) in place of each CMYK image.

    Reads the header of every file, once in a process. Files that cannot be read stay: their damage is reported when
    they are decoded.
    """
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(is_cmyk, files))
    return [rgb_copy(file) if cmyk else file for file, cmyk in zip(files, found, strict=True)]


@cache
def is_cmyk(path: str) -> bool:
    """Whether the header of an image says CMYK; False where there is no readable header."""
    try:
        with Image.open(source(path)) as image:
            return image.mode == "CMYK"
    except Exception:  # whatever PIL raises for a damaged header, the decoder will name it
        return False


def rgb_copy(path: str) -> str:
    """Path of an RGB copy of an image, made where there is none of this version of the file."""
    stat = os.stat(path)
    key = hashlib.sha256(os.fsencode(f"{os.path.abspath(path)}\0{stat.st_size}\0{stat.st_mtime_ns}")).hexdigest()[:24]
    folder = cache_dir() / "rgb"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError:
        folder = Path(tempfile.gettempdir())
    target = folder / f"pcpad-{key}.png"
    if not target.exists():
        try:
            image = open_rgb(path)
        except DamagedImageError:
            return path
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        image.save(temporary, "PNG", compress_level=1)
        os.replace(temporary, target)
    return str(target)
