"""CIFAR-10 and Imagenette: fetched and verified by torchvision, written as class folders of images."""

import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import URLError

import numpy as np
from PIL import Image

from pcpad.data.prepare import tree
from pcpad.data.prepare.archives import Archive, verify
from pcpad.data.prepare.sources import SOURCES
from pcpad.folders import remove_empty


def prepare_cifar10(root: Path, archives: Path | None, workers: int, images: dict[str, int] | None = None) -> dict:
    """CIFAR-10 as PNG files, ``train/<class>/NNNNN.png``; a class that an earlier start wrote is kept.

    Args:
        archives: a folder that may hold the archive, so that it is not downloaded.
        workers: threads.
        images: split to its number of images; CIFAR-10's if None.

    Returns:
        The marker's content.

    Raises:
        ValueError: it cannot be downloaded; says what to put where. OSError: it cannot be written.
    """
    from torchvision.datasets import CIFAR10

    with tree.building(root, "cifar10") as work:
        store = open_store("cifar10", work, archives)
        for split in tree.SPLITS:
            data = fetch("cifar10", store, lambda split=split: CIFAR10(store, train=split == "train", download=True))
            if not (root / split).is_dir():
                write_classes(data.data, np.array(data.targets), data.classes, work / split, workers)
        return tree.finish(root, "cifar10", images or counts("cifar10"), about("cifar10"))


def write_classes(data: np.ndarray, labels: np.ndarray, classes: list[str], target: Path, workers: int) -> None:
    """Write images ``(n, height, width, 3)`` as PNG files named by their place, in the folders of their classes."""

    def write(label: int) -> None:
        if (target / classes[label]).is_dir():
            return
        with tree.whole_folder(target / classes[label]) as folder:
            for index in np.flatnonzero(labels == label):
                Image.fromarray(data[index]).save(folder / f"{index:05}.png")

    with ThreadPoolExecutor(workers) as pool:
        for future in [pool.submit(write, label) for label in range(len(classes))]:
            future.result()


def prepare_imagenette(root: Path, archives: Path | None, images: dict[str, int] | None = None) -> dict:
    """Imagenette of 320 pixels as its archive has it, ``train/<wnid>/*.JPEG``.

    Args:
        archives: a folder that may hold the archive, so that it is not downloaded.
        images: split to its number of images; Imagenette's if None.

    Returns:
        The marker's content.

    Raises:
        ValueError: it cannot be downloaded; says what to put where. OSError: it cannot be written.
    """
    from torchvision.datasets import Imagenette

    with tree.building(root, "imagenette") as work:
        store = open_store("imagenette", work, archives)
        extracted = store / "imagenette2-320"
        if not all((root / split).is_dir() or (work / split).is_dir() for split in tree.SPLITS):
            # torchvision takes any folder of that name for whole, also what a killed process has left.
            shutil.rmtree(extracted, ignore_errors=True)
            fetch("imagenette", store, lambda: Imagenette(store, size="320px", download=True))
            for split in tree.SPLITS:
                if not (root / split).is_dir():
                    shutil.rmtree(work / split, ignore_errors=True)
                    os.rename(extracted / split, work / split)
        return tree.finish(root, "imagenette", images or counts("imagenette"), about("imagenette"))


def counts(name: str) -> dict[str, int]:
    """Split to the number of images of a data set."""
    return {"train": SOURCES[name].train, "val": SOURCES[name].val}


def about(name: str) -> dict:
    """What the marker says beside the images: where they come from."""
    return {"source": SOURCES[name].origin, "licence": SOURCES[name].licence, "archives": [SOURCES[name].md5]}


def open_store(name: str, work: Path, archives: Path | None) -> Path:
    """The folder that torchvision downloads into, with a link to the archive where it is at hand.

    Raises:
        ValueError: it is not in the folder that was given, or damaged.
    """
    store, source = work / "download", SOURCES[name]
    if archives is not None:
        if not (archives / source.file).is_file():
            raise ValueError(f"--archives {archives} has no {source.file}: download {source.url} into it")
        # Verified here: torchvision would write over a damaged one, through the link.
        path = verify(Archive(source.file, source.md5, source.download), archives)
        store.mkdir(exist_ok=True)
        (store / source.file).unlink(missing_ok=True)
        (store / source.file).symlink_to(path.resolve())
    return store


def fetch(name: str, store: Path, download: Callable):
    """The data set that torchvision makes of its download; an archive that is there is used if its MD5 is right.

    Raises:
        ValueError: there is no network, or what came is damaged; says what to download and where to put it.
        OSError: it cannot be written.
    """
    try:
        return download()
    except (OSError, RuntimeError, EOFError) as error:  # a damaged file is a RuntimeError of torchvision's
        on_disk = isinstance(error, OSError) and not isinstance(error, URLError)
        if on_disk and (error.filename is not None or error.errno in tree.DISK_FULL):
            raise
        what = " ".join(str(error).split())
        remove_empty([store])
        raise ValueError(
            f"data {name}: the download failed ({what}); start again, or download {SOURCES[name].url} "
            f"({SOURCES[name].download}) elsewhere and give its folder: pcpad data prepare {name} --archives DIR"
        ) from error
