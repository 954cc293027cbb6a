"""ELPV: photographs of solar cells in two classes, from the PyPI package elpv-dataset, with a fixed split.

Experts rated each cell functional or defective, and whether they were sure. The published probability of a defect is 0
for functional, 1/3 for functional but not sure, 2/3 for defective but not sure, 1 for defective (Deitsch et al., Solar
Energy 185, 2019). The class here is the rating: ``defective`` above 1/2, ``functional`` below. A cell's
probability and type (mono or poly) stay readable in ``labels.csv`` of the package, by the name of its file.

The authors trained on 1,968 cells and tested on 656, drawn so that both have the classes in the same shares; the
package does not say which. Here a quarter of each of the eight groups of one probability and type is ``val``, 656 cells
in all: those whose SHA-256 of the file's name is lowest. Which module a cell was cut from is not in the package, so
that cells of one module can be in both splits.
"""

import hashlib
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from pcpad.data.prepare import tree
from pcpad.data.prepare.downloads import about
from pcpad.data.prepare.sources import SOURCES

DIGEST = "f948aedf9691d402b6765c675e77b7e4424734446b34a566444111d0035d9f6d"
"""SHA-256 over the names and bytes of labels.csv and of the images, in the order of labels.csv; package 1.0.0.post1."""


def prepare_elpv(root: Path, package: Path | None = None, digest: str = DIGEST) -> dict:
    """Copy the images of the package into class folders.

    Args:
        package: the folder with ``labels.csv`` and ``images/``; the installed package's if None.
        digest: `content_digest` of it.

    Returns:
        The marker's content.

    Raises:
        ValueError: the package is not installed, or holds other images. OSError: the images cannot be written.
    """
    package = package or find_package()
    rows = read_labels(package / "labels.csv")
    found = content_digest(package, rows)
    if found != digest:
        raise ValueError(
            f"{package} does not hold the images that this was made for (SHA-256 {found[:12]}, not {digest[:12]}): "
            "pip install --force-reinstall 'elpv-dataset==1.0.0.post1'"
        )
    val = choose_val(rows)
    expected = {"train": len(rows) - len(val), "val": len(val)}
    with tree.building(root, "elpv") as work:
        for split in tree.SPLITS:
            if (root / split).is_dir() or (work / split).is_dir():
                continue
            with tree.whole_folder(work / split) as folder:
                for name, probability, _ in rows:
                    if (name in val) == (split == "val"):
                        place = folder / class_of(probability)
                        place.mkdir(exist_ok=True)
                        shutil.copyfile(package / name, place / Path(name).name)
        return tree.finish(root, "elpv", expected, about("elpv") | {"sha256": digest})


def find_package() -> Path:
    """The folder of the images in the installed package.

    Raises:
        ValueError: it is not installed.
    """
    spec = find_spec("elpv_dataset")
    if spec is None:
        source = SOURCES["elpv"]
        raise ValueError(
            f"data elpv: the images come with the package elpv-dataset ({source.download}; {source.licence}), which is "
            "not installed: pip install 'pcpad[elpv]' (or elpv-dataset alone), and start again"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def read_labels(file: Path) -> list[tuple[str, float, str]]:
    """Path, probability of a defect, and type of each cell.

    Raises:
        ValueError: the file is not there or holds something else.
    """
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
        return [(path, float(probability), kind) for path, probability, kind in rows]
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} is not the list of elpv-dataset ({error}); install the package again") from error


def content_digest(package: Path, rows: Iterable[tuple[str, float, str]]) -> str:
    """SHA-256 over names and bytes of the list and of the images; an image that is not there counts as empty."""
    sha = hashlib.sha256()
    for name in ("labels.csv", *(row[0] for row in rows)):
        content = (package / name).read_bytes() if (package / name).is_file() else b""
        sha.update(f"{name} {len(content)}\n".encode() + content)
    return sha.hexdigest()


def class_of(probability: float) -> str:
    """The class of a probability of a defect.

    >>> [class_of(p) for p in (0.0, 1 / 3, 2 / 3, 1.0)]
    ['functional', 'functional', 'defective', 'defective']
    """
    return "defective" if probability > 0.5 else "functional"


def choose_val(rows: list[tuple[str, float, str]]) -> set[str]:
    """The paths of the validation images: a quarter of each group, rounded so that they are a quarter of all."""
    groups: dict[tuple[float, str], list[str]] = {}
    for name, probability, kind in rows:
        groups.setdefault((probability, kind), []).append(name)
    taken = {key: len(names) // 4 for key, names in groups.items()}
    by_rest = sorted(groups, key=lambda key: (-(len(groups[key]) % 4), key))
    for key in by_rest[: len(rows) // 4 - sum(taken.values())]:
        taken[key] += 1

    def order(name: str) -> bytes:
        return hashlib.sha256(Path(name).name.encode()).digest()

    return {name for key, names in groups.items() for name in sorted(names, key=order)[: taken[key]]}
