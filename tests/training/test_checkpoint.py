"""Checkpoints: a crash costs nothing, damage is seen, code is not run, the right ones are kept."""

import errno
import multiprocessing
import os
import pickle
import random
import resource
import shutil
import signal
import time
import zipfile
from pathlib import Path

import pytest
import torch

from pcpad import folders
from pcpad.cli import main
from pcpad.training import checkpoint
from pcpad.training.checkpoint import Shelf
from tests.training.conftest import difference


def content(step: int, size: int = 1000) -> dict:
    """A checkpoint's content; of any step its own."""
    numbers = torch.full((size,), float(step))
    return {"step": step, "model": {"a": numbers, "b": numbers[:7] * 2}, "blob": bytes([step % 256]) * 50, "top1": None}


def filled(folder, steps, **kwargs) -> Shelf:
    """A shelf with checkpoints after these steps."""
    shelf = Shelf(folder, keep=len(steps))
    for step in steps:
        shelf.put(content(step, **kwargs), epoch_end=False, best=False)
    return shelf


def saves(folder, first: int, ready) -> None:
    """Save one checkpoint after another, for ever."""
    shelf = Shelf(folder)
    for step in range(first, 10**6):
        shelf.put(content(step, 200_000), epoch_end=step % 3 == 0, best=step % 5 == 0)
        ready.value = step


@pytest.mark.parametrize("kills", [15, pytest.param(50, marks=pytest.mark.slow)])
def test_a_crash_while_saving_costs_nothing(tmp_path, kills):
    """The newest intact checkpoint is that of the last finished save, or of the one that was under way."""
    context, rng, half = multiprocessing.get_context("fork"), random.Random(0), 0
    ready, first = context.Value("q", 0), 1
    for _ in range(kills):
        process = context.Process(target=saves, args=(tmp_path, first, ready))
        before = ready.value
        process.start()
        while ready.value == before:
            time.sleep(0.0005)
        time.sleep(rng.uniform(0, 0.02))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        shelf = Shelf(tmp_path)
        half += any(shelf.folder.glob("*.tmp"))
        found, path, damaged = shelf.newest()
        assert found["step"] in (ready.value, ready.value + 1)
        assert damaged == []
        assert difference(found["model"], content(found["step"], 200_000)["model"]) is None
        shelf.sweep_temporary()
        assert not any(shelf.folder.glob("*.tmp"))
        assert checkpoint.load(path)["step"] == found["step"]
        first = found["step"] + 1
    assert half > kills // 10  # else no kill has hit a save


def flip(path, rng) -> None:
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def zero_page(path, rng) -> None:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data) // 4096) * 4096
    data[start : start + 4096] = bytes(4096)
    path.write_bytes(data)


def truncate(path, rng) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(1, path.stat().st_size)])


HARM = {
    "truncated": truncate,
    "a flipped bit": flip,
    "a page of zeros": zero_page,
    "empty": lambda path, rng: path.write_bytes(b""),
    "deleted": lambda path, rng: path.unlink(),
    "a folder": lambda path, rng: (path.unlink(), path.mkdir()),
    "a link to nothing": lambda path, rng: (path.unlink(), path.symlink_to("nowhere")),
    "a zip file of another": lambda path, rng: torch.save({"format": checkpoint.FORMAT, "step": 7}, path),
}


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_checkpoint_is_passed_over(tmp_path, harm):
    """Whatever is hit: the file is named and the one before it taken."""
    rng = random.Random(1)
    for _ in range(40 if harm in ("a flipped bit", "truncated", "a page of zeros") else 1):
        shelf = filled(tmp_path, (3, 7), size=9000)
        victim = shelf.folder / "step-00000007.pt"
        HARM[harm](victim, rng)
        found, path, damaged = shelf.newest()
        assert (found["step"], path.name) == (3, "step-00000003.pt")
        assert harm == "deleted" or (len(damaged) == 1 and str(victim) in damaged[0])
        shutil.rmtree(shelf.folder)


