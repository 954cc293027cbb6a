"""Device choice and its messages, and folders that leave nothing behind."""

import os
import platform
import subprocess
import sys

import pytest
import torch

from pcpad import environment
from pcpad.folders import result_folder


def driver_file(root, text):
    (root / "proc/driver/nvidia").mkdir(parents=True)
    (root / "proc/driver/nvidia/version").write_text(text)


def test_driver_version_is_read(tmp_path):
    assert environment.nvidia_driver(tmp_path) is None
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia0").touch()
    assert environment.nvidia_driver(tmp_path) == "unknown"
    driver_file(tmp_path, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n")
    assert environment.nvidia_driver(tmp_path) == "535.183.01"


def test_a_container_without_a_gpu_may_show_the_host_s_driver(tmp_path):
    driver_file(tmp_path, "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024\n")
    assert environment.nvidia_driver(tmp_path) is None


def test_driver_version_of_the_open_module(tmp_path):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidia1").touch()
    driver_file(tmp_path, "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build\n")
    assert environment.nvidia_driver(tmp_path) == "580.65.06"


def test_a_gpu_that_torch_cannot_use_is_an_error(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(environment, "nvidia_driver", lambda: "535.183.01")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    message = (
        r"driver 535\.183\.01\) that torch cannot use: .*CUDA 13\.0, which needs driver 580 or newer; or --device cpu"
    )
    for name in ("auto", "cuda"):
        with pytest.raises(ValueError, match=message):
            environment.pick_device(name)
    assert environment.pick_device("cpu").type == "cpu"
    monkeypatch.setattr(environment, "nvidia_driver", lambda: "580.65.06")
    with pytest.raises(ValueError, match="its driver is new enough"):
        environment.pick_device("auto")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # hidden on purpose
    assert environment.pick_device("auto").type == "cpu"
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ValueError, match="built without CUDA"):
        environment.pick_device("auto")
    monkeypatch.setattr(environment, "nvidia_driver", lambda: None)
    assert environment.pick_device("auto").type == "cpu"
    with pytest.raises(ValueError, match="device cuda: there is no NVIDIA GPU"):
        environment.pick_device("cuda")


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator")
def test_freed_memory_is_kept_for_the_next_map():
    """Pages that the system has to clear for 20 maps of 64 MiB: all of them each time, and only once."""
    code = """
import resource, torch
from pcpad.environment import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.empty(2**24).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first = faults()
assert not keep_freed_memory(torch.device("cuda"))
kept = keep_freed_memory(torch.device("cpu"))
faults()  # the heap grows
print(kept, first, faults())
"""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    for extra, wanted in (({}, "True"), ({"MALLOC_ARENA_MAX": "2"}, "False")):
        done = subprocess.run(
            [sys.executable, "-c", code], env=clean | extra, capture_output=True, text=True, check=True
        )
        kept, before, after = done.stdout.split()
        assert kept == wanted
        assert (int(after) < int(before) / 5) == (wanted == "True")


def test_facts_for_a_record():
    found = environment.versions()
    assert found["torch"] == torch.__version__.split("+")[0] or found["torch"] == torch.__version__
    assert "cores" in environment.hardware(torch.device("cpu"))
    assert environment.memory_mb(torch.device("cpu")) > 50


def test_result_folder_removes_only_what_it_made(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/kept").touch()

    def work(folder, make_result):
        with result_folder(folder, "result") as inside:
            (inside / "half").touch()
            (inside / "more").mkdir()
            if make_result:
                (inside / "result").touch()
            raise KeyError

    def fail_in(folder, make_result):
        with pytest.raises(KeyError):
            work(folder, make_result)

    fail_in(tmp_path / "mine", make_result=False)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["kept"]
    fail_in(tmp_path / "a/b", make_result=False)
    assert not (tmp_path / "a").exists()
    fail_in(tmp_path / "a/b", make_result=True)
    assert (tmp_path / "a/b/half").exists()
    with pytest.raises(OSError, match=r"cannot be written \(Not a directory\); choose another with --out"):
        result_folder(tmp_path / "mine/kept/x", "result").__enter__()


def test_a_commit_says_whether_its_code_was_changed(tmp_path, monkeypatch):
    """A result that was written since is no code; a study or a program beside it is."""
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "pcpad/environment.py"))
    assert environment.commit() is None
    code = ["pcpad/a.py", "experiments/benchmarks/padding.py", "experiments/cifar10/study.yaml", "Makefile"]
    written = [
        "experiments/benchmarks/padding-cpu.json",
        "experiments/cifar10/results.jsonl",
        "experiments/x/TABLES.md",
    ]
    for path in [*code, *written]:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("1")
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    clean = environment.commit()
    assert len(clean) == 12
    for path in written:
        (tmp_path / path).write_text("2")
        assert environment.commit() == clean
    for path in code:
        (tmp_path / path).write_text("2")
        assert environment.commit() == f"{clean}+"
        (tmp_path / path).write_text("1")
    assert environment.commit() == clean
