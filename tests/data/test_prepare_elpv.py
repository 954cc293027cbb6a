"""Solar cells: the split is fixed and stratified, and grey PNG files get through both loaders."""

import shutil
from collections import Counter
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from pcpad.cli import main
from pcpad.data import catalogue
from pcpad.data.prepare import elpv, tree
from tests.data.archives import contents
from tests.data.conftest import picture
from tests.data.made import eval_loader, eval_transform, pixels

GROUPS = {(0.0, "mono"): 9, (0.0, "poly"): 12, (1 / 3, "mono"): 6, (2 / 3, "poly"): 5, (1.0, "mono"): 8}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PCPAD_CACHE", str(tmp_path / "cache"))
    catalogue.show_licence.cache_clear()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of 40 grey cells, and the installed one out of sight."""
    folder = tmp_path / "package"
    (folder / "images").mkdir(parents=True)
    lines, number = [], 0
    for (probability, kind), count in GROUPS.items():
        for _ in range(count):
            number += 1
            name = f"images/cell{number:04}.png"
            Image.fromarray(picture(30, 30, seed=number)[..., 0]).save(folder / name)
            lines.append(f"{name}  {probability!r:20} {kind}\n")
    (folder / "labels.csv").write_text("".join(lines))
    digest = elpv.content_digest(folder, elpv.read_labels(folder / "labels.csv"))
    monkeypatch.setattr(elpv, "find_package", lambda: folder)
    monkeypatch.setattr(elpv.prepare_elpv, "__defaults__", (None, digest))
    return folder


def test_every_cell_is_in_one_split_and_its_class(package, tmp_path, capsys):
    assert main(["data", "prepare", "elpv"]) == 0
    assert "elpv, licence: CC BY-NC-SA 4.0: attribution, no commercial use" in capsys.readouterr().out
    root = tmp_path / "cache" / "data" / "elpv"
    rows = {name.removeprefix("images/"): p for name, p, _ in elpv.read_labels(package / "labels.csv")}
    files = contents(root)
    assert sorted(path.rsplit("/", 1)[1] for path in files) == sorted(rows)
    for path, data in files.items():
        _, label, name = path.split("/")
        assert label == ("defective" if rows[name] in (2 / 3, 1.0) else "functional")
        assert data == (package / "images" / name).read_bytes()
    assert sum(path.startswith("val/") for path in files) == 10


def test_a_quarter_of_each_group_whatever_the_order(package):
    rows = elpv.read_labels(package / "labels.csv")
    val = elpv.choose_val(rows)
    shares = Counter((p, kind) for name, p, kind in rows if name in val)
    assert sum(shares.values()) == 10
    assert all(abs(shares[group] - count / 4) < 1 for group, count in GROUPS.items())
    assert elpv.choose_val(rows[::-1]) == val
    assert elpv.choose_val([(f"elsewhere/{name}", *rest) for name, *rest in rows]) == {f"elsewhere/{n}" for n in val}


def test_the_licence_is_shown_on_use(package, capsys):
    assert main(["data", "prepare", "elpv"]) == 0
    capsys.readouterr()
    for _ in range(2):
        catalogue.open_for_training("elpv")
    assert capsys.readouterr().out.count("licence: CC BY-NC-SA 4.0") == 1


@pytest.mark.parametrize("harm", ["changed", "missing", "other list"])
def test_a_package_with_other_images_is_refused(package, tmp_path, harm, capsys):
    image = package / "images" / "cell0007.png"
    if harm == "changed":
        shutil.copy(package / "images" / "cell0008.png", image)
    elif harm == "missing":
        image.unlink()
    else:
        lines = (package / "labels.csv").read_text().splitlines(keepends=True)
        (package / "labels.csv").write_text("".join(lines[:-1]))
    assert main(["data", "prepare", "elpv"]) == 1
    assert "does not hold the images that this was made for" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_an_interruption_is_not_taken_for_whole(package, tmp_path, monkeypatch):
    copy, count = shutil.copyfile, iter(range(99))

    def stop(source, target):
        if next(count) == 33:  # in val
            raise KeyboardInterrupt
        copy(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", stop)
        with pytest.raises(KeyboardInterrupt):
            elpv.prepare_elpv(tree.default_root("elpv"))
    with pytest.raises(ValueError, match="data elpv is not on this machine: pcpad data prepare elpv gets it"):
        catalogue.open_for_training("elpv")
    assert main(["data", "prepare", "elpv"]) == 0
    assert len(contents(tree.default_root("elpv"))) == 40


def test_without_the_package_the_way_is_said(monkeypatch, capsys):
    monkeypatch.setattr(elpv, "find_spec", lambda _: None)
    assert main(["data", "prepare", "elpv"]) == 1
    err = capsys.readouterr().err
    assert "the package elpv-dataset (87 MB; CC BY-NC-SA 4.0" in err
    assert "pip install 'pcpad[elpv]'" in err


def test_grey_files_give_the_same_pixels_in_three_channels(package, loader):
    assert main(["data", "prepare", "elpv"]) == 0
    val = catalogue.open_for_training("elpv").val
    made = eval_loader(loader, val.files, eval_transform(size=30, crop_pct=1.0), labels=val.labels)
    seen = 0
    for images, labels, index in made:
        for image, label, row in zip(pixels(images), labels.tolist(), index.tolist(), strict=True):
            wanted = np.asarray(Image.open(val.files[row]))
            assert all(np.abs(channel.numpy() - wanted).max() < 0.01 for channel in image)
            assert label == val.labels[row]
            seen += 1
    assert seen == 10


@pytest.mark.skipif(find_spec("elpv_dataset") is None, reason="elpv-dataset is not installed")
def test_the_published_package(capsys):
    assert main(["data", "prepare", "elpv"]) == 0
    found = catalogue.open_for_training("elpv")
    assert found.classes == ("defective", "functional")
    assert np.bincount(found.train.labels).tolist() == [821 - 205, 1803 - 451]
    assert np.bincount(found.val.labels).tolist() == [205, 451]
    assert len(found.train) == 1968  # as many as its authors trained on
    assert found.val.digest == "384bf4ab4265"  # the same cells on every machine
