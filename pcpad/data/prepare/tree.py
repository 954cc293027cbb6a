"""A prepared tree: built in a hidden folder inside its root, and whole when its marker stands there.

``ROOT/.pcpad-partial/`` holds what is under way, ``ROOT/train`` and ``ROOT/val`` are moved out of it when all images
are there, and ``ROOT/pcpad-data.json``, the marker, is written last. Where the first is there without the last, the
tree is not whole and nothing reads it. ``CACHE/data/NAME.json`` remembers where the tree of a name lies.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pcpad.data.manifest import Manifest, cache_dir, class_folders, list_images
from pcpad.folders import remove_empty
from pcpad.lock import locked

MARKER = "pcpad-data.json"
PARTIAL = ".pcpad-partial"
PACK = "pack of "
"""What the name of a data set begins with where it is being packed."""
SPLITS = ("train", "val")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def default_root(name: str) -> Path:
    """Where a data set is prepared if nothing else is said."""
    return cache_dir() / "data" / name


def note_file(name: str) -> Path:
    """The file of the cache that remembers where the tree of a name lies."""
    return cache_dir() / "data" / f"{name}.json"


def read_facts(file: Path) -> dict | None:
    """A marker's content; None where there is none that can be read."""
    try:
        facts = json.loads(file.read_text())
        return facts if {"name", "root", "splits"} <= set(facts) else None
    except (OSError, ValueError, TypeError):
        return None


def write_json(file: Path, content) -> None:
    """Write plain values in one step, so that it is there whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "w") as out:
            out.write(json.dumps(content, indent=1) + "\n")
            out.flush()
            os.fsync(out.fileno())
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def marker_of(root: Path) -> dict | None:
    """What the marker of a tree says, be it in the tree or, for one that cannot be written, in the cache."""
    facts = read_facts(root / MARKER)
    if facts is None and root.is_dir() and not (root / PARTIAL).exists():
        notes = (read_facts(file) for file in sorted((cache_dir() / "data").glob("*.json")))
        facts = next((note for note in notes if note and note["root"] == str(root.resolve())), None)
        facts = facts if facts and facts.get("marker_in_cache") else None
    return facts


def find(name: str) -> Path | None:
    """The whole tree of a name: the one prepared last, else the one in the cache; None where there is none."""
    note = read_facts(note_file(name))
    roots = [Path(note["root"])] if note else []
    for root in [*roots, default_root(name)]:
        facts = marker_of(root)
        if facts and facts["name"] == name and all((root / split).is_dir() for split in SPLITS):
            return root
    return None


def refuse_half(root: Path, name: str) -> None:
    """Raise ValueError where `root` is a tree that is only half prepared."""
    if (root / PARTIAL).exists() and read_facts(root / MARKER) is None:
        what = read_name(root) or "NAME"
        if what.startswith(PACK):
            raise ValueError(
                f"data {name}: {root} is only half packed; go on with pcpad data pack --data ... --out {root}"
            )
        raise ValueError(
            f"data {name}: {root} is only half prepared; go on with pcpad data prepare {what} --out {root}"
            + (" --archives DIR" if what == "imagenet" else "")
        )


def read_name(root: Path) -> str | None:
    """Which data set is being prepared in `root`; None where nothing is."""
    try:
        return (root / PARTIAL / "name").read_text("utf-8", "surrogateescape").strip() or None
    except OSError:
        return None


def check_count(root: Path, split: str, images: Manifest, name: str) -> None:
    """Raise ValueError where a tree with a marker has not as many images as the marker says."""
    facts = marker_of(root)
    wanted = facts["splits"].get(split, {}).get("images") if facts else None
    if wanted is not None and wanted != len(images):
        raise ValueError(
            f"data {name}: {root / split} has {len(images):,} images and {MARKER} says {wanted:,}: files were removed "
            f"or added since it was prepared; put them right, or prepare it anew in an empty folder"
        )


@contextmanager
def building(root: Path, name: str) -> Iterator[Path]:
    """The folder that a data set is built in, held by one process at a time; it stays until `finish`.

    After an error what was done stays too, but a folder in which nothing was done is gone.

    Raises:
        ValueError: another process is at it, or another data set. OSError: it cannot be written, or the disk is full.
    """
    work = root / PARTIAL
    created = [path for path in (work, *work.parents) if not path.exists()]
    try:
        with locked(work):
            other = read_name(root)
            if other and other != name:
                raise ValueError(f"--out {root}: {other} is half prepared there; choose another folder")
            (work / "name").write_text(f"{name}\n", "utf-8", "surrogateescape")
            try:
                yield work
            except BaseException:
                if {path.name for path in work.iterdir()} <= {"name", ".lock"}:
                    (work / "name").unlink()
                raise
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        raise OSError(f"{root}: the disk is full; make room and start again: it goes on where it stopped") from error
    finally:
        remove_empty([work, *created])


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder to write files into that becomes `folder` when all are there; what an earlier try left is removed."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    yield part
    os.rename(part, folder)


def finish(root: Path, name: str, expected: dict[str, int], facts: dict) -> dict:
    """Check the number of images, move the splits to their places, write the marker, and remove what is left over.

    Args:
        expected: split to its number of images.
        facts: what else the marker says (source, licence, checksums).

    Returns:
        The marker's content.

    Raises:
        ValueError: images are missing or too many, or the splits have different classes.
    """
    work = root / PARTIAL
    places = {split: work / split if (work / split).is_dir() else root / split for split in SPLITS}
    splits = describe(places)
    for split, number in expected.items():
        if splits[split]["images"] != number:
            raise ValueError(
                f"{places[split]} has {splits[split]['images']:,} images, {name} has {number:,} in {split}"
            )
    if splits["train"]["classes"] != splits["val"]["classes"]:
        raise ValueError(f"{root}: train and val have different class folders")
    for split, place in places.items():
        if place != root / split:
            os.rename(place, root / split)  # onto nothing, or an empty folder
    return mark(root, name, splits, facts)


def describe(places: dict[str, Path]) -> dict[str, dict]:
    """Number of images, classes and bytes, and digest, of each split, by the folder it lies in."""
    found = {}
    for split, place in places.items():
        classes = class_folders(place)
        images = list_images(place, {folder: label for label, folder in enumerate(classes)})
        facts = {"images": len(images), "classes": len(classes), "bytes": int(images.sizes.sum())}
        found[split] = {**facts, "digest": images.digest}
    return found


def mark(root: Path, name: str, splits: dict, facts: dict) -> dict:
    """Write the marker of a whole tree, remember the tree under its name, and remove the folder it was built in.

    A tree that cannot be written has its marker in the cache.
    """
    from pcpad import __version__

    facts = {"name": name, "root": str(root.resolve()), "splits": splits, **facts}
    facts |= {"prepared": time.strftime("%Y-%m-%d %H:%M:%S"), "pcpad": __version__}
    try:
        write_json(root / MARKER, facts)
    except OSError:
        if (root / PARTIAL).exists():
            raise
        facts["marker_in_cache"] = True
    shutil.rmtree(root / PARTIAL, ignore_errors=True)
    write_json(note_file(name), facts)
    return facts
