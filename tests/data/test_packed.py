"""The packed form: the tree it was made of, byte for byte, in order and in what is read; the oracle is tarfile."""

import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcpad import cli
from pcpad.config import PackSettings
from pcpad.data import pack as packing
from pcpad.data.catalogue import open_for_evaluation, open_for_training
from pcpad.data.damage import DamagedImageError, open_rgb
from pcpad.data.manifest import leave_out
from pcpad.data.native import NativeTransform
from pcpad.data.packed import PLACE, TABLE, Shards
from pcpad.evaluation.border.images import open_images
from tests.data.conftest import encode, kinds, picture
from tests.data.made import MEAN, STD, eval_loader, same, train_loader, train_transform

PER_CLASS = {"train": 22, "val": 5}


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """Three classes of noisy pictures, 2.5 MB of training images; one class's name has dots, one file's too."""
    root = tmp_path_factory.mktemp("tree") / "pictures"
    rng = np.random.default_rng(0)
    for split, count in PER_CLASS.items():
        for label, name in enumerate(("a", "b.c", "d")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(rng.integers(0, 256, (160 + i, 200, 3), dtype=np.uint8))
                (folder / f"{i:02}.x{label}.JPEG").write_bytes(encode(image, "JPEG", quality=95))
    (root / "val" / "a" / "black.JPEG").write_bytes(kinds()["cmyk_black"])
    (root / "val" / "d" / "deep").mkdir()
    (root / "val" / "d" / "deep" / "p.png").write_bytes(encode(Image.fromarray(picture(60, 80)), "PNG"))
    return root


@pytest.fixture(scope="module")
def packed(tree, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("packed") / "small files"
    packing.pack(PackSettings(data=str(tree), out=str(root), tar_mb=1))
    return root


def test_it_is_the_tree_that_it_was_made_of(tree, packed):
    one, two = open_for_training(str(tree)), open_for_training(str(packed))
    assert one.classes == two.classes == ("a", "b.c", "d")
    assert two.name == "pictures"
    for split in ("train", "val"):
        then, now = getattr(one, split), getattr(two, split)
        assert then.paths == now.paths
        assert then.labels.tolist() == now.labels.tolist()
        assert then.digest == now.digest
    evaluated = open_for_evaluation(str(packed), 3, ("a", "b.c", "d"))
    assert evaluated.val.digest == one.val.digest


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_tar_files_hold_the_files(tree, packed, split):
    """Python's tarfile finds each image's bytes and its row, and DALI's own tool makes the same index."""
    images = getattr(open_for_training(str(tree)), split)
    found, order = {}, []
    for tar in sorted((packed / split).glob("*.tar")):
        with tarfile.open(tar) as members:
            for member in members:
                name, _, kind = member.name.partition(".")
                content = members.extractfile(member).read()
                if kind == "row":
                    assert int.from_bytes(content, "little") == int(name)
                else:
                    found[int(name)] = content
                    order.append(int(name))
    assert sorted(found) == list(range(len(images)))
    for row, (path, size) in enumerate(zip(images.paths, images.sizes, strict=True)):
        if path == "a/black.JPEG":  # CMYK, as a PNG of PIL's pixels
            assert found[row].startswith(b"\x89PNG")
        else:
            assert found[row] == (tree / split / path).read_bytes()
            assert len(found[row]) == size
    if split == "train":
        assert len(list((packed / split).glob("*.tar"))) == 3
        neighbours = [images.labels[a] != images.labels[b] for a, b in pairwise(order)]
        assert sum(neighbours) > 20  # not class by class
    tool = Path(sys.executable).with_name("wds2idx")
    if tool.is_file():
        tar = packed / split / "00000.tar"
        made = packed.parent / "made.idx"
        subprocess.run([sys.executable, str(tool), str(tar), str(made)], check=True, capture_output=True)
        assert tar.with_suffix(".idx").read_text() == made.read_text()


def test_evaluation_reads_the_same_pixels(loader, tree, packed):
    one, two = (open_for_training(str(root)).val for root in (tree, packed))
    wanted = {}
    for batch in eval_loader(loader, one.files, labels=one.labels):
        wanted |= {int(i): (x, y) for x, y, i in zip(*batch, strict=True)}
    found = {}
    for rank in range(2):
        batches = list(eval_loader(loader, two.files, labels=two.labels, rank=rank, world=2, batch_size=3))
        assert [len(batch.index) for batch in batches[:-1]] == [3] * (len(batches) - 1)
        for batch in batches:
            for x, y, i in zip(*batch, strict=True):
                assert int(i) not in found
                found[int(i)] = (x, y)
    assert sorted(found) == list(range(len(one)))
    for i, (x, y) in wanted.items():
        assert torch.equal(found[i][0], x)
        assert found[i][1] == y


def test_rows_and_left_out_images(loader, tree, packed, tmp_path):
    images = open_for_training(str(packed)).train
    out = tmp_path / "out.txt"
    out.write_text("a/03.x0.JPEG\nd/00.x2.JPEG\n")
    kept = leave_out(images, out)
    assert len(kept) == len(images) - 2
    assert not {"a/03.x0.JPEG", "d/00.x2.JPEG"} & {PLACE.split(file)[-1] for file in kept.files}
    rows = [40, 3, 17]
    plain = leave_out(open_for_training(str(tree)).train, out)
    wanted = {int(b.index): b.images for b in eval_loader(loader, plain.files, rows=rows, batch_size=1)}
    found = {int(b.index): b.images for b in eval_loader(loader, kept.files, rows=rows, batch_size=1)}
    assert set(found) == set(rows)
    assert all(torch.equal(found[row], wanted[row]) for row in rows)
    seen = [i for b in train_loader(loader, kept.files, labels=kept.labels).epoch(0) for i in b.index.tolist()]
    assert sorted(seen) == list(range(len(kept)))  # 64 images, 16 batches


def test_torchvisions_loader_trains_alike(torchvision, tree, packed):
    one, two = (open_for_training(str(root)).train for root in (tree, packed))
    runs = [list(train_loader(torchvision, images.files, labels=images.labels).epoch(0)) for images in (one, two)]
    assert same(*runs)


def test_dali_trains_front_to_back_through_a_buffer(dali, packed, monkeypatch):
    """Every image at most once an epoch, other orders in other epochs, ranks apart, the right label and image."""
    monkeypatch.setattr(dali, "BUFFER", 8)
    monkeypatch.setattr("pcpad.data.packed.PART", 10)
    images = open_for_training(str(packed)).train
    loader = train_loader(dali, images.files, labels=images.labels, batch_size=8)
    orders = []
    for epoch in range(3):
        batches = list(loader.epoch(epoch))
        orders.append([i for batch in batches for i in batch.index.tolist()])
        assert all(batch.labels.tolist() == images.labels[batch.index].tolist() for batch in batches)
    assert all(len(set(order)) == len(order) == 64 for order in orders)  # of 66
    assert orders[0] != orders[1] != orders[2]
    table = [PLACE.search(file) for file in images.files]
    starts = [images.files[i].partition("@")[0][-9:] for i in orders[0][:8]]
    assert len(set(starts)) <= 2  # what comes first is out of one part of a tar file, or out of the next
    assert len(Shards(images.files, range(66)).tars) > 6
    assert all(table)
    ranks = [train_loader(dali, images.files, labels=images.labels, batch_size=8, rank=r, world=2) for r in (0, 1)]
    for epoch in range(2):
        seen = [i for rank in ranks for batch in rank.epoch(epoch) for i in batch.index.tolist()]
        assert len(set(seen)) == len(seen) == 64


def test_randaugment_differs_between_epochs(dali, tmp_path):
    """One picture in every file, nothing cropped: only the operations can tell two epochs apart."""
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / "tree" / split / name).mkdir(parents=True)
            for i in range(8):
                Image.fromarray(picture(40, 40)).save(tmp_path / "tree" / split / name / f"{i}.png")
    packing.pack(PackSettings(data=str(tmp_path / "tree"), out=str(tmp_path / "packed")))
    images = open_for_training(str(tmp_path / "packed")).train
    transform = replace(train_transform(32, scale=(1.0, 1.0)), ratio=(1.0, 1.0), hflip=0.0, randaugment=2)
    loader = train_loader(dali, images.files, transform, batch_size=8)
    first, second = (torch.cat([batch.images for batch in loader.epoch(epoch)]) for epoch in (0, 1))
    same_place = sum(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert same_place <= 4  # of 16; operations may be alike by chance


@pytest.mark.parametrize("step", [1, 4, 5, 8])
def test_dali_goes_on_bit_for_bit(dali, packed, step):
    images = open_for_training(str(packed)).train

    def made():
        return train_loader(dali, images.files, labels=images.labels, batch_size=8, rank=1, world=2)

    whole = made()
    wanted = [batch for epoch in range(3) for batch in whole.epoch(epoch)]
    first = made()
    taken = []
    for epoch in range(2):
        for batch in first.epoch(epoch):
            taken.append(batch)
            if len(taken) == step:
                break
        if len(taken) >= step:
            break
    state = first.state()
    first.close()
    second = made()
    second.restore(state)
    rest = [batch for epoch in range(state["epoch"], 3) for batch in second.epoch(epoch)]
    assert same(taken[:step] + rest, wanted)


def test_a_damaged_image_is_named(loader, packed, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(packed, root)
    images = open_for_training(str(root)).train
    index = Shards(images.files, [7])
    line = Path(index.indexes[0]).read_text().splitlines()[1].split()
    with open(index.tars[0], "r+b") as tar:
        tar.seek(int(line[1]))
        tar.write(b"\0" * 1000)
    with pytest.raises(DamagedImageError, match=rf"damaged image .*{images.paths[7]}: not an image, or its header"):
        list(train_loader(loader, images.files, labels=images.labels).epoch(0))


def test_a_broken_packing_is_not_taken_for_whole_and_goes_on(tree, packed, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    settings = PackSettings(data=str(tree), out=str(out), tar_mb=1, workers=1)
    write, calls = packing.write_tar, []

    def breaks(file, *rest):
        calls.append(file.name)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return write(file, *rest)

    monkeypatch.setattr(packing, "write_tar", breaks)
    with pytest.raises(OSError, match="the disk is full; make room and start again"):
        packing.pack(settings)
    with pytest.raises(ValueError, match=r"is only half packed; go on with pcpad data pack --data \.\.\. --out "):
        open_for_training(str(out))
    monkeypatch.setattr(packing, "write_tar", write)
    with pytest.raises(ValueError, match=r"begun with other images or another --tar_mb"):
        packing.pack(PackSettings(data=str(tree), out=str(out), tar_mb=2))
    rename = packing.os.rename
    monkeypatch.setattr(packing.os, "rename", lambda a, b: rename(a, b) if b.name != "val" else calls.pos())
    with pytest.raises(AttributeError):  # stopped between the splits
        packing.pack(settings)
    monkeypatch.setattr(packing.os, "rename", rename)
    monkeypatch.setattr(packing.tree, "describe", lambda *_: calls.pos())
    with pytest.raises(AttributeError):  # stopped before the mark
        packing.pack(settings)
    other = tmp_path / "pictures"  # of the same name
    shutil.copytree(tree, other)
    (other / "train" / "a" / "00.x0.JPEG").unlink()
    with pytest.raises(ValueError, match="holds other images in train"):
        packing.pack(PackSettings(data=str(other), out=str(out), tar_mb=1))
    monkeypatch.undo()
    packing.pack(settings)
    for split in ("train", "val"):
        names = sorted(path.name for path in (packed / split).iterdir())
        assert sorted(path.name for path in (out / split).iterdir()) == names
        for name in names:
            assert (out / split / name).read_bytes() == (packed / split / name).read_bytes()
    assert sorted(path.name for path in out.iterdir()) == ["pcpad-data.json", "train", "val"]
    capsys.readouterr()
    packing.pack(settings)
    assert "holds pictures whole, packed" in capsys.readouterr().out


def test_mistakes(tree, packed, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    other = tmp_path / "other"
    shutil.copytree(tree, other)
    (other / "train" / "a" / "00.x0.JPEG").unlink()
    for arguments, message in [
        ([], "say which"),
        (["--data", str(tree)], "say where the packed form goes: pcpad data pack --data DATA --out DIR"),
        (["--data", str(tree), "--out", str(tmp_path / "full")], "is not empty (file): choose a new or an empty"),
        (["--data", str(packed), "--out", str(tmp_path / "new")], "is packed already"),
        (["--data", str(other), "--out", str(packed)], "holds other images in train: choose a new or an empty folder"),
        (["--data", str(tree), "--out", str(tmp_path / "new"), "--tar_mb", "0"], "tar_mb"),
    ]:
        assert cli.main(["data", "pack", *arguments]) in (1, 2)
        error = capsys.readouterr().err
        assert message in error or not arguments
        assert "Traceback" not in error
    assert not (tmp_path / "new").exists()


def test_images_without_labels(packed):
    """Another number of classes than the model's: for the border, images are drawn without labels."""
    chosen = open_images(str(packed), 1000, None, 7, 0)
    assert chosen.unlabelled
    assert len(chosen.manifest) == 7
    assert all(open_rgb(file).size[0] for file in chosen.manifest.files)


def test_a_table_that_is_cut_off_is_named(packed, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(packed, root)
    file = root / "val" / TABLE
    file.write_text(file.read_text()[:-20])
    with pytest.raises(ValueError, match=r"pcpad-packed\.csv is no table of a packed split \(not enough values"):
        open_for_training(str(root))


def test_own_aspect_ratios_need_another_loader(dali, packed):
    images = open_for_training(str(packed)).val
    transform = NativeTransform(32, 0.875, "bilinear", MEAN, STD, multiple=8)
    with pytest.raises(ValueError, match=r"use --data\.loader torchvision, or the tree that was packed"):
        eval_loader(dali, images.files, transform, sizes=np.full((len(images), 2), 60))
