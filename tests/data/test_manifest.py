"""Listing, class maps and the check of images, on small trees with every mistake a user can make."""

import os

import numpy as np
import pytest
from PIL import Image

from pcpad.data import catalogue, manifest
from pcpad.data.damage import DamagedImageError
from pcpad.data.manifest import check_images, class_folders, list_images


def tree(root, counts: dict[str, int], size=(12, 10)):
    """Folders of small images, ``root/<class>/<n>.jpg``."""
    rng = np.random.default_rng(0)
    for name, n in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(root / name / f"{i}.jpg")
    return root


@pytest.fixture
def data(tmp_path):
    tree(tmp_path / "train", {"ant": 3, "bee": 2, "cat": 4})
    tree(tmp_path / "val", {"ant": 1, "bee": 2, "cat": 1})
    return tmp_path


def test_listing(data):
    (data / "train/ant/notes.txt").write_text("no image")
    (data / "train/ant/.hidden.jpg").write_text("no image")
    (data / "train/.cache").mkdir()
    (data / "train/bee/deep").mkdir()
    os.rename(data / "train/bee/1.jpg", data / "train/bee/deep/1.JPEG")
    rows = list_images(data / "train", {"ant": 0, "bee": 1, "cat": 2})
    assert rows.paths == (
        *("ant/0.jpg", "ant/1.jpg", "ant/2.jpg", "bee/0.jpg", "bee/deep/1.JPEG"),
        *("cat/0.jpg", "cat/1.jpg", "cat/2.jpg", "cat/3.jpg"),
    )
    assert rows.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert rows.sizes.tolist() == [os.path.getsize(f) for f in rows.files]


def test_digest_follows_path_label_and_bytes_but_not_the_place(data, tmp_path_factory):
    labels = {"ant": 0, "bee": 1, "cat": 2}
    first = list_images(data / "train", labels)
    other = tmp_path_factory.mktemp("other")
    tree(other / "train", {"ant": 3, "bee": 2, "cat": 4})
    assert list_images(other / "train", labels).digest == first.digest
    assert list_images(other / "train", {"ant": 1, "bee": 0, "cat": 2}).digest != first.digest
    (other / "train/cat/0.jpg").write_bytes(b"other bytes")
    assert list_images(other / "train", labels).digest != first.digest


def test_one_class_map_from_the_training_tree(data):
    found = catalogue.open_for_training(str(data))
    assert found.classes == ("ant", "bee", "cat")
    assert found.val.labels.tolist() == [0, 1, 1, 2]
    (data / "val/.hidden").mkdir()  # would shift every label of a loader that numbers folders itself
    assert catalogue.open_for_training(str(data)).val.labels.tolist() == [0, 1, 1, 2]


def remove_class(root):
    for file in (root / "val/bee").iterdir():
        file.unlink()
    (root / "val/bee").rmdir()


def empty_class(root):
    for file in (root / "train/bee").iterdir():
        file.unlink()


def extra_class(root):
    tree(root / "val", {"dog": 1})


def no_val(root):
    os.rename(root / "val", root / "test")


def flat_val(root):
    os.rename(root / "val", root / "v")
    (root / "val").mkdir()
    os.rename(root / "v/ant/0.jpg", root / "val/0.jpg")


def one_class(root):
    for split in ("train", "val"):
        for name in ("bee", "cat"):
            os.rename(root / split / name, root / f"{split}-{name}")


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove_class, r"train and val must have the same class folders: 1 missing from val \(bee\)"),
        (empty_class, r"1 of 3 class folders in .*train hold no image: bee"),
        (extra_class, r"1 only in val \(dog\)"),
        (no_val, r"no folder .*val; training needs"),
        (flat_val, r"val has no class folders"),
        (one_class, r"has the one class 'ant'"),
    ],
)
def test_mistakes_in_a_tree_are_named(data, harm, message):
    harm(data)
    with pytest.raises(ValueError, match=message):
        catalogue.open_for_training(str(data))


