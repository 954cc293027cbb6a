"""ImageNet from archives of its structure: killed, damaged, a full disk; the oracle is torchvision's extraction."""

import errno
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pcpad.cli import main
from pcpad.data import catalogue
from pcpad.data.prepare import imagenet, tree
from pcpad.data.prepare.archives import Archive
from tests.data.archives import WNIDS, contents, make_imagenet, md5


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PCPAD_CACHE", str(tmp_path / "cache"))


pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # torchvision's extraction


def test_the_archives_are_those_that_torchvision_knows():
    from torchvision.datasets.imagenet import ARCHIVE_META

    edition = imagenet.official()
    known = {"train": edition.train, "val": edition.val, "devkit": edition.devkit}
    assert {split: (archive.file, archive.md5) for split, archive in known.items()} == ARCHIVE_META
    assert len(edition.wnids) == 1000


@pytest.mark.parametrize("workers", [1, 3])
def test_the_tree_is_torchvisions(archives, oracle, tmp_path, workers):
    folder, edition = archives
    root = tmp_path / "new" / "imagenet"
    facts = imagenet.prepare(root, folder, workers, edition)
    assert contents(root) == oracle
    assert len(oracle) == 16
    assert sorted(path.name for path in root.iterdir()) == ["pcpad-data.json", "train", "val"]
    assert {split: facts["splits"][split]["images"] for split in tree.SPLITS} == {"train": 9, "val": 7}
    assert tree.find("imagenet") == root
    assert catalogue.open_for_training(str(root)).classes == WNIDS


KILLED = """
import os, sys, time
from pathlib import Path
from pcpad.data.prepare import imagenet, tree
from tests.data.archives import make_imagenet

root, folder, point, workers = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
main = os.getpid()
def die():
    os.kill(main, 9)
    time.sleep(60)  # longer than a test may take: a worker has to end with its parent
edition, left = make_imagenet(folder), [int(point)] if point.isdigit() else []
if left:
    write = imagenet.write_member
    def write_member(tar, member, target):
        left[0] -= 1
        if left[0] == 0:
            (target.parent / ("." + target.name + ".part")).write_bytes(b"half")
            die()
        write(tar, member, target)
    imagenet.write_member = write_member
elif point == "renames":
    rename = os.rename
    def stop(source, target):
        rename(source, target)
        if Path(target).name == "train":
            die()
    os.rename = stop
else:
    tree.mark = lambda *_: die()
imagenet.prepare(root, folder, workers, edition)
"""


@pytest.mark.parametrize(
    ("point", "workers"), [("1", 1), ("6", 1), ("14", 1), ("2", 2), ("5", 2), ("renames", 2), ("marker", 2)]
)
def test_a_killed_start_is_not_taken_for_whole_and_continued(archives, oracle, tmp_path, point, workers, monkeypatch):
    folder, edition = archives
    root = tmp_path / "imagenet"
    arguments = [sys.executable, "-c", KILLED, str(root), str(folder), point, str(workers)]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}  # closed when the last process is gone
    killed = subprocess.run(arguments, cwd=Path(__file__).resolve().parents[2], check=False, timeout=50, **pipe)
    assert killed.returncode == -9, killed.stderr
    for name in (str(root), "imagenet"):
        monkeypatch.setenv("IMAGENET", str(root))
        with pytest.raises(ValueError, match=r"only half prepared; go on with pcpad data prepare imagenet --out"):
            catalogue.open_for_training(name)
    assert tree.find("imagenet") is None
    kept = {path: path.stat().st_ino for path in root.rglob("*.JPEG") if "/." not in str(path.relative_to(root))[1:]}
    if kept and point.isdigit():  # a power failure can leave files without their bytes
        hollow = sorted(kept)[0]
        hollow.write_bytes(b"")
        kept = {path: inode for path, inode in kept.items() if path.parent != hollow.parent}
    imagenet.prepare(root, folder, 2, edition)
    assert contents(root) == oracle
    inodes = {path.name: path.stat().st_ino for path in root.rglob("*.JPEG")}
    assert all(inodes[path.name] == inode for path, inode in kept.items())  # not written again
    assert not (root / tree.PARTIAL).exists()
    catalogue.open_for_training("imagenet")


