"""Manifest: the list of images of one split, and which of them are known to decode."""

import csv
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pcpad.data.damage import DamagedImageError, check_image, head_size
from pcpad.data.packed import is_packed, place_of, read_table

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of an image's file name, in any case; other files are passed over (torchvision's list)."""

CHUNK = 4096
"""Images that are decoded before it is looked whether to write down which are intact."""
REMEMBER_SECONDS = 60.0
"""Seconds after which that is written down."""


def cache_dir() -> Path:
    """Where pcpad keeps what it can make again: $PCPAD_CACHE, else $XDG_CACHE_HOME/pcpad, else ~/.cache/pcpad."""
    if os.environ.get("PCPAD_CACHE"):
        return Path(os.environ["PCPAD_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "pcpad"


@dataclass(frozen=True)
class Manifest:
    """The images of one split, in a fixed order.

    Attributes:
        root: folder that the paths are relative to.
        paths: one for each image, ``class/file``.
        labels: int64 ``(n,)``, index into the class map.
        sizes: int64 ``(n,)``, bytes of each file.
        times: int64 ``(n,)``, time of last change, nanoseconds.
        places: of a packed split, where each image is (`packed.Row.place`); None where it is at its path.
    """

    root: Path
    paths: tuple[str, ...]
    labels: np.ndarray
    sizes: np.ndarray
    times: np.ndarray
    places: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def files(self) -> list[str]:
        """Absolute path of each image."""
        return [os.path.join(self.root, path) for path in self.places or self.paths]

    def take(self, rows: np.ndarray) -> "Manifest":
        """Some of the images, in the order of `rows`."""
        return Manifest(
            root=self.root,
            paths=tuple(self.paths[row] for row in rows),
            labels=self.labels[rows],
            sizes=self.sizes[rows],
            times=self.times[rows],
            places=self.places and tuple(self.places[row] for row in rows),
        )

    @property
    def digest(self) -> str:
        """12 hexadecimal digits over path, label and bytes of every image; the place of the folder is left out."""
        sha = hashlib.sha256()
        for path, label, size in zip(self.paths, self.labels, self.sizes, strict=True):
            sha.update(os.fsencode(f"{path}\t{label}\t{size}\n"))
        return sha.hexdigest()[:12]


def class_folders(root: Path) -> list[str]:
    """Sorted names of the folders below `root`, hidden ones passed over; of a packed split, its classes.

    Raises:
        ValueError: there is no such folder, or it has no folders.
    """
    if not root.is_dir():
        raise ValueError(f"no folder {root}")
    if is_packed(root):
        return sorted({row.path.partition("/")[0] for row in read_table(root)})
    names = sorted(e.name for e in os.scandir(root) if e.is_dir() and not e.name.startswith("."))
    if not names:
        raise ValueError(f"{root} has no class folders: images belong into {root}/<class>/")
    return names


def list_images(root: Path, labels: dict[str, int]) -> Manifest:
    """List the images below ``root/<class>/``, at any depth, sorted by class and path.

    Args:
        labels: class folder to label; every one must be there and hold an image.

    Raises:
        ValueError: class folders without any image; names them.
    """
    if is_packed(root):
        return list_packed(root, labels)
    with ThreadPoolExecutor(16) as pool:  # the time goes into waiting for a network file system
        found = list(pool.map(lambda name: list_class(root, name), labels))
    empty = [name for name, rows in zip(labels, found, strict=True) if not rows]
    if empty:
        raise ValueError(
            f"{len(empty)} of {len(labels)} class folders in {root} hold no image: {shorten(empty)}; "
            f"add images ({', '.join(EXTENSIONS[:3])}, ...) or remove the class from every split"
        )
    rows = [row for part in found for row in part]
    counts = [len(part) for part in found]
    return Manifest(
        root=root.resolve(),
        paths=tuple(row[0] for row in rows),
        labels=np.repeat(np.fromiter(labels.values(), np.int64), counts),
        sizes=np.array([row[1] for row in rows], np.int64),
        times=np.array([row[2] for row in rows], np.int64),
    )


def list_packed(root: Path, labels: dict[str, int]) -> Manifest:
    """`list_images` of a packed split: paths, labels, order and bytes are those of the tree that it was made of.

    Raises:
        ValueError: the folder's own path looks like that of an image in it.
    """
    if place_of(f"{root.resolve()}/"):
        raise ValueError(f"{root.resolve()} has a name that packed images have: rename the folder")
    by_class: dict[str, list] = {name: [] for name in labels}
    for i, row in enumerate(read_table(root)):
        name = row.path.partition("/")[0]
        if name in by_class:
            by_class[name].append((i, row, labels[name]))
    table = [entry for entries in by_class.values() for entry in entries]
    changed = {tar: os.stat(root / tar).st_mtime_ns for tar in {row.tar for _, row, _ in table}}
    return Manifest(
        root=root.resolve(),
        paths=tuple(row.path for _, row, _ in table),
        labels=np.array([label for _, _, label in table], np.int64),
        sizes=np.array([row.size for _, row, _ in table], np.int64),
        times=np.array([changed[row.tar] for _, row, _ in table], np.int64),
        places=tuple(row.place(i) for i, row, _ in table),
    )


def list_class(root: Path, name: str) -> list[tuple[str, int, int]]:
    """Path relative to `root`, bytes and time of change of each image of one class, sorted by path."""
    rows = []
    for folder, inner, files in os.walk(root / name, followlinks=True):
        inner[:] = [d for d in inner if not d.startswith(".")]
        for file in files:
            if file.lower().endswith(EXTENSIONS) and not file.startswith("."):
                path = os.path.join(folder, file)
                stat = os.stat(path)
                rows.append((os.path.relpath(path, root), stat.st_size, stat.st_mtime_ns))
    return sorted(rows)


def shorten(names: list[str], most: int = 5) -> str:
    """A list for a message, cut after `most`."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def leave_out(manifest: Manifest, file: Path) -> Manifest:
    """The images that `file` does not name; it holds one path a line, as `Manifest.paths` has them.

    Raises:
        ValueError: there is no such file, it names what is no image of this split, or all images of a class.
    """
    try:
        lines = [os.fsdecode(line) for line in file.read_bytes().split(b"\n")]
    except OSError as error:
        raise ValueError(f"the list of images to leave out, {file}, cannot be read: {error.strerror}") from None
    known = set(manifest.paths)
    for number, name in enumerate(lines, 1):
        if name and name not in known:
            raise ValueError(f"{file}, line {number}: {name!r} is no image in {manifest.root}; make the list anew")
    out = set(lines) - {""}
    kept = np.array([path not in out for path in manifest.paths])
    emptied = sorted({path.split("/")[0] for path in out} - {p.split("/")[0] for p in known - out})
    if emptied:
        way = "repair some, or remove the class from every split"
        raise ValueError(f"{file} leaves no image of {shorten(emptied)}: {way}")
    return manifest.take(np.flatnonzero(kept))