def test_the_built_in_images_are_a_data_set_like_any_other():
    found = catalogue.open_for_training("auto")
    assert (found.name, len(found.classes)) == ("textures", 10)
    for split in (found.train, found.val):
        assert np.bincount(split.labels).tolist() == [len(split) // 10] * 10


def test_unknown_data_is_named(monkeypatch):
    with pytest.raises(
        ValueError, match="neither textures, elpv, cifar10, imagenette, imagenet nor a folder; did you mean 'textures'"
    ):
        catalogue.locate("texture")
    with pytest.raises(ValueError, match="IMAGENET=/path"):
        catalogue.locate("imagenet")
    monkeypatch.setenv("IMAGENET", "/no/such/folder")
    with pytest.raises(ValueError, match="IMAGENET=/no/such/folder is no folder"):
        catalogue.locate("imagenet")


def test_evaluation_labels_come_from_the_model(data):
    trained = ("ant", "bat", "bee", "cat")
    found = catalogue.open_for_evaluation(str(data), 4, trained)  # a part of the model's classes is fine
    assert found.val.labels.tolist() == [0, 2, 2, 3]
    assert found.train is None
    with pytest.raises(ValueError, match=r"1 of 3 folders in .* are no class of the model \(cat\)"):
        catalogue.open_for_evaluation(str(data), 2, ("ant", "bee"))
    assert catalogue.open_for_evaluation(str(data), 3, None).val.labels.tolist() == [0, 1, 1, 2]
    with pytest.raises(ValueError, match=r"3 class folders and the model 1000 outputs.*would be a guess"):
        catalogue.open_for_evaluation(str(data), 1000, None)


def test_imagenet_folders_get_imagenet_labels(tmp_path):
    timm_data = pytest.importorskip("timm.data")
    assert list(catalogue.imagenet_wnids()) == timm_data.ImageNetInfo().label_names()  # timm's own list
    tree(tmp_path, {"n15075141": 1, "n01443537": 1})
    found = catalogue.open_for_evaluation(str(tmp_path), 1000, None)
    assert found.val.labels.tolist() == [1, 999]
    assert len(found.classes) == 1000


def test_the_photographs_are_in_class_order(photographs):
    found = catalogue.open_for_evaluation(str(photographs), 1000, None)
    assert found.val.labels.tolist() == list(range(1000))
    assert class_folders(photographs / "val") == list(found.classes)


def test_check_decodes_once_and_names_the_damaged(data, monkeypatch):
    found = catalogue.open_for_training(str(data)).train
    assert check_images(found, workers=2) == 9
    assert check_images(found, workers=2) == 0  # remembered
    damaged = data / "train/cat/1.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    found = catalogue.open_for_training(str(data)).train
    for _ in range(2):  # a damaged file is never remembered as fine
        with pytest.raises(DamagedImageError, match=r"cat/1\.jpg"):
            check_images(found, workers=2)
    (data / "train/cat/2.jpg").write_bytes(b"")
    with pytest.raises(DamagedImageError, match=r"2 of 2 images are damaged"):
        check_images(catalogue.open_for_training(str(data)).train, workers=2)
    assert not list(data.rglob("*.csv"))  # nothing of ours in the user's folder


def test_check_works_without_a_writable_cache(data, monkeypatch):
    monkeypatch.setattr(manifest, "cache_dir", lambda: data / "train/ant/0.jpg")  # a file: nothing can be below it
    found = catalogue.open_for_training(str(data)).val
    assert check_images(found, workers=1) == 4
    assert check_images(found, workers=1) == 4


def test_what_was_checked_before_an_interruption_is_remembered(tmp_path, monkeypatch):
    """Hours of decoding are not lost with Ctrl-C: what was found intact is written down."""
    (tmp_path / "images/a").mkdir(parents=True)
    for i in range(7):
        Image.new("RGB", (4, 5)).save(tmp_path / f"images/a/{i}.png")
    found = list_images(tmp_path / "images", {"a": 0})
    right, looked = manifest.check_image, []

    def interrupted(path):
        looked.append(path)
        if len(looked) == 6:
            raise KeyboardInterrupt
        return right(path)

    monkeypatch.setattr(manifest, "CHUNK", 2)
    monkeypatch.setattr(manifest, "check_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        manifest.decode_images(found, workers=1)
    monkeypatch.setattr(manifest, "check_image", right)
    assert manifest.decode_images(found, workers=1) == (2, [])
    assert manifest.decode_images(found, workers=1) == (0, [])
