"""CIFAR-10 and Imagenette from archives in their own form; what torchvision fetches is served from a folder."""

import shutil
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pcpad.cli import main
from pcpad.data import catalogue
from pcpad.data.prepare import downloads, tree
from pcpad.data.prepare.sources import SOURCES
from tests.data.archives import contents, make_cifar10, make_imagenette, md5

pytestmark = pytest.mark.filterwarnings("ignore:Python 3.14 will:DeprecationWarning")  # torchvision's extraction


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PCPAD_CACHE", str(tmp_path / "cache"))

    def no_network(*_):
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "create_connection", no_network)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """Folder of the archive, pixels and labels; torchvision's checksums are those of the made files."""
    from torchvision.datasets import CIFAR10

    facts, pixels, labels = make_cifar10(tmp_path / "archives")
    for name, value in facts.items():
        monkeypatch.setattr(CIFAR10, name, value)
    monkeypatch.setitem(SOURCES, "cifar10", replace(SOURCES["cifar10"], md5=facts["tgz_md5"], train=30, val=4))
    return tmp_path / "archives", pixels, labels


@pytest.fixture
def imagenette(tmp_path, monkeypatch):
    """Folder of the archive, and its files."""
    from torchvision.datasets import Imagenette

    files = make_imagenette(tmp_path / "archives")
    source = replace(
        SOURCES["imagenette"], md5=md5(tmp_path / "archives" / "imagenette2-320.tgz"), train=6, val=4, classes=2
    )
    monkeypatch.setitem(SOURCES, "imagenette", source)
    monkeypatch.setattr(Imagenette, "_ARCHIVES", {"320px": (source.url, source.md5)})
    return tmp_path / "archives", {name.removeprefix("imagenette2-320/"): data for name, data in files.items()}


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves the archives to torchvision; `cut` bytes of each, where it is set, and then the line is dead."""
    from torchvision.datasets import utils

    class Server:
        cut: int | None = None
        asked = 0

        def retrieve(self, url, filename, chunk_size=1024):
            self.asked += 1
            data = (tmp_path / "archives" / url.rsplit("/", 1)[-1]).read_bytes()
            with open(filename, "wb") as out:
                out.write(data[: self.cut])
            if self.cut is not None:
                raise ConnectionResetError("Connection reset by peer")

    served = Server()
    monkeypatch.setattr(utils, "_urlretrieve", served.retrieve)
    monkeypatch.setattr(utils, "_get_redirect_url", lambda url, max_hops: url)
    return served


def test_urls_and_checksums_are_torchvisions():
    from torchvision.datasets import CIFAR10, Imagenette

    for name, theirs in (("cifar10", (CIFAR10.url, CIFAR10.tgz_md5)), ("imagenette", Imagenette._ARCHIVES["320px"])):
        assert (SOURCES[name].url, SOURCES[name].md5) == theirs
        assert SOURCES[name].origin.startswith(SOURCES[name].url)


def check_cifar(root, pixels, labels):
    names = ("airplane", "automobile")
    wanted = {f"train/{names[labels[i]]}/{i:05}.png": pixels[i] for i in range(30)}
    wanted |= {f"val/{names[labels[30 + i]]}/{i:05}.png": pixels[30 + i] for i in range(4)}
    assert set(contents(root)) == set(wanted)
    for name, image in wanted.items():
        assert np.array_equal(np.asarray(Image.open(root / name)), image)
    assert not (root / tree.PARTIAL).exists()


def test_cifar10_pixel_for_pixel(cifar, server, tmp_path):
    _, pixels, labels = cifar
    assert main(["data", "prepare", "cifar10"]) == 0
    check_cifar(tmp_path / "cache" / "data" / "cifar10", pixels, labels)
    found = catalogue.open_for_training("cifar10")
    assert (found.name, found.classes) == ("cifar10", ("airplane", "automobile"))
    assert np.bincount(found.train.labels).tolist() == np.bincount(labels[:30]).tolist()
    assert server.asked == 1
    assert main(["data", "prepare", "cifar10"]) == 0
    assert server.asked == 1


def test_an_archive_fetched_by_hand_is_read_and_left_as_it_is(cifar, tmp_path, capsys):
    folder, pixels, labels = cifar
    (tmp_path / "empty").mkdir()
    assert main(["data", "prepare", "cifar10", "--archives", str(tmp_path / "empty")]) == 1
    assert "has no cifar-10-python.tar.gz: download https://www.cs.toronto.edu/" in capsys.readouterr().err
    archive = folder / "cifar-10-python.tar.gz"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-9])
    assert main(["data", "prepare", "cifar10", "--archives", str(folder)]) == 1
    assert "cifar-10-python.tar.gz is damaged or incomplete: its MD5 is" in capsys.readouterr().err
    assert archive.read_bytes() == whole[:-9]
    assert not (tmp_path / "cache" / "data" / "cifar10").exists()
    archive.write_bytes(whole)
    out = tmp_path / "chosen"
    assert main(["data", "prepare", "cifar10", "--archives", str(folder), "--out", str(out)]) == 0
    check_cifar(out, pixels, labels)
    assert catalogue.locate("cifar10") == ("cifar10", out)
    assert archive.read_bytes() == whole


@pytest.mark.parametrize("name", ["cifar10", "imagenette"])
def test_a_download_that_breaks_off_is_fetched_again(name, server, tmp_path, capsys, request):
    request.getfixturevalue("cifar" if name == "cifar10" else "imagenette")
    server.cut = 700
    assert main(["data", "prepare", name]) == 1
    err = capsys.readouterr().err
    assert f"data {name}: the download failed (Connection reset by peer); start again, or download https://" in err
    assert f"give its folder: pcpad data prepare {name} --archives DIR" in err
    with pytest.raises(ValueError, match=f"data {name} is not on this machine: pcpad data prepare {name} gets it"):
        catalogue.open_for_training(name)
    server.cut = None
    assert main(["data", "prepare", name]) == 0
    catalogue.open_for_training(name)


def test_without_network_nothing_is_left(tmp_path, capsys):
    assert main(["data", "prepare", "cifar10"]) == 1
    assert "the download failed" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("image", [0, 17, 31])
def test_cifar10_goes_on_after_an_interruption(cifar, server, tmp_path, monkeypatch, image):
    _, pixels, labels = cifar
    root, save, count = tmp_path / "cifar", Image.Image.save, iter(range(99))

    def stop(self, target, *rest):
        if next(count) == image:
            target.write_bytes(b"half")
            raise KeyboardInterrupt
        save(self, target, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", stop)
        with pytest.raises(KeyboardInterrupt):
            downloads.prepare_cifar10(root, None, 1)
    with pytest.raises(ValueError, match=r"only half prepared; go on with pcpad data prepare cifar10 --out"):
        catalogue.locate(str(root))
    downloads.prepare_cifar10(root, None, 2)
    check_cifar(root, pixels, labels)
    assert server.asked == 1


def test_imagenette_is_its_archive(imagenette, server, tmp_path):
    _, files = imagenette
    assert main(["data", "prepare", "imagenette"]) == 0
    root = tmp_path / "cache" / "data" / "imagenette"
    assert contents(root) == files
    assert sorted(path.name for path in root.iterdir()) == ["pcpad-data.json", "train", "val"]
    found = catalogue.open_for_evaluation("imagenette", 1000, None)  # an ImageNet model knows these classes
    assert sorted(set(found.val.labels.tolist())) == [0, 217]


def test_what_a_killed_extraction_left_is_not_taken_for_whole(imagenette, server, tmp_path, monkeypatch):
    _, files = imagenette
    root = tmp_path / "root"
    store = root / tree.PARTIAL / "download"
    shutil.unpack_archive(tmp_path / "archives" / "imagenette2-320.tgz", tmp_path / "x", "gztar")
    shutil.copytree(tmp_path / "x" / "imagenette2-320", store / "imagenette2-320")
    next((store / "imagenette2-320" / "train").rglob("*.JPEG")).unlink()
    downloads.prepare_imagenette(root, None)  # torchvision would read the folder as it is
    assert contents(root) == files


def test_a_split_with_too_few_images_is_not_whole(imagenette, server, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"has 6 images, imagenette has 7 in train"):
        downloads.prepare_imagenette(tmp_path / "root", None, {"train": 7, "val": 4})
    assert tree.find("imagenette") is None
    assert not (tmp_path / "root" / "train").exists()


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.tex").touch()
    assert main(["data", "prepare", "cifar10", "--out", str(tmp_path)]) == 1
    assert f"--out {tmp_path} is not empty (" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").exists()
    (tmp_path / "file").touch()
    assert main(["data", "prepare", "cifar10", "--out", str(tmp_path / "file")]) == 1
    assert "is no folder" in capsys.readouterr().err


def test_a_tree_that_lost_an_image_is_named(cifar, server, tmp_path, capsys):
    assert main(["data", "prepare", "cifar10"]) == 0
    root = tmp_path / "cache" / "data" / "cifar10"
    next((root / "val").rglob("*.png")).unlink()
    with pytest.raises(ValueError, match=r"val has 3 images and pcpad-data.json says 4: files were removed or added"):
        catalogue.open_for_training("cifar10")
    with pytest.raises(ValueError, match=r"val has 3 images"):
        catalogue.open_for_evaluation("cifar10", 2, None)
    assert main(["data", "prepare", "cifar10"]) == 1
    assert "val was changed since it was prepared: 3 images" in capsys.readouterr().err


def test_another_set_in_the_same_folder_is_refused(cifar, imagenette, server, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main(["data", "prepare", "cifar10", "--out", out]) == 0
    assert main(["data", "prepare", "imagenette", "--out", out]) == 1
    assert f"--out {out} holds cifar10; choose another folder for imagenette" in capsys.readouterr().err


def test_the_list_says_what_there_is(cifar, server, tmp_path, capsys):
    assert main(["data", "prepare", "cifar10"]) == 0
    capsys.readouterr()
    assert main(["data", "list"]) == 0
    text = capsys.readouterr().out
    for name, source in SOURCES.items():
        part = text.split(f"{name}: ")[1].split("\n\n")[0]
        for fact in (source.licence, source.origin, source.layout, f"{source.train:,} train", source.disk):
            assert fact in part
        ready = str(tmp_path / "cache" / "data" / "cifar10") if name == "cifar10" else f"no: {source.command}"
        assert part.splitlines()[-1].split(maxsplit=1)[1] == ready


HOLD = """
import sys
from pathlib import Path
from pcpad.data.prepare import tree

with tree.building(Path(sys.argv[1]), "cifar10") as work:
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_two_at_once_do_not_mix(cifar, server, tmp_path, capsys):
    root, here = tmp_path / "root", Path(__file__).resolve().parents[2]
    command = [sys.executable, "-c", HOLD, str(root)]
    with subprocess.Popen(command, cwd=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"ready\n"
        assert main(["data", "prepare", "cifar10", "--out", str(root)]) == 1
        assert f"is in use by process {other.pid}" in capsys.readouterr().err
        other.stdin.close()
    assert not (root / "train").exists()
    assert main(["data", "prepare", "cifar10", "--out", str(root)]) == 0
