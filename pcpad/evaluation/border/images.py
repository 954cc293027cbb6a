"""The images of the border study: any folder will do, with labels where they are known."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcpad.data.catalogue import locate, open_for_evaluation
from pcpad.data.manifest import EXTENSIONS, Manifest, class_folders, list_class, list_images
from pcpad.data.packed import is_packed


@dataclass(frozen=True)
class Images:
    """The images that are looked at.

    Attributes:
        name: of the data set, as a record states it.
        manifest: the chosen images; labels are -1 where they are unknown.
        unlabelled: why labels are unknown; None where they are known.
    """

    name: str
    manifest: Manifest
    unlabelled: str | None


def open_images(name: str, num_classes: int, classes: tuple[str, ...] | None, count: int, seed: int) -> Images:
    """Draw images from a data set, or from any folder of images.

    Args:
        name, num_classes, classes: as in `open_for_evaluation`.
        count: how many; all of them where there are fewer.
        seed: of the choice.

    Raises:
        ValueError: there is no such data set, or no image in it.
    """
    title, root = locate(name)
    reason = None
    try:
        manifest = open_for_evaluation(name, num_classes, classes).val
    except ValueError as error:  # labels that do not fit are no hindrance here
        reason = str(error)
        manifest = list_unlabelled(root / "val" if (root / "val").is_dir() else root)
    rows = np.sort(np.random.default_rng(seed).permutation(len(manifest))[:count])
    return Images(title, manifest.take(rows), reason)


def list_unlabelled(root: Path) -> Manifest:
    """All images below a folder, with -1 for their labels; raises ValueError where there is none."""
    if is_packed(root):
        return list_images(root, dict.fromkeys(class_folders(root), -1))
    rows = [(path.removeprefix("./"), size, time) for path, size, time in list_class(root, "")]
    if not rows:
        raise ValueError(f"no image in {root} ({', '.join(EXTENSIONS[:3])}, ...)")
    paths, sizes, times = zip(*rows, strict=True)
    unknown = np.full(len(rows), -1, np.int64)
    return Manifest(root.resolve(), paths, unknown, np.array(sizes, np.int64), np.array(times, np.int64))
