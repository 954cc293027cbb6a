"""What the benchmarks' tables and helpers compute."""

import importlib.util
import random
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

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


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_program_knows_the_options_that_it_is_given(device, missing, monkeypatch):
    for name, arguments in load("everything", monkeypatch).plan(device, "DATA", 64, missing):
        assert ("--missing" in arguments) == (missing and name == "padding")
        text = (FOLDER / f"{name}.py").read_text()
        assert [a for a in arguments if a.startswith("--") and f'"{a}"' not in text] == []


@pytest.mark.parametrize(("gpus", "ranks"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4]), (8, [1, 2, 4, 8])])
def test_no_more_processes_than_gpus(gpus, ranks, monkeypatch):
    growth = load("growth", monkeypatch)
    monkeypatch.setattr(growth.torch.cuda, "device_count", lambda: gpus)
    assert growth.ranks_here(growth.torch.device("cuda")) == ranks


def test_a_result_with_fewer_ways_replaces_none_with_more(monkeypatch):
    replaced = load("padding", monkeypatch).replaced
    keys = {"network": "a", "work": "training", "batch": 8, "size": 224, "channels_last": True, "compile": False}
    many, few = (keys | {"amp": "off", "hardware": "H", "ratios": dict.fromkeys(ways)} for ways in ("zpr", "zp"))
    assert replaced(few, many)
    assert replaced(many, many)
    assert not replaced(many, few)
    assert not replaced(many, many | {"hardware": "another"})


def test_photographs_under_many_names(tmp_path, monkeypatch):
    for name in ("a/1.jpg", "b/2.jpg", "b/3.jpg"):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_text(name)
    assert load("training_run", monkeypatch).many_names(tmp_path / "data", tmp_path / "tree", 10) == 3
    found = sorted(path.relative_to(tmp_path / "tree").as_posix() for path in (tmp_path / "tree").rglob("*.jpg"))
    assert [path for path in found if path.startswith("val")] == ["val/a/0-1.jpg", "val/b/0-2.jpg", "val/b/0-3.jpg"]
    assert len(found) == 3 + 12
    assert (tmp_path / "tree/train/b/3-2.jpg").read_text() == "b/2.jpg"


def test_an_entry_counts_by_its_time(monkeypatch):
    """100 images in 1 s, then 300 in 9 s of which 3 were waited for: not the means of the entries, 67 and 17%."""
    found = {"step": [5, 15, 45], "images_per_second": [7.0, 100.0, 300 / 9], "data_wait_percent": [50.0, 0.0, 100 / 3]}
    whole = load("training_run", monkeypatch).over_all(found)
    assert whole == pytest.approx({"images_per_second": 40.0, "data_wait_percent": 30.0})


def test_the_clock_starts_after_what_any_loader_prepares(monkeypatch):
    warm = load("loaders", monkeypatch).warm
    assert all(warm(workers) > 2 * workers for workers in (0, 1, 2, 16, 64))  # torch's: two batches a worker


def test_too_few_batches_to_time_are_an_error(monkeypatch):
    rate = load("loaders", monkeypatch).rate
    assert rate(iter([None] * 5), 8, torch.device("cpu"), 4) > 0
    with pytest.raises(SystemExit, match="an epoch has 4 batches, and the clock starts after 4"):
        rate(iter([None] * 4), 8, torch.device("cpu"), 4)


def test_missing_measures_what_the_results_do_not_have(monkeypatch, tmp_path, capsys):
    padding = load("padding", monkeypatch)
    measured = []

    def measure(options, name, doing, device, ways):
        measured.append((name, doing, options.amp))
        return padding.stated(options, name, doing) | {"ratios": dict.fromkeys(options.ways), "seconds": {}}

    monkeypatch.setattr(padding, "measure", measure)
    monkeypatch.setattr(padding, "prepare", lambda *_: {})
    monkeypatch.setattr(padding, "keep_freed_memory", lambda device: False)  # of this process
    monkeypatch.setattr(padding.torch.backends.cudnn, "benchmark", False)
    common = ["--device", "cpu", "--work", "inference", "--out", str(tmp_path / "padding.json"), "--missing"]
    first = ["--network", "resnet50", "--ways", "zeros", "partial", *common]
    assert padding.main(first) == 0
    assert padding.main(first) == 0
    assert measured == [("resnet50", "inference", False)]
    assert "is there" in capsys.readouterr().out
    padding.main(["--network", "resnet50", "vgg16_bn", "--ways", "zeros", "partial", *common])
    padding.main([*first, "--amp"])
    padding.main(["--network", "resnet50", "--ways", "zeros", "reflect", *common])  # another way
    assert measured[1:] == [
        ("vgg16_bn", "inference", False),
        ("resnet50", "inference", True),
        ("resnet50", "inference", False),
    ]


def test_programs_are_timed_one_at_a_time_once_all_are_prepared(monkeypatch, tmp_path):
    timing = load("timing", monkeypatch)
    turns, said = [timing.Turn(tmp_path / "turn") for _ in range(3)], []
    timed = threading.Lock()

    def work(turn):
        said.append("prepared")
        turn.wait()
        assert timed.acquire(blocking=False)
        said.append("timed")
        time.sleep(0.05)
        timed.release()
        turn.end()

    threads = [threading.Thread(target=work, args=(turn,)) for turn in turns[1:]]
    for thread in threads:
        thread.start()
    while len(said) < 2:
        time.sleep(0.01)
    time.sleep(0.1)
    assert said == ["prepared"] * 2  # the first is not prepared yet
    work(turns[0])
    for thread in threads:
        thread.join()
    assert said == ["prepared"] * 3 + ["timed"] * 3


def test_what_a_benchmark_records_names_no_folder_of_the_machine(monkeypatch):
    timing = load("timing", monkeypatch)
    monkeypatch.setattr(
        sys, "argv", ["/a/loaders.py", "--data", "/home/me/photos", "--model", "timm/resnet50", "../b/c"]
    )
    wanted = "python experiments/benchmarks/loaders.py --data photos --model timm/resnet50 c"
    assert timing.about(timing.torch.device("cpu"))["command"] == wanted


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("everything", ["--device", "cpu", "--data", "gone"], "gone is no folder of class folders"),
        ("loaders", ["--data", "file"], "file is no folder of class folders"),
        ("training", ["--data", "data"], "data/b holds no image"),
        ("hotspots", ["--data", "data", "--device", "tpu"], "--device tpu: choose auto, cpu or cuda"),
    ],
)
def test_what_is_not_there_ends_a_program_with_one_sentence(name, arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for path in ("data/a/1.jpg", "data/b/notes.txt", "file"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    with pytest.raises(SystemExit) as end:
        load(name, monkeypatch).main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
