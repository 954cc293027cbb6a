"""The packed form of a split: its images in a few tar files that are read from front to back (WebDataset).

A split's folder holds ``00000.tar``, ``00001.tar``, ..., each with DALI's index ``00000.idx`` beside it, and
``pcpad-packed.csv``, the table of the images in the order of the tree they come from. For each a tar file has two
members: ``00000042.jpeg``, the file's bytes, and ``00000042.row``, its row of the table as an int32. An image goes by a
path that says where its bytes are: ``00000.tar@42:512+110233/n01440764/n01440764_10026.JPEG``.
"""

import csv
import io
import re
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

TABLE = "pcpad-packed.csv"
HEAD = ["path", "bytes", "tar", "offset", "stored"]
BLOCK = 512
"""Bytes that a member of a tar file, and its header, are a multiple of."""
PLACE = re.compile(r"\.tar@(\d+):(\d+)\+(\d+)/")
COMPONENTS = ("img", "row")
PART = 1000
"""Images that are read one after the other at least, where a tar file has as many."""
MOST_PARTS = 500
"""DALI holds a file open for each part, and a process may have 1,024."""


class Place(NamedTuple):
    """Where the bytes of an image are.

    Attributes:
        tar: path of the tar file.
        row: of the split's table.
        offset, size: in bytes.
    """

    tar: str
    row: int
    offset: int
    size: int


class Row(NamedTuple):
    """An image in the table of a packed split.

    Attributes:
        path: ``class/file`` in the tree that it comes from. size: bytes of that file.
        tar: name of the tar file. offset, stored: where its bytes start there, and how many there are.
    """

    path: str
    size: int
    tar: str
    offset: int
    stored: int

    def place(self, row: int) -> str:
        """The path that the image goes by, relative to the split's folder."""
        return f"{self.tar}@{row}:{self.offset}+{self.stored}/{self.path}"


def is_packed(root: Path) -> bool:
    """Whether a split's folder is in the packed form."""
    return (root / TABLE).is_file()


def read_table(root: Path) -> tuple[Row, ...]:
    """The images of a packed split.

    Raises:
        ValueError: the table cannot be read; names it.
    """
    file = root / TABLE
    return _read_table(file, file.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read_table(file: Path, _changed: int) -> tuple[Row, ...]:
    try:
        with open(file, newline="", encoding="utf-8", errors="surrogateescape") as lines:
            rows = csv.reader(lines)
            if next(rows, None) != HEAD:
                raise ValueError("its first line is another")
            return tuple(
                Row(path, int(size), tar, int(offset), int(stored)) for path, size, tar, offset, stored in rows
            )
    except (csv.Error, ValueError) as error:
        raise ValueError(f"{file} is no table of a packed split ({error}): pack the data set anew") from None


def place_of(path: str) -> Place | None:
    """Where the bytes of an image in a tar file are; None for a file of its own."""
    found = PLACE.search(path)
    if found is None:
        return None
    row, offset, size = (int(text) for text in found.groups())
    return Place(path[: found.start() + len(".tar")], row, offset, size)


def source(path: str) -> str | io.BytesIO:
    """What PIL opens for an image: the path itself, or its bytes out of a tar file.

    Raises:
        OSError: the tar file cannot be read, or ends too early.
    """
    place = place_of(path)
    if place is None:
        return path
    with open(place.tar, "rb") as file:
        file.seek(place.offset)
        data = file.read(place.size)
    if len(data) < place.size:
        raise OSError(f"{place.tar} ends before it: pack the data set anew")
    return io.BytesIO(data)


def padded(size: int) -> int:
    """Bytes that a member's content takes in a tar file."""
    return -(-size // BLOCK) * BLOCK


def row_offset(offset: int, size: int) -> int:
    """Where the row of an image stands: behind the image and one header."""
    return offset + padded(size) + BLOCK


class Shards:
    """Indexes for DALI of a part of a packed split, in a temporary folder that lives as long as this.

    A large tar file is divided, so that a random order of parts is one of images too.

    Attributes:
        tars, indexes: for each part the path of its tar file, and of an index of the wanted images in it.
        number: of a row of the table, the position in the list of files; -1 for another image. int64 ``(rows,)``.
    """

    def __init__(self, files: Sequence[str], wanted: Sequence[int]):
        """Index the wanted ones of a list of packed files, each tar file's from front to back.

        Args:
            files: paths as `Row.place` makes them. wanted: positions in that list.
        """
        by_tar: dict[str, list[Place]] = {}
        rows = np.full(len(wanted), -1, np.int64)
        for i, at in enumerate(wanted):
            place = place_of(files[at])
            by_tar.setdefault(place.tar, []).append(place)
            rows[i] = place.row
        self.number = np.full(int(rows.max(initial=-1)) + 1, -1, np.int64)
        self.number[rows] = np.asarray(wanted, np.int64)
        folder = tempfile.mkdtemp(prefix="pcpad-index-")
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.tars, self.indexes = [], []
        most = max(PART, -(-len(wanted) // MOST_PARTS))
        for tar in sorted(by_tar):
            places = sorted(by_tar[tar], key=lambda place: place.offset)
            for part in np.array_split(np.arange(len(places)), -(-len(places) // most)):
                index = Path(folder, f"{len(self.tars):05d}.idx")
                images = [(COMPONENTS[0], places[i].row, places[i].offset, places[i].size) for i in part]
                index.write_text(index_text(images))
                self.tars.append(tar)
                self.indexes.append(str(index))


def index_text(images: Sequence[tuple[str, int, int, int]]) -> str:
    """DALI's index of a tar file, version 1.2: a line an image, with kind, offset, bytes and name of its two members.

    Args:
        images: kind, row, offset and bytes of each.
    """
    lines = [f"v1.2 {len(images)}"]
    for kind, row, offset, size in images:
        name = f"{row:08d}"
        lines.append(f"{kind} {offset} {size} {name}.{kind} row {row_offset(offset, size)} 4 {name}.row")
    return "\n".join(lines) + "\n"