def check_images(manifest: Manifest, workers: int) -> int:
    """`decode_images`, for those who need all of them intact.

    Returns:
        The number of images that were decoded now.

    Raises:
        DamagedImageError: naming the first damaged image, its reason, and how many there are.
    """
    done, damaged = decode_images(manifest, workers)
    if damaged:
        more = f" ({len(damaged)} of {done} images are damaged)" if len(damaged) > 1 else ""
        raise DamagedImageError(f"{damaged[0]}{more}")
    return done


def decode_images(
    manifest: Manifest, workers: int, progress: Callable[[int], None] | None = None
) -> tuple[int, list[DamagedImageError]]:
    """Decode every image that was not found intact before, in parallel, and remember the intact ones.

    The cache beside the textures holds path, label, bytes, time, height, width and status of each image that was
    checked; an image counts as known while its bytes and its time of change are the same.

    Args:
        workers: threads.
        progress: called after each image with the number of those to be decoded.

    Returns:
        The number of images that were decoded now, and what is wrong with the damaged ones, in the order of the split.
    """
    store = check_store(manifest)
    known = read_checks(store)
    facts = list(zip(manifest.paths, manifest.sizes.tolist(), manifest.times.tolist(), strict=True))
    todo = [i for i, fact in enumerate(facts) if fact not in known]
    if not todo:
        return 0, []
    files, damaged = manifest.files, []

    def look(i: int):
        try:
            return i, check_image(files[i]), None
        except DamagedImageError as error:
            return i, None, error

    written = time.monotonic()
    try:
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(todo), CHUNK):
                for i, size, error in pool.map(look, todo[start : start + CHUNK]):
                    if error:
                        damaged.append(error)
                    else:
                        known[facts[i]] = (int(manifest.labels[i]), *size)
                    if progress:
                        progress(len(todo))
                if time.monotonic() - written > REMEMBER_SECONDS:
                    write_checks(store, known)
                    written = time.monotonic()
    finally:  # also where it is broken off
        write_checks(store, known)
    return len(todo), damaged


def image_sizes(manifest: Manifest, workers: int) -> np.ndarray:
    """Height and width of every image, from what `check_images` remembers or from the head of the file.

    Args:
        workers: threads.

    Returns:
        int64 ``(n, 2)``.

    Raises:
        DamagedImageError: a file that is no image; names it.
    """
    known = read_checks(check_store(manifest))
    facts = zip(manifest.paths, manifest.sizes.tolist(), manifest.times.tolist(), strict=True)

    def look(pair) -> tuple[int, int]:
        fact, file = pair
        return known[fact][1:] if fact in known else head_size(file)

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(look, zip(facts, manifest.files, strict=True)))
    return np.array(found, np.int64).reshape(-1, 2)


def check_store(manifest: Manifest) -> Path:
    """The file that remembers which images of a split were found intact."""
    return cache_dir() / "manifests" / f"{hashlib.sha256(os.fsencode(manifest.root)).hexdigest()[:16]}.csv"


def read_checks(store: Path) -> dict:
    """(path, bytes, time) to (label, height, width) of the images found intact; empty if there is no such file."""
    try:
        with open(store, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.reader(file)
            next(rows)
            return {(r[0], int(r[2]), int(r[3])): (int(r[1]), int(r[4]), int(r[5])) for r in rows}
    except (OSError, StopIteration, ValueError, IndexError):  # it can be made again
        return {}


def write_checks(store: Path, known: dict) -> None:
    """Replace the file of checked images in one step; a cache that cannot be written is no error."""
    temporary = store.with_suffix(f".{os.getpid()}.tmp")
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = csv.writer(file)
            rows.writerow(["path", "label", "bytes", "mtime_ns", "height", "width", "status"])
            for (path, size, time), (label, height, width) in known.items():
                rows.writerow([path, label, size, time, height, width, "ok"])
        os.replace(temporary, store)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