def test_torch_alone_does_not_see_it(tmp_path):
    """The control: without the look at the checksums a wrong number would be read."""
    (saved,) = filled(tmp_path, (1,)).all()
    data = bytearray(saved.path.read_bytes())
    with zipfile.ZipFile(saved.path) as file:
        info = max(file.infolist(), key=lambda one: one.file_size)
    data[info.header_offset + 200] ^= 255
    saved.path.write_bytes(data)
    assert difference(torch.load(saved.path, weights_only=True)["model"], content(1)["model"]) is not None
    with pytest.raises(ValueError, match=r"step-00000001\.pt is damaged \(its digest is not that at its end\)"):
        checkpoint.load(saved.path)


def test_every_byte_counts(tmp_path):
    """The directory of the zip file too, which its checksums leave out: there one bit makes torch read anything."""
    (saved,) = filled(tmp_path, (1,), size=3).all()
    data = saved.path.read_bytes()
    assert zipfile.ZipFile(saved.path).testzip() is None  # it is still a zip file
    for place in range(len(data)):
        spoilt = bytearray(data)
        spoilt[place] ^= 1 << place % 8
        saved.path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"step-00000001\.pt (is damaged|is no intact checkpoint)"):
            checkpoint.load(saved.path)


def test_a_directory_that_is_spoilt_is_not_seen_by_checksums(tmp_path):
    """The control of the one above: the zip's own test finds nothing, and torch reads without an error."""
    (saved,) = filled(tmp_path, (1,), size=3).all()
    data = bytearray(saved.path.read_bytes())
    entry = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    data[entry + 38] ^= 0x10  # it is a folder now
    saved.path.write_bytes(data)
    assert zipfile.ZipFile(saved.path).testzip() is None
    assert isinstance(torch.load(saved.path, weights_only=True), dict)
    with pytest.raises(ValueError, match="is damaged"):
        checkpoint.load(saved.path)


def test_where_there_are_no_links_a_full_disk_is_said(tmp_path, monkeypatch):
    def no_link(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    def full(source, target):
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", no_link)
    shelf = filled(tmp_path, (1,))
    assert checkpoint.load(shelf.folder / "last.pt")["step"] == 1  # a copy
    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match=r"last\.pt could not be written: .*No space.*step-00000002\.pt is saved"):
        shelf.put(content(2), epoch_end=False, best=False)
    assert not list(shelf.folder.glob("*.tmp"))
    assert shelf.newest()[0]["step"] == 2


def test_all_damaged_is_an_error(tmp_path):
    shelf = filled(tmp_path, (3, 7))
    for saved in shelf.all():
        saved.path.write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"no checkpoint of .* is intact: .*0007\.pt is no .*0003\.pt is no "):
        shelf.newest()


def test_a_run_goes_on_behind_a_damaged_checkpoint(call, tmp_path, capsys):
    """To the same end as the undisturbed run; with all of them damaged it says so and changes nothing."""
    options = {"padding": "partial", "epochs": 3, "save.keep": 3}
    assert call("train", **options) == 0
    whole = torch.load(tmp_path / "run/checkpoints/last.pt")
    files = sorted((tmp_path / "run/checkpoints").glob("step-*.pt"))
    assert [path.name for path in files] == [f"step-{n:08d}-epoch.pt" for n in (4, 8, 12)]
    files[2].write_bytes(files[2].read_bytes()[:-1000])
    capsys.readouterr()
    assert main(["train", "--resume", "run"]) == 0
    out = capsys.readouterr().out
    assert "warning: run/checkpoints/step-00000012-epoch.pt is no intact checkpoint (" in out
    assert "resuming run after epoch 2 (step 8)" in out
    assert difference(torch.load(tmp_path / "run/checkpoints/last.pt"), whole) is None
    for path in files:
        path.write_bytes(b"")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["train", "--resume", "run"]) == 1
    err = capsys.readouterr().err
    assert "no checkpoint of run is intact" in err
    assert all(path.name in err for path in files)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


class Evil:
    """Code in a pickle."""

    def __reduce__(self):
        return os.system, ("touch /tmp/pcpad-was-here",)


