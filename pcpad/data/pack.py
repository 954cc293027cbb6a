"""pcpad data pack: a class tree into the packed form, for file systems on which many small files are slow."""

import csv
import io
import json
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pcpad.config import PackSettings
from pcpad.data.catalogue import SPLITS, locate, refuse_flat
from pcpad.data.cmyk import is_cmyk
from pcpad.data.damage import open_rgb
from pcpad.data.manifest import Manifest, class_folders, list_images
from pcpad.data.packed import BLOCK, HEAD, TABLE, Row, index_text, is_packed, read_table, row_offset
from pcpad.data.prepare import tree
from pcpad.progress import Progress, say

PLAN = ".plan.json"
"""What a split under way is made of; gone when it is in its place."""
ORDER = 20180828
"""Seed of the order in which training images are packed: neighbours in a tar file are of any class."""


def pack(settings: PackSettings) -> None:
    """Pack both splits of a data set.

    Raises:
        ValueError: there is no such data set, or `out` holds something else. OSError: a file cannot be read or written.
    """
    title, root = locate(settings.data)
    if is_packed(root / "train"):
        raise ValueError(f"--data {settings.data} is packed already")
    if (root / "val").is_dir():
        refuse_flat(root, settings.data)
    splits, out = {name: listed(root / name) for name in SPLITS}, Path(settings.out).expanduser()
    there = splits_there(out, splits)
    if len(there) == len(SPLITS) and tree.read_facts(out / tree.MARKER):
        shutil.rmtree(out / tree.PARTIAL, ignore_errors=True)
        say(f"{out} holds {title} whole, packed: DATA={out}")
        return
    with tree.building(out, tree.PACK + title) as work:
        for name in [name for name in SPLITS if name not in there]:
            pack_split(splits[name], work / name, settings)
        for name in [name for name in SPLITS if name not in there]:
            os.rename(work / name, out / name)
            (out / name / PLAN).unlink()
        facts = tree.describe({name: out / name for name in SPLITS})
        about = {"name": title, "root": str(out.resolve()), "splits": facts, "packed_from": str(root)}
        tree.write_json(out / tree.MARKER, about)
        shutil.rmtree(work)
    replaced = sum(row.stored != row.size for name in SPLITS for row in read_table(out / name))
    counts = ", ".join(f"{len(images):,} {name}" for name, images in splits.items())
    more = f"; {replaced} CMYK images as PNG, with the pixels that evaluation gives them" if replaced else ""
    say(f"{title} is packed: {counts} images in {out}{more}: DATA={out}")


def listed(folder: Path) -> Manifest:
    """The images of a split, labelled by its own class folders."""
    return list_images(folder, {name: label for label, name in enumerate(class_folders(folder))})


def splits_there(out: Path, splits: dict[str, Manifest]) -> list[str]:
    """The splits that an earlier start has packed whole.

    Raises:
        ValueError: `out` holds what this command has not made, or has made of other images.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is no folder")
    held = sorted(path.name for path in out.iterdir()) if out.is_dir() else []
    packed = [name for name in SPLITS if name in held and is_packed(out / name)]
    strange = [name for name in held if name not in (*packed, tree.PARTIAL, tree.MARKER)]
    if strange or (tree.MARKER in held and not packed):
        raise ValueError(f"--out {out} is not empty ({(strange or held)[0]}): choose a new or an empty folder")
    for name in packed:
        if listed(out / name).digest != splits[name].digest:
            raise ValueError(f"--out {out} holds other images in {name}: choose a new or an empty folder")
    return packed


def pack_split(images: Manifest, folder: Path, settings: PackSettings) -> None:
    """Pack one split; tar files that are there already are whole.

    Raises:
        ValueError: what was begun there is of other images or another size of tar files. OSError: as in `pack`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plan = {"digest": images.digest, "tar_mb": settings.tar_mb}
    noted = folder / PLAN
    if noted.is_file() and json.loads(noted.read_text()) != plan:
        raise ValueError(
            f"{folder} was begun with other images or another --tar_mb ({noted.read_text().strip()}, now "
            f"{json.dumps(plan)}): choose another folder, or remove {folder.parents[1]} to begin anew"
        )
    tree.write_json(noted, plan)
    parts = divided(images, folder.name == "train", settings.tar_mb * 2**20)
    files, bar = images.files, Progress(f"packing {folder.name}", len(parts), 30.0)

    def make(number: int) -> list[tuple[int, int, int]]:
        return write_tar(folder / f"{number:05d}.tar", parts[number], images, files)

    table: list[Row | None] = [None] * len(images)
    try:
        with ThreadPoolExecutor(settings.workers or 4) as pool:
            for number, made in enumerate(pool.map(make, range(len(parts)))):
                for row, offset, size in made:
                    table[row] = Row(images.paths[row], int(images.sizes[row]), f"{number:05d}.tar", offset, size)
                bar.step(str)
    finally:
        bar.close()
    write_table(folder / TABLE, table)


def divided(images: Manifest, shuffle: bool, most: int) -> list[np.ndarray]:
    """The rows of each tar file, of about `most` bytes each."""
    order = np.random.default_rng(ORDER).permutation(len(images)) if shuffle else np.arange(len(images))
    before = np.cumsum(images.sizes[order]) - images.sizes[order]
    numbers = before // most
    return [order[numbers == number] for number in np.unique(numbers)]


def write_tar(file: Path, rows: np.ndarray, images: Manifest, files: list[str]) -> list[tuple[int, int, int]]:
    """One tar file with its index, moved to its place when whole; returns row, offset and bytes of its images."""
    index = file.with_suffix(".idx")
    if file.is_file():
        return read_back(index)
    made = []
    part = file.with_suffix(".part")
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows.tolist():
            content, kind = content_of(files[row], int(images.sizes[row]))
            made.append((kind, row, tar.offset + BLOCK, len(content)))
            add(tar, f"{row:08d}.{kind}", content)
            assert tar.offset + BLOCK == row_offset(*made[-1][2:])
            add(tar, f"{row:08d}.row", np.int32(row).tobytes())
    index.write_text(index_text(made))
    for written in (index, part):
        with open(written, "rb") as file_:
            os.fsync(file_.fileno())
    os.replace(part, file)
    return [entry[1:] for entry in made]


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Append one member."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def content_of(file: str, size: int) -> tuple[bytes, str]:
    """The bytes that stand for an image, and the ending of their kind.

    Raises:
        OSError: the file has changed since it was listed.
    """
    if is_cmyk(file):  # DALI's own conversion gives other pixels
        png = io.BytesIO()
        open_rgb(file).save(png, "PNG", compress_level=1)
        return png.getvalue(), "png"
    content = Path(file).read_bytes()
    if len(content) != size:
        raise OSError(f"{file} has changed while it was packed: {len(content)} bytes, {size} when it was listed")
    return content, Path(file).suffix.lower().lstrip(".")


def read_back(index: Path) -> list[tuple[int, int, int]]:
    """What `write_tar` returned when it wrote the tar file of this index."""
    lines = [line.split() for line in index.read_text().splitlines()[1:]]
    return [(int(name.partition(".")[0]), int(offset), int(size)) for _, offset, size, name, *_ in lines]


def write_table(file: Path, rows: list[Row]) -> None:
    """Write the table of a split in one step."""
    part = file.with_suffix(".part")
    with open(part, "w", newline="", encoding="utf-8", errors="surrogateescape") as out:
        writer = csv.writer(out)
        writer.writerow(HEAD)
        writer.writerows(rows)
    os.replace(part, file)
