"""The data sets by name, and the one class map that every split is read with."""

import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from pcpad.config import DATA_NAMES, nearest
from pcpad.data import textures
from pcpad.data.manifest import Manifest, cache_dir, class_folders, list_images, shorten
from pcpad.data.packed import is_packed
from pcpad.data.prepare.sources import SOURCES
from pcpad.data.prepare.tree import check_count, find, marker_of, refuse_half
from pcpad.progress import say

NAMED = ("auto", *DATA_NAMES)
"""Names of data sets; any other name is the path of a folder."""
SPLITS = ("train", "val")


@dataclass(frozen=True)
class DataSet:
    """A data set ready to be read.

    Attributes:
        name: as a record states it: one of `DATA_NAMES` or the folder's name.
        classes: folder names; the position is the label.
        train, val: the splits; train is None where only an evaluation was asked for.
        excluded: damaged training images that were left out.
    """

    name: str
    classes: tuple[str, ...]
    train: Manifest | None
    val: Manifest
    excluded: int = 0


def imagenet_wnids() -> tuple[str, ...]:
    """The 1000 WordNet ids of ImageNet-1k, in the order of every published model's outputs."""
    return tuple((files("pcpad.data") / "imagenet_wnids.txt").read_text().split())


def locate(name: str) -> tuple[str, Path]:
    """Name and folder of a data set; says once under which licence the images are, where that matters.

    Raises:
        ValueError: an unknown name, one that is not prepared, or a folder that does not exist or is half prepared.
        OSError: the built-in images cannot be written.
    """
    if name == "auto":
        name = "imagenet" if os.environ.get("IMAGENET") else "textures"
    if name == "textures":
        return name, textures.ensure(cache_dir())
    if name == "imagenet" and (given := os.environ.get("IMAGENET")):
        if not Path(given).is_dir():
            raise ValueError(f"data imagenet: IMAGENET={given} is no folder")
        refuse_half(Path(given), name)
        return name, Path(given)
    if name in SOURCES:
        root = find(name)
        if root is None:
            raise ValueError(not_prepared(name))
        if SOURCES[name].shown:
            show_licence(name)
        return name, root
    root = Path(name).expanduser()
    if not root.is_dir():
        hint = nearest(Path(name).name, NAMED)
        raise ValueError(f"data {name!r} is neither {', '.join(DATA_NAMES)} nor a folder{hint}")
    refuse_half(root, name)
    packed = is_packed(root / "val") and marker_of(root)
    return packed["name"] if packed else root.resolve().name, root


def not_prepared(name: str) -> str:
    """What to do where a data set that has a name is not on this machine."""
    text = f"data {name} is not on this machine: pcpad data prepare {name} gets it ({SOURCES[name].download} to fetch)"
    if name == "imagenet":
        text = (
            "data imagenet: say where it is: IMAGENET=/path (with train/<wnid>/ and val/<wnid>/), or make it from the "
            "archives: pcpad data prepare imagenet --archives DIR --out DIR"
        )
    if Path(name).is_dir():
        text += f"; for the folder of that name: ./{name}"
    return text


@cache
def show_licence(name: str) -> None:
    """Print the licence of a data set, once in a process."""
    say(f"data {name}, licence: {SOURCES[name].licence}; cite {SOURCES[name].cite}")


def open_for_training(name: str, imagenet_head: bool = False) -> DataSet:
    """The training and validation split of a data set, with the class map of the training tree.

    Args:
        imagenet_head: where every folder is a WordNet id of ImageNet the classes are ImageNet's 1000, and each split
            may hold a part of them.

    Raises:
        ValueError: a split is missing, a class folder is empty, or the splits have different classes; says which.
    """
    title, root = locate(name)
    splits_of(name, root)
    classes = class_folders(root / "train")
    refuse_flat(root, name)
    others = class_folders(root / "val")
    if imagenet_head and {*classes, *others} <= set(imagenet_wnids()):
        names = imagenet_wnids()
        splits = [{c: i for i, c in enumerate(names) if c in set(found)} for found in (classes, others)]
        return DataSet(title, names, *(list_images(root / s, labels) for s, labels in zip(SPLITS, splits, strict=True)))
    if classes != others:
        missing = [c for c in classes if c not in others]
        extra = [c for c in others if c not in classes]
        parts = [f"{len(missing)} missing from val ({shorten(missing)})"] if missing else []
        parts += [f"{len(extra)} only in val ({shorten(extra)})"] if extra else []
        raise ValueError(f"data {name}: train and val must have the same class folders: {'; '.join(parts)} in {root}")
    if len(classes) < 2:
        raise ValueError(f"data {name}: {root / 'train'} has the one class {classes[0]!r}; at least 2 are needed")
    labels = {c: i for i, c in enumerate(classes)}
    splits = {split: list_images(root / split, labels) for split in ("train", "val")}
    for split, images in splits.items():
        check_count(root, split, images, name)
    return DataSet(title, tuple(classes), **splits)


def splits_of(name: str, root: Path) -> None:
    """Raise ValueError unless the folder of a data set has what training needs."""
    for split in SPLITS:
        if not (root / split).is_dir():
            raise ValueError(f"data {name}: no folder {root / split}; training needs train/<class>/ and val/<class>/")


def refuse_flat(root: Path, name: str) -> None:
    """Raise ValueError where the images of ImageNet's ``val`` lie in it without class folders, as its archive has them.

    A folder of them would be read as one without classes; the labels are in the devkit.
    """
    with os.scandir(root / "val") as entries:
        flat = next((entry.name for entry in entries if entry.name.startswith("ILSVRC2012_val_")), None)
    if flat:
        raise ValueError(
            f"data {name}: the images of {root / 'val'} lie in no class folders ({flat}); pcpad data prepare imagenet "
            f"--archives DIR --out {root} sorts them, with ILSVRC2012_devkit_t12.tar.gz in DIR"
        )


def open_for_evaluation(name: str, num_classes: int, classes: tuple[str, ...] | None) -> DataSet:
    """The validation split (or the folder itself) with the labels of a model.

    Args:
        num_classes: outputs of the model.
        classes: folder names the model was trained on, where they are known.

    The folders may be a part of the model's classes. Where the model's classes are unknown, a model of 1000 outputs
    is taken for an ImageNet model if every folder is a WordNet id of ImageNet, and any other folders are labelled in
    sorted order if their number is that of the outputs.

    Raises:
        ValueError: the folders do not fit the model.
    """
    title, root = locate(name)
    tree = root
    if (root / "val").is_dir():
        refuse_flat(root, name)
        root = root / "val"
    folders = class_folders(root)
    if classes is None and num_classes == 1000 and set(folders) <= set(imagenet_wnids()):
        classes = imagenet_wnids()
    if classes is not None:
        unknown = [f for f in folders if f not in classes]
        if unknown:
            raise ValueError(
                f"data {name}: {len(unknown)} of {len(folders)} folders in {root} are no class of the model "
                f"({shorten(unknown)}); its {len(classes)} classes are {shorten(list(classes))}"
            )
    elif len(folders) == num_classes:
        classes = tuple(folders)
    else:
        raise ValueError(
            f"data {name}: {root} has {len(folders)} class folders and the model {num_classes} outputs, and the names "
            f"({shorten(folders, 3)}) are not ImageNet's: the labels would be a guess"
        )
    labels = {c: i for i, c in enumerate(classes) if c in set(folders)}
    val = list_images(root, labels)
    if root != tree:
        check_count(tree, "val", val, name)
    return DataSet(title, classes, None, val)
