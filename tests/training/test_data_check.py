"""pcpad data check, and training without the files that it found damaged."""

import json
import shutil

import pytest

from pcpad.cli import main


@pytest.fixture
def damaged(data, tmp_path, monkeypatch):
    """A data set of which two training images are damaged, in the folder that commands run in."""
    shutil.copytree(data, tmp_path / "images")
    (tmp_path / "images/train/down/3.jpg").write_bytes(b"<html>404</html>")
    whole = tmp_path / "images/train/none/10.jpg"
    whole.write_bytes(whole.read_bytes()[:-200])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PCPAD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "images"


def test_every_damaged_file_is_named(damaged, capsys):
    for known in (0, 34):
        assert main(["data", "check", "--data", str(damaged)]) == 1
        out, err = capsys.readouterr()
        assert f"{damaged}/train/down/3.jpg: not an image, or its header is damaged\n" in out
        assert f"{damaged}/train/none/10.jpg: " in out
        before = f", {known} of them known from before" if known else ""
        assert f"train: 36 images{before}, 2 damaged; remembered in " in out
        assert "2 images are damaged (named above): repair or remove them, or list those of training with --out" in err
    rows = next((damaged.parent / "cache/manifests").glob("*.csv")).read_text().splitlines()
    assert rows[0] == "path,label,bytes,mtime_ns,height,width,status"
    assert all(row.endswith(",48,56,ok") for row in rows[1:])


def test_an_intact_data_set(data, capsys, tmp_path):
    assert main(["data", "check", "--data", str(data), "--out", str(tmp_path / "list")]) == 0
    assert "every image is intact" in capsys.readouterr().out
    assert not (tmp_path / "list").exists()
    assert main(["data", "check", "--data", str(data / "val")]) == 0  # a folder of classes
    assert "images: 21 images" in capsys.readouterr().out
    (tmp_path / "half").mkdir()
    (tmp_path / "half/val").symlink_to(data / "val")  # what an evaluation takes too
    assert main(["data", "check", "--data", str(tmp_path / "half")]) == 0
    assert "val: 21 images" in capsys.readouterr().out


def test_training_without_the_damaged_files(damaged, call, capsys):
    options = {"data": damaged, "padding": "partial"}
    assert call("train", **options) == 1
    assert "leave such training images out: pcpad data check --data" in capsys.readouterr().err
    assert main(["data", "check", "--data", str(damaged), "--out", "bad.txt"]) == 0
    assert (damaged.parent / "bad.txt").read_text() == "down/3.jpg\nnone/10.jpg\n"
    assert call("train", **options, **{"data.exclude": "bad.txt", "epochs": 1, "schedule.warmup_epochs": 0}) == 0
    assert "images: 34 train (2 left out), 21 val" in capsys.readouterr().out
    run = damaged.parent / "run"
    assert json.loads((run / "run.json").read_text())["excluded"] == 2
    (damaged.parent / "bad.txt").write_text("down/3.jpg\nnone/10.jpg\nnone/9.jpg\n")  # the run has its own copy
    assert main(["train", "--resume", "run"]) == 0
    assert main(["train", "--resume", "run", "--data.exclude", "bad.txt"]) == 0  # the same file by name: the run's copy
    shutil.copy(damaged.parent / "bad.txt", damaged.parent / "other.txt")
    assert main(["train", "--resume", "run", "--data.exclude", "other.txt"]) == 1
    assert "the images are not those the run was started with" in capsys.readouterr().err
    assert main(["eval", "--run", "run"]) == 0
    records = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    assert [record["excluded"] for record in records] == [2, 2]


def test_damaged_validation_images_are_never_left_out(damaged, capsys):
    (damaged / "val/across/0.jpg").write_bytes(b"")
    assert main(["data", "check", "--data", str(damaged), "--out", "bad.txt"]) == 1
    out, err = capsys.readouterr()
    assert "val/across/0.jpg: the file is empty" in out
    assert err.endswith("3 images are damaged (named above): repair or remove them\n")
    (damaged / "val/across/0.jpg").unlink()
    argv = ["train", "--model", "timm/test_resnet", "--data", str(damaged), "--device", "cpu", "--data.exclude", "list"]
    for line, message in (
        ("val/down/1.jpg", "line 1: 'val/down/1.jpg' is no image in"),
        ("down/99.jpg", "line 1: 'down/99.jpg' is no image in"),
        ("\n".join(f"down/{i}.jpg" for i in range(12)), "leaves no image of down"),
    ):
        (damaged.parent / "list").write_text(line)
        assert main(argv) == 1
        assert message in capsys.readouterr().err
    assert main([*argv, "--data.exclude", "no-such-file"]) == 1
    assert "cannot be read: No such file or directory" in capsys.readouterr().err
    assert main(["eval", "--model", "timm/test_resnet", "--weights", "w", "--data.exclude", "list"]) == 2
    assert "validation images are never left out" in capsys.readouterr().err
    assert not (damaged.parent / "runs").exists()


def test_the_list_replaces_nothing(damaged, capsys):
    for out, message in (("images", "exists: remove it"), ("no/where.txt", "has no folder no to go to")):
        assert main(["data", "check", "--data", str(damaged), "--out", out]) == 1
        assert message in capsys.readouterr().err
