"""pcpad doctor: what it finds in broken installations; each is broken here on purpose."""

import importlib.metadata
import os
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement

from pcpad import doctor, environment
from pcpad.cli import main

ROOT = Path(__file__).resolve().parents[1]


def look(capsys, *argv: str) -> tuple[int, str]:
    code = main(["doctor", *argv])
    return code, " ".join(capsys.readouterr().out.split())


def test_a_working_installation_has_no_problem(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, text = look(capsys)
    assert (code, "no problem found" in text, "PROBLEM" in text) == (0, True, False)
    assert f"torch {torch.__version__.partition('+')[0]}" in text
    assert "recipe textures (64 pixels, 10 epochs, batch 32)" in text  # configs/textures.yaml
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind


def test_the_versions_are_those_of_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [Requirement(text) for text in project["dependencies"] + project["optional-dependencies"]["harness"]]
    assert {need.name for need in wanted} == set(doctor.NEEDS)
    for need in wanted:
        least, first_after = doctor.NEEDS[need.name]
        assert str(need.specifier) in (f">={least}", f"<{first_after},>={least}"), need.name
        for have in (least, "2.10.9", "2.11.0+cpu", "2.13.1", "2.14", "0.28.9", "0.29.0", "1.0.19", "1.0.20", "13"):
            assert doctor.in_range(have, least, first_after) == (have.partition("+")[0] in need.specifier), (need, have)


def test_missing_and_old_packages_are_named(capsys, monkeypatch):
    real = importlib.metadata.version

    def fake(package):
        if package in ("scipy", "nvidia-dali-cuda130", "nvidia-dali-cuda120"):
            raise importlib.metadata.PackageNotFoundError(package)
        return "2.9.1" if package == "torch" else real(package)

    monkeypatch.setattr(doctor, "version", fake)
    code, text = look(capsys)
    assert code == 1
    assert "PROBLEM: not a version that pcpad works with: torch 2.9.1 (needs 2.11 to below 2.14)" in text
    assert "PROBLEM: missing: nvidia-dali-cuda130, scipy; pcpad.convert works" in text


def test_a_torchvision_that_does_not_fit_torch(capsys, monkeypatch):
    real = doctor.importlib.import_module

    def load(name):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return real(name)

    monkeypatch.setattr(doctor.importlib, "import_module", load)
    code, text = look(capsys)
    assert code == 1
    assert "torchvision does not load (operator torchvision::nms does not exist): its build does not fit" in text
    assert "problems: 1" in text


def test_a_gpu_that_cannot_be_used(capsys, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(environment, "nvidia_driver", lambda: "535.183.01")
    code, text = look(capsys)
    assert code == 1
    assert "PROBLEM: there is an NVIDIA GPU (driver 535.183.01) that torch cannot use" in text


def test_without_dali_the_other_loader_is_looked_at(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "pcpad.data.dali", None)
    monkeypatch.delattr("pcpad.data.dali", raising=False)
    code, text = look(capsys)
    assert "note: data.loader dali: nvidia.dali does not import" in text
    assert "torchvision decodes" in text
    assert code == 0
    code, text = look(capsys, "--loader", "dali")
    assert (code, "PROBLEM: data.loader dali" in text) == (1, True)


def test_loaders_that_disagree(capsys, monkeypatch):
    from pcpad.data import reference

    class Wrong(reference.EvalLoader):
        def __iter__(self):
            for batch in super().__iter__():
                yield batch._replace(images=batch.images + 0.01)

    pytest.importorskip("nvidia.dali")
    monkeypatch.setattr(reference, "EvalLoader", Wrong)
    code, text = look(capsys)
    assert (code, "PROBLEM: DALI and torchvision decode, and differ by 2.5" in text) == (1, True)


def test_data_that_is_not_there(capsys, monkeypatch, tmp_path):
    code, text = look(capsys, "--data", str(tmp_path / "nowhere"))
    assert code == 1
    assert "is neither textures, elpv, cifar10, imagenette, imagenet nor a folder" in text
    (tmp_path / "half/val/cat").mkdir(parents=True)
    code, text = look(capsys, "--data", str(tmp_path / "half"))
    assert (code, "has no folder train/" in text, "val: 1 classes (cat to cat)" in text) == (1, True, True)
    (tmp_path / "whole/train/cat").mkdir(parents=True)
    code, text = look(capsys, "--data", str(tmp_path / "whole"))
    assert (code, "has no folder val/" in text) == (1, True)  # with which every training would be refused
    monkeypatch.setenv("IMAGENET", str(tmp_path / "gone"))
    code, text = look(capsys)
    assert (code, f"since IMAGENET={tmp_path}/gone" in text, "is no folder" in text) == (1, True, True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_cannot_be_written(capsys, monkeypatch, tmp_path):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("PCPAD_CACHE", str(tmp_path / "cache"))
    code, text = look(capsys)
    tmp_path.chmod(0o700)
    assert (code, "cannot be written (Permission denied) ($PCPAD_CACHE names another)" in text) == (1, True)


def test_a_cache_below_a_file(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PCPAD_CACHE", str(tmp_path / "file"))
    code, text = look(capsys)
    assert (code, "cannot be written (Not a directory) ($PCPAD_CACHE names another)" in text) == (1, True)


def test_an_error_that_nobody_foresaw_is_a_problem_and_no_traceback(capsys, monkeypatch):
    def broken():
        raise KeyError("surprise")

    monkeypatch.setattr(doctor, "look_at_disk", broken)
    code, text = look(capsys)
    assert (code, "PROBLEM: KeyError: 'surprise'" in text) == (1, True)
