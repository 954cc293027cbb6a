"""One run per folder: of two starts one proceeds, a dead holder is taken over."""

import fcntl
import json
import multiprocessing
import os
import platform
import signal
import time

import pytest

from pcpad import lock
from pcpad.cli import main
from pcpad.lock import NAME, locked


def hold(folder, leave) -> None:
    """Hold the lock until a file appears."""
    with locked(folder):
        (folder.parent / "ready").touch()
        wait_for(leave)


def wait_for(path) -> None:
    for _ in range(6000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"no {path} after a minute")


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of tmp_path / "run"."""
    process = multiprocessing.get_context("fork").Process(target=hold, args=(tmp_path / "run", tmp_path / "leave"))
    process.start()
    wait_for(tmp_path / "ready")
    yield process
    (tmp_path / "leave").touch()
    process.join()


def test_a_held_folder_is_refused(holder, tmp_path):
    says = rf"run is in use by process {holder.pid} on \S+ since \d{{4}}-"
    with pytest.raises(ValueError, match=says), locked(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / NAME).exists()
    (tmp_path / "leave").touch()
    holder.join()
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / NAME).exists()
    assert not (tmp_path / "run").exists()  # nothing was left in it


def test_a_dead_holder_is_taken_over(holder, tmp_path):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert (tmp_path / "run" / NAME).exists()
    with locked(tmp_path / "run"):
        (tmp_path / "run/kept").touch()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["kept"]


def hold_and_tell_later(path, leave, note: bytes) -> None:
    """Take the lock by hand; write the note a while after."""
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX)
        (path.parents[1] / "ready").touch()
        time.sleep(0.2)
        file.write(note.replace(b"PID", str(os.getpid()).encode()))
        file.flush()
        wait_for(leave)


@pytest.mark.parametrize("before", ["", "a dead holder's"])
def test_a_holder_that_has_not_yet_said_who_it_is_is_waited_for(tmp_path, before):
    context = multiprocessing.get_context("fork")
    gone = context.Process(target=int)
    gone.start()
    gone.join()
    facts = {"host": platform.node(), "since": "2020-01-02"}
    (tmp_path / "run").mkdir()
    path = tmp_path / "run" / NAME
    path.write_text(before and json.dumps({"pid": gone.pid, **facts}))
    note = json.dumps({"pid": 0, **facts}).replace("0,", "PID,", 1).encode()
    process = context.Process(target=hold_and_tell_later, args=(path, tmp_path / "leave", note))
    process.start()
    try:
        wait_for(tmp_path / "ready")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(lock, "PATIENCE", 0.0)
            with pytest.raises(ValueError, match="run is in use by another process"), locked(tmp_path / "run"):
                pass
        with pytest.raises(ValueError, match=f"run is in use by process {process.pid} on "), locked(tmp_path / "run"):
            pass
    finally:
        (tmp_path / "leave").touch()
        process.join()


def race(folder, number: int, starts) -> None:
    """Try to hold the lock; who holds it writes, and is alone at that."""
    wait_for(starts / "go")
    try:
        with locked(folder):
            (folder / "inside").touch(exist_ok=False)
            time.sleep(0.02)
            (folder / "inside").unlink()
        outcome = "held"
    except ValueError:
        outcome = "refused"
    except FileExistsError:
        outcome = "not alone"
    (starts / f"{number}-{outcome}").touch()


def test_of_many_starts_one_at_a_time_proceeds(tmp_path):
    context = multiprocessing.get_context("fork")
    for attempt in range(5):
        starts = tmp_path / f"starts{attempt}"
        starts.mkdir()
        processes = [context.Process(target=race, args=(tmp_path / "run", i, starts)) for i in range(6)]
        for process in processes:
            process.start()
        (starts / "go").touch()
        for process in processes:
            process.join()
        found = [path.name.partition("-")[2] for path in starts.iterdir() if path.name != "go"]
        assert len(found) == 6
        assert set(found) <= {"held", "refused"}
        assert "held" in found


def test_an_occupied_folder_says_what_is_different(call, tmp_path, capsys):
    assert call("train", padding="partial", epochs=1, **{"schedule.warmup_epochs": 0}) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert call("train", padding="partial", epochs=1, **{"schedule.warmup_epochs": 0}) == 1
    assert "it holds a run with these settings: continue it with --resume run, or choose" in capsys.readouterr().err
    assert call("train", padding="zeros", epochs=1, **{"schedule.warmup_epochs": 0}) == 1
    err = capsys.readouterr().err
    assert "it holds a run with other settings (padding: partial -> zeros): choose another --out, or continue it" in err
    assert main(["train", "--resume", "run", "--seed", "3"]) == 1
    assert "the run has other settings: seed: 0 -> 3" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_its_last_holder_removes_in_between(tmp_path, monkeypatch):
    real, removed = lock.open_lock, []

    def late(path):
        if not removed:
            removed.append(path.parent.rmdir())
        return real(path)

    monkeypatch.setattr(lock, "open_lock", late)
    with locked(tmp_path / "run"):
        assert (tmp_path / "run" / lock.NAME).is_file()
    assert removed == [None]
    assert not (tmp_path / "run").exists()
