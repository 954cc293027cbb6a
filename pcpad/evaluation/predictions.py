"""The predictions that are kept beside a record; without torch."""

import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

DAMAGE = (zipfile.BadZipFile, zlib.error, ValueError, TypeError, KeyError, IndexError, EOFError, RuntimeError)
"""What reading a damaged .npz raises."""


def hits(folder: Path, record: dict) -> "np.ndarray | None":
    """Whether each image of a record was right: bool ``(n,)``, in the order of the manifest.

    None where the predictions are not at hand, or damaged, or not those that the record counts.
    """
    import numpy as np

    try:
        with open(folder / record["predictions"], "rb") as file, np.load(file) as kept:
            right = kept["top5"][:, 0] == kept["label"]
    except (OSError, *DAMAGE):
        return None
    fits = right.shape == (record["n"],) and int(right.sum()) == record["top1"]
    return right if fits else None
