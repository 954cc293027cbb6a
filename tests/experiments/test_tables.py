"""What the benchmarks' tables and helpers compute."""

import importlib.util
import random
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "experiments/benchmarks"


def load(name: str, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(FOLDER), *sys.path])
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ranks of the printed tables of nonparametric statistics for the 95% interval of a median
@pytest.mark.parametrize(("n", "ranks"), [(5, (1, 5)), (10, (2, 9)), (15, (4, 12)), (20, (6, 15)), (25, (8, 18))])
def test_interval_of_a_median(n, ranks, monkeypatch):
    values = list(range(1, n + 1))
    random.Random(0).shuffle(values)
    assert load("tables", monkeypatch).median_interval(values) == ranks


def test_some_images_of_a_class_tree(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / "all" / name).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "all" / name / f"{i}.jpg").write_text(name)
        (tmp_path / "all" / name / "notes.txt").write_text("no image")
    timing = load("timing", monkeypatch)
    some = timing.some_images(str(tmp_path / "all"), tmp_path / "some", 6)
    found = sorted(path.relative_to(some).as_posix() for path in some.rglob("*.*"))
    assert found == ["a/0.jpg", "a/2.jpg", "b/0.jpg", "b/2.jpg", "c/0.jpg", "c/2.jpg"]
    assert (some / "b/2.jpg").read_text() == "b"
    all_of_them = timing.some_images(str(tmp_path / "all"), tmp_path / "more", 100)
    assert len(list(all_of_them.rglob("*.jpg"))) == 12
