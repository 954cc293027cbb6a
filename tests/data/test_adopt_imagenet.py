"""A tree of ImageNet that is there already: adopted, its flat val/ sorted, or refused and left as it was."""

import errno
import os
import shutil
from pathlib import Path

import pytest

from pcpad.data import catalogue
from pcpad.data.prepare import imagenet, tree
from tests.data.archives import WNIDS, contents

pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # torchvision's extraction


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PCPAD_CACHE", str(tmp_path / "cache"))


def existing(folder: Path, edition, root: Path) -> None:
    """A tree as another tool would leave it, and no memory of how it came."""
    imagenet.prepare(root, folder, 2, edition)
    (root / tree.MARKER).unlink()
    tree.note_file("imagenet").unlink()


def flatten(root: Path, only: int = 99) -> None:
    for path in sorted((root / "val").rglob("*.JPEG"))[:only]:
        os.rename(path, root / "val" / path.name)
    for path in list((root / "val").iterdir()):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def test_an_existing_tree_is_adopted_without_archives(archives, oracle, tmp_path, monkeypatch, capsys):
    folder, edition = archives
    root = tmp_path / "root"
    existing(folder, edition, root)
    assert tree.find("imagenet") is None
    imagenet.prepare(root, None, 2, edition)
    assert "the classes of val were taken as they are" in capsys.readouterr().out
    assert tree.find("imagenet") == root
    assert contents(root) == oracle


@pytest.mark.parametrize("only", [99, 3])
def test_a_flat_val_is_sorted_by_the_ground_truth(archives, oracle, tmp_path, monkeypatch, only):
    folder, edition = archives
    root = tmp_path / "root"
    existing(folder, edition, root)
    flatten(root, only)
    with pytest.raises(ValueError, match=r"lie in no class folders .*pcpad data prepare imagenet --archives DIR"):
        catalogue.open_for_training(str(root))
    with pytest.raises(ValueError, match=r"has no ILSVRC2012_devkit_t12.tar.gz"):
        imagenet.prepare(root, None, 2, edition)
    for name in (edition.train.file, edition.val.file):  # not needed
        (folder / name).unlink()
    imagenet.prepare(root, folder, 2, edition)
    assert contents(root) == oracle
    assert not (root / tree.PARTIAL).exists()


@pytest.mark.parametrize("point", ["third", "all"])
def test_a_sorting_that_was_broken_off_goes_on(archives, oracle, tmp_path, monkeypatch, point):
    folder, edition = archives
    root = tmp_path / "root"
    existing(folder, edition, root)
    flatten(root)
    rename, count = os.rename, iter(range(99))

    def stop(source, target):
        if Path(source).suffix == ".JPEG" and next(count) == 3:
            raise KeyboardInterrupt
        rename(source, target)

    with monkeypatch.context() as patch:
        if point == "third":
            patch.setattr(os, "rename", stop)
        else:
            patch.setattr(tree, "finish", lambda *_: next(iter(())))
        with pytest.raises((KeyboardInterrupt, StopIteration)):
            imagenet.prepare(root, folder, 2, edition)
    assert len(list((root / "val").iterdir())) == (4 if point == "third" else 0)
    with pytest.raises(ValueError, match="half prepared"):
        catalogue.open_for_evaluation(str(root), 3, WNIDS)
    imagenet.prepare(root, folder, 2, edition)
    assert contents(root) == oracle


def remove_class(root):
    shutil.rmtree(root / "train" / WNIDS[1])


def rename_class(root):
    os.rename(root / "val" / WNIDS[1], root / "val" / "cat")


def remove_image(root):
    next((root / "train" / WNIDS[0]).iterdir()).unlink()


def misplace(root):
    path = next((root / "val" / WNIDS[0]).iterdir())
    os.rename(path, root / "val" / WNIDS[1] / path.name)


def number_from(name):
    def rename(root):
        path = next((root / "val" / WNIDS[0]).iterdir())
        os.rename(path, path.with_name(name))

    return rename


def lose_flat(root):
    flatten(root)
    next((root / "val").iterdir()).unlink()


def foreign_flat(root):
    flatten(root)
    (root / "val" / "valprep.sh").touch()


def double_flat(root):
    path = next(iter((root / "val" / WNIDS[0]).iterdir()))
    shutil.copy(path, root / "val" / WNIDS[1] / path.name)
    flatten(root, 1)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove_class, r"train is not ImageNet's: 1 classes are missing \(n01443537\)"),
        (rename_class, r"1 classes are missing \(n01443537\); 1 folders are no class of it \(cat\)"),
        (remove_image, r"train has 8 images, ImageNet 9: 1 are missing"),
        (misplace, r"1 images of .*val lie in another class folder than by the devkit's ground truth: n01443537/"),
        (number_from("ILSVRC2012_val_00000008.JPEG"), r"1 images of .*val lie in another class folder"),
        (number_from("ILSVRC2012_val_00000000.JPEG"), r"1 images of .*val lie in another class folder"),
        (lose_flat, r"val lacks 1 of 7 validation images: ILSVRC2012_val_0000000"),
        (foreign_flat, r"holds what is no validation image of ImageNet: valprep.sh"),
        (double_flat, r"has 1 validation images twice"),
    ],
)
def test_a_tree_that_is_not_imagenet_is_not_adopted(archives, tmp_path, monkeypatch, harm, message):
    folder, edition = archives
    root = tmp_path / "root"
    existing(folder, edition, root)
    harm(root)
    before = contents(root)
    with pytest.raises(ValueError, match=message):
        imagenet.prepare(root, folder, 2, edition)
    assert contents(root) == before
    assert tree.find("imagenet") is None
    assert sorted(path.name for path in root.iterdir()) == ["train", "val"]


def test_a_tree_that_cannot_be_written_is_adopted_in_the_cache(archives, tmp_path, monkeypatch):
    folder, edition = archives
    root = tmp_path / "root"
    existing(folder, edition, root)
    write = tree.write_json

    def refuse(file, content):
        if file.parent == root:
            raise PermissionError(errno.EROFS, "Read-only file system", str(file))
        write(file, content)

    monkeypatch.setattr(tree, "write_json", refuse)
    imagenet.prepare(root, folder, 2, edition)
    assert sorted(path.name for path in root.iterdir()) == ["train", "val"]
    assert catalogue.open_for_training("imagenet").val.root == (root / "val").resolve()
    remove_image(root)
    with pytest.raises(ValueError, match=r"train has 8 images and pcpad-data.json says 9"):
        catalogue.open_for_training(str(root))