def test_no_code_runs(call, tmp_path, capsys):
    assert call("train", epochs=1, **{"schedule.warmup_epochs": 0}) == 0
    (path,) = (tmp_path / "run/checkpoints").glob("step-*.pt")
    torch.save({"format": checkpoint.FORMAT, "model": Evil()}, path)
    capsys.readouterr()
    for command in (["train", "--resume", "run"], ["eval", "--run", "run"]):
        assert main(command) == 1
        err = capsys.readouterr().err
        assert "was refused: it holds more than tensors (posix.system)" in err
        assert err.count("\n") == 1
    assert not os.path.exists("/tmp/pcpad-was-here")
    path.write_bytes(pickle.dumps(Evil()))
    assert main(["train", "--resume", "run"]) == 1
    assert not os.path.exists("/tmp/pcpad-was-here")


def test_the_newest_few_the_best_and_the_last_epoch_are_kept(tmp_path):
    """By step, whatever the names' order: 9, 10 and 11 digits."""
    shelf = Shelf(tmp_path, keep=2)
    steps = [5, 90, 99_999_999, 100_000_000, 100_000_001, 1_000_000_000]
    for step in steps:
        shelf.put(content(step, 3), epoch_end=step == 90, best=step == 5)
    assert [one.step for one in shelf.all()] == [90, *steps[-2:]]
    assert checkpoint.load(shelf.folder / "best.pt")["step"] == 5
    assert checkpoint.load(shelf.folder / "last.pt")["step"] == steps[-1]
    assert shelf.newest()[0]["step"] == steps[-1]
    assert shelf.newest(only_epoch_ends=True)[0]["step"] == 90
    shelf.put(content(95, 3), epoch_end=False, best=False)  # an earlier start went further: that is done again
    assert [one.step for one in shelf.all()] == [90, 95]


def test_what_cannot_be_removed_stops_nothing(tmp_path, monkeypatch, capsys):
    shelf = filled(tmp_path, (1, 2, 3))
    shelf.keep = 1
    unlink = type(tmp_path).unlink

    def stubborn(path, missing_ok=False):
        if path.name == "step-00000001.pt":
            raise PermissionError(errno.EPERM, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(type(tmp_path), "unlink", stubborn)
    shelf.put(content(4), epoch_end=False, best=False)
    assert [one.step for one in shelf.all()] == [1, 4]
    assert "warning: " in capsys.readouterr().out
    shelf.put(content(5), epoch_end=False, best=False)
    assert [one.step for one in shelf.all()] == [1, 5]


def fill_disk(folder, limit: int, result) -> None:
    """Save where no file may be larger than `limit` bytes: what a full disk looks like from inside."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Shelf(folder).put(content(2, 200_000), epoch_end=False, best=True)
        result.put(None)
    except OSError as error:
        result.put(str(error))


@pytest.mark.parametrize("limit", [100, 50_000, 700_000])
def test_a_disk_that_is_full_in_the_middle(tmp_path, limit):
    shelf = filled(tmp_path, (1,), size=10)
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    process = context.Process(target=fill_disk, args=(tmp_path, limit, result))
    process.start()
    text = result.get(timeout=60)
    process.join()
    assert "step-00000002.pt could not be written" in text
    assert "MiB free" in text
    assert "the checkpoints before it are untouched" in text
    assert sorted(path.name for path in shelf.folder.iterdir()) == ["last.pt", "step-00000001.pt"]
    assert shelf.newest()[0]["step"] == 1


def test_a_full_disk_ends_a_run_with_a_message(call, tmp_path, monkeypatch, capsys):
    assert call("train", padding="partial", epochs=2) == 0
    write, saved = torch.save, []

    def full(what, file):
        saved.append(None)
        if len(saved) == 2:
            file.write(b"half")
            raise RuntimeError("unexpected pos 64 vs 0")  # torch's way to say ENOSPC
        write(what, file)

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(folders, "LEAST_FREE", float("inf"))
    assert call("train", padding="partial", epochs=2, out="full") == 1
    err = capsys.readouterr().err
    assert "step-00000008-epoch.pt could not be written: the disk is full (" in err
    assert err.count("\n") == 1
    names = sorted(path.name for path in (tmp_path / "full/checkpoints").iterdir())
    assert names == ["best.pt", "last.pt", "step-00000004-epoch.pt"]
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--resume", "full"]) == 0
    a, b = (torch.load(tmp_path / name / "checkpoints/last.pt") for name in ("run", "full"))
    assert difference(a, b) is None