@pytest.mark.parametrize("which", ["train", "val", "devkit"])
def test_a_damaged_archive_is_named_before_anything_is_written(archives, tmp_path, which):
    folder, edition = archives
    path = folder / getattr(edition, which).file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name} is damaged or incomplete: its MD5 is .*; download it again"):
        imagenet.prepare(tmp_path / "root", folder, 2, edition)
    assert not list((tmp_path / "root").rglob("*.JPEG"))
    assert tree.find("imagenet") is None
    make_imagenet(folder)
    imagenet.prepare(tmp_path / "root", folder, 2, edition)


@pytest.mark.parametrize("which", ["train", "val"])
def test_an_archive_that_ends_early_is_an_error_whatever_its_checksum(archives, tmp_path, which):
    folder, edition = archives
    path = folder / getattr(edition, which).file
    path.write_bytes(path.read_bytes()[:1500])
    cut = replace(edition, **{which: Archive(path.name, md5(path), "little")})
    with pytest.raises(ValueError, match=path.name):
        imagenet.prepare(tmp_path / "root", folder, 2, cut)
    with pytest.raises(ValueError, match="half prepared"):
        catalogue.locate(str(tmp_path / "root"))


def test_missing_archives_are_listed_with_their_source(archives, tmp_path):
    folder, edition = archives
    (folder / edition.val.file).unlink()
    with pytest.raises(
        ValueError, match=r"has no ILSVRC2012_img_val.tar \(little, MD5 .*download from https://image-net"
    ):
        imagenet.prepare(tmp_path / "root", folder, 2, edition)
    assert not (tmp_path / "root").exists()


def test_another_number_of_images_is_not_whole(archives, tmp_path):
    folder, edition = archives
    more = replace(edition, images=edition.images | {"train": 10})
    with pytest.raises(ValueError, match=r"has 9 images, imagenet has 10 in train"):
        imagenet.prepare(tmp_path / "root", folder, 2, more)
    assert tree.find("imagenet") is None
    assert not (tmp_path / "root" / "train").exists()


def test_a_full_disk_says_so_and_the_next_start_goes_on(archives, oracle, tmp_path, monkeypatch):
    folder, edition = archives
    root, write, count = tmp_path / "root", imagenet.write_member, iter(range(99))

    def fill(tar, member, target):
        if next(count) == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(tar, member, target)

    with monkeypatch.context() as patch:
        patch.setattr(imagenet, "write_member", fill)
        with pytest.raises(OSError, match=r"the disk is full; make room and start again: it goes on where it stopped"):
            imagenet.prepare(root, folder, 1, edition)
        patch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 10))
        with pytest.raises(OSError, match=r"has 0.0 GB free and .* GB are needed; choose another --out"):
            imagenet.prepare(root, folder, 1, edition)
    imagenet.prepare(root, folder, 1, edition)
    assert contents(root) == oracle


def test_the_command(archives, oracle, tmp_path, monkeypatch, capsys):
    folder, edition = archives
    monkeypatch.setattr(imagenet, "official", lambda: edition)
    root = tmp_path / "tree"
    command = ["data", "prepare", "imagenet"]
    assert main(command) == 1
    assert "say where the tree goes, 145 GB, or where one is: --out DIR" in capsys.readouterr().err
    assert main([*command, "--archives", str(folder), "--out", str(root)]) == 0
    assert f"imagenet is whole: 9 train, 7 val images, 3 classes, at {root}: DATA=imagenet" in capsys.readouterr().out
    assert contents(root) == oracle
    assert main(command) == 0  # verified again
    assert main(["data", "list", "imagenet"]) == 0
    assert f"here     {root}" in capsys.readouterr().out
    next((root / "train" / WNIDS[0]).iterdir()).unlink()
    assert main([*command, "--out", str(root)]) == 1
    assert "train was changed since it was prepared: 8 images" in capsys.readouterr().err
    monkeypatch.setenv("IMAGENET", str(tmp_path / "other"))
    (tmp_path / "other").mkdir()
    assert main([*command, "--archives", str(folder)]) == 0
    assert contents(tmp_path / "other") == oracle
