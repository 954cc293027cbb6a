"""Archives of the structure of the published ones, with a few tiny images."""

import gzip
import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from pcpad.data.prepare.archives import Archive
from pcpad.data.prepare.imagenet import Edition

WNIDS = ("n01440764", "n01443537", "n01484850")
TRAIN = {"n01440764": 4, "n01443537": 2, "n01484850": 3}
IDS = {31: "n01484850", 7: "n01440764", 500: "n01443537"}
"""The devkit's own numbers, in another order than the folders' names."""
TRUTH = (7, 31, 31, 500, 7, 500, 31)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def jpeg(seed: int) -> bytes:
    out = io.BytesIO()
    values = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    Image.fromarray(values).save(out, "JPEG")
    return out.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def tar_of(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            add(tar, name, content)
    return out.getvalue()


def make_imagenet(folder: Path) -> Edition:
    """Write the three archives; returns what they are."""
    folder.mkdir(parents=True, exist_ok=True)
    inner = {
        f"{wnid}.tar": tar_of({f"{wnid}_{i * 17 + 3}.JPEG": jpeg(1000 * label + i) for i in range(TRAIN[wnid])})
        for label, wnid in enumerate(WNIDS)
    }
    (folder / "ILSVRC2012_img_train.tar").write_bytes(tar_of(inner))
    shuffled = [5, 1, 7, 2, 3, 6, 4]
    val = {f"ILSVRC2012_val_{i:08}.JPEG": jpeg(9000 + i) for i in shuffled}
    (folder / "ILSVRC2012_img_val.tar").write_bytes(tar_of(val))
    (folder / "ILSVRC2012_devkit_t12.tar.gz").write_bytes(gzip.compress(devkit(), mtime=0))
    names = ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz")
    archives = [Archive(name, md5(folder / name), "little") for name in names]
    return Edition(*archives, WNIDS, {"train": sum(TRAIN.values()), "val": len(TRUTH)})


def devkit() -> bytes:
    """A tar with meta.mat, whose synsets with children are no classes, and the ground truth."""
    fields = ("ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height")
    rows = [(number, wnid, f"word of {wnid}, other", "gloss", 0, [], 0) for number, wnid in IDS.items()]
    rows += [(1001, "n00001740", "entity", "gloss", 2, [7, 31], 9)]
    synsets = np.empty(len(rows), dtype=[(field, object) for field in fields])
    for i, row in enumerate(rows):
        synsets[i] = row
    mat = io.BytesIO()
    scipy.io.savemat(mat, {"synsets": synsets})
    undated = b"MATLAB 5.0 MAT-file".ljust(116) + mat.getvalue()[116:]  # its head has the time of writing
    root = "ILSVRC2012_devkit_t12/data"
    truth = "".join(f"{number}\n" for number in TRUTH).encode()
    return tar_of({f"{root}/meta.mat": undated, f"{root}/ILSVRC2012_validation_ground_truth.txt": truth})


def make_cifar10(folder: Path) -> tuple[dict, np.ndarray, list[int]]:
    """Write the archive in torchvision's form: 5 batches of 6 images and one of 4.

    Returns:
        The attributes of torchvision's class that state its checksums; pixels ``(34, 32, 32, 3)``; labels.
    """
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (34, 32, 32, 3), dtype=np.uint8)
    labels = [int(label) for label in np.r_[rng.permutation(30), rng.permutation(4)] % 2]
    base, files = "cifar-10-batches-py", {}
    for i in range(6):
        rows = slice(6 * i, min(6 * i + 6, 34))
        flat = pixels[rows].transpose(0, 3, 1, 2).reshape(-1, 3072)
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        files[name] = pickle.dumps({"data": flat, "labels": labels[rows]})
    files["batches.meta"] = pickle.dumps({"label_names": ["airplane", "automobile"]})
    folder.mkdir(parents=True, exist_ok=True)
    content = tar_of({f"{base}/{name}": data for name, data in files.items()})
    (folder / "cifar-10-python.tar.gz").write_bytes(gzip.compress(content, mtime=0))
    sums = {name: hashlib.md5(data).hexdigest() for name, data in files.items()}
    return (
        {
            "tgz_md5": md5(folder / "cifar-10-python.tar.gz"),
            "train_list": [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)],
            "test_list": [["test_batch", sums["test_batch"]]],
            "meta": {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]},
        },
        pixels,
        labels,
    )


def make_imagenette(folder: Path) -> dict[str, bytes]:
    """Write the archive of 320 pixels with two classes; returns its files."""
    files = {
        f"imagenette2-320/{split}/{wnid}/{split}_{wnid}_{i}.JPEG": jpeg(i + 10 * label + 100 * (split == "val"))
        for split, number in (("train", 3), ("val", 2))
        for label, wnid in enumerate(("n01440764", "n02102040"))
        for i in range(number)
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "imagenette2-320.tgz").write_bytes(gzip.compress(tar_of(files), mtime=0))
    return files


def contents(root: Path) -> dict[str, bytes]:
    """Every file below the splits of a tree."""
    files = (path for split in ("train", "val") for path in (root / split).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}
