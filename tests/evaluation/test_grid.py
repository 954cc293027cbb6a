"""pcpad eval over a grid: each cell is what an evaluation of its own gives, and nothing is done twice."""

import json
import os
import signal

import numpy as np
import pytest
import torch

from pcpad.cli import main
from pcpad.evaluation import run
from pcpad.evaluation.cells import reasons_text
from pcpad.evaluation.counts import Tally
from pcpad.evaluation.fields import read_records
from tests.evaluation.test_native import network


@pytest.fixture
def call(folder, tmp_path):
    """Evaluate drawn weights on 18 images; gives the exit code."""
    network("test_resnet", tmp_path, folder)

    def evaluate(out: str, *argv: str, loader: str = "torchvision", **options) -> int:
        fixed = {"model": "timm/test_resnet", "weights": tmp_path / "weights.pth", "data.name": folder, "device": "cpu"}
        fixed |= {"data.loader": loader, "data.workers": 1, "batch_size": 5, "out": tmp_path / out, **options}
        return main(["eval", *(f"--{k}={v}" for k, v in fixed.items()), *argv])

    return evaluate


def predictions(folder, record) -> dict[str, list]:
    with np.load(folder / record["predictions"]) as kept:
        return {name: kept[name].tolist() for name in kept.files}


@pytest.mark.parametrize("loader", [pytest.param("torchvision", marks=pytest.mark.slow), "dali"])
def test_each_cell_is_what_it_is_alone(call, tmp_path, capsys, loader):
    if loader == "dali":
        pytest.importorskip("nvidia.dali")
    paddings, sizes = ["zeros", "partial", "replicate"], ["48", "64", "native:64"]
    assert call("grid", loader=loader, paddings=",".join(paddings), sizes=",".join(sizes)) == 0
    said = capsys.readouterr().out
    assert "replicate at native:64: not applicable: native sizes go with zeros, partial" in said
    assert "top-1 in percent by padding and size, 18 images" in said
    assert "against zeros on the same images" in said
    records = read_records(tmp_path / "grid")
    assert sorted((r["padding"], r["size"]) for r in records) == sorted(
        (p, s) for p in paddings for s in sizes if (p, s) != ("replicate", "native:64")
    )
    (line,) = (tmp_path / "grid/not_applicable.jsonl").read_text().splitlines()
    assert (json.loads(line)["padding"], json.loads(line)["size"]) == ("replicate", "native:64")
    seen = set()
    for record in records:
        out = f"alone-{record['padding']}-{record['size'].replace(':', '-')}"
        assert call(out, loader=loader, padding=record["padding"], sizes=record["size"]) == 0
        (alone,) = read_records(tmp_path / out)
        assert predictions(tmp_path / "grid", record) == predictions(tmp_path / out, alone)
        assert record["loss"] == pytest.approx(alone["loss"], rel=1e-6)
        assert all(record[key] == alone[key] for key in ("top1", "n", "settings_digest", "canvas_padding", "size"))
        seen.add(record["loss"])
    assert len(seen) == len(records)  # the cells are not all the same


def test_each_image_is_opened_once(call, monkeypatch):
    from pcpad.data import reference

    opened, right = [], reference.open_rgb
    monkeypatch.setattr(reference, "open_rgb", lambda path: opened.append(path) or right(path))
    monkeypatch.setattr(run, "default_workers", lambda: 0)
    assert call("grid", paddings="all", sizes="48,64", **{"data.workers": "null"}) == 0
    assert len(opened) == len(set(opened)) == 18


def test_what_was_stopped_goes_on_and_what_is_done_stays(call, tmp_path, monkeypatch, capsys):
    grid = {"paddings": "zeros,partial", "sizes": "48,64"}
    assert call("whole", **grid) == 0
    counted, right = [], Tally.add

    def add(self, logits, batch):
        if len(counted) == 6:
            raise KeyboardInterrupt
        counted.append(batch.index.tolist())
        right(self, logits, batch)

    monkeypatch.setattr(Tally, "add", add)
    assert call("cut", **grid) == 130  # in the second batch, after two of four cells
    assert not read_records(tmp_path / "cut")
    assert len(list((tmp_path / "cut/records").glob("unfinished-*.npz"))) == 4
    monkeypatch.setattr(Tally, "add", lambda self, logits, batch: counted.append(0) or right(self, logits, batch))
    counted.clear()
    assert call("cut", **grid) == 0
    assert len(counted) == 2 * 2 + 2 * 3  # of 4 batches each, two cells had seen two and two had seen one
    assert not list((tmp_path / "cut/records").glob("unfinished-*"))
    wholes = {(r["padding"], r["size"]): r for r in read_records(tmp_path / "whole")}
    for record in read_records(tmp_path / "cut"):
        whole = wholes[record["padding"], record["size"]]
        assert predictions(tmp_path / "cut", record) == predictions(tmp_path / "whole", whole)
        assert record["loss"] == pytest.approx(whole["loss"], rel=1e-6)
    counted.clear()
    capsys.readouterr()
    assert call("cut", **{**grid, "paddings": "zeros,partial,circular"}) == 0
    assert len(counted) == 2 * 4  # circular alone
    assert "zeros at 48: done before: top-1 " in capsys.readouterr().out
    assert len(read_records(tmp_path / "cut")) == 6
    counted.clear()
    assert call("cut", "--again", **grid) == 0
    assert len(counted) == 4 * 4


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_keeps_what_was_counted(call, tmp_path, monkeypatch, capsys, name):
    """What a study or Slurm stops it with; as after Ctrl-C it goes on, and the result is an undisturbed one's."""
    assert call("whole", padding="zeros", size=48) == 0
    (whole,) = read_records(tmp_path / "whole")
    seen, right = [], Tally.add

    def add(self, logits, batch):
        right(self, logits, batch)
        seen.append(len(batch.index))
        if len(seen) == 2:
            os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(Tally, "add", add)
    before = signal.getsignal(getattr(signal, name))
    assert call("cut", padding="zeros", size=48) == 75
    assert signal.getsignal(getattr(signal, name)) is before
    told = f"pcpad: stopped by {name} and has kept what was counted; with the same --run or --out it goes on\n"
    assert told in capsys.readouterr().err
    assert len(list((tmp_path / "cut/records").glob("unfinished-*.npz"))) == 1
    assert call("cut", padding="zeros", size=48) == 0
    assert seen == [5, 5, 5, 3]
    (record,) = read_records(tmp_path / "cut")
    assert predictions(tmp_path / "cut", record) == predictions(tmp_path / "whole", whole)


def test_a_variant_that_leaves_nothing_does_not_stop_the_grid(call, tmp_path, capsys):
    assert call("out", paddings="zeros,partial", sizes="48,cut:30@48") == 0
    text = "zeros, partial at cut:30@48: not applicable: cut:30@48 leaves nothing of 48 pixels"
    assert text in capsys.readouterr().out
    assert sorted((r["padding"], r["size"]) for r in read_records(tmp_path / "out")) == [
        ("partial", "48"),
        ("zeros", "48"),
    ]


def test_variants_that_leave_nothing_are_a_mistake_where_nothing_else_is_asked_for(call, tmp_path, capsys):
    assert call("out", paddings="zeros,partial", sizes="cut:30@48,shift:60@48") == 1
    assert "cut:30@48 leaves nothing of 48 pixels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_ctrl_c_says_how_to_go_on(call, tmp_path, monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Tally, "add", interrupted)
    assert call("out", padding="zeros", size=48) == 130
    assert "stopped by SIGINT and has kept what was counted; with the same --run or" in capsys.readouterr().err


def test_a_cell_that_is_done_is_no_longer_not_applicable(call, tmp_path):
    """With the same `on_small`; the line of another one stays."""
    path, cell = tmp_path / "out/not_applicable.jsonl", {"model": "timm/test_resnet", "padding": "zeros", "size": "48"}
    path.parent.mkdir()
    lines = [
        {**cell, "reason": "r"},
        {**cell, "on_small": "replicate", "reason": "r"},
        {**cell, "size": "8", "reason": "r"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert call("out", padding="zeros", size=48) == 0
    assert [json.loads(line) for line in path.read_text().splitlines()] == lines[1:]


def test_other_weights_are_other_cells(call, tmp_path):
    assert call("out", padding="zeros", size=48) == 0
    state = torch.load(tmp_path / "weights.pth")
    state["fc.bias"] += torch.arange(6) * 100.0
    torch.save(state, tmp_path / "weights.pth")
    assert call("out", padding="zeros", size=48) == 0
    first, second = read_records(tmp_path / "out")
    assert set(np.ravel(predictions(tmp_path / "out", second)["top5"])[::5]) == {5}
    assert first["loss"] != second["loss"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_a_damaged_tally_counts_as_none(call, tmp_path, content):
    assert call("out", padding="zeros", size=48) == 0
    (record,) = read_records(tmp_path / "out")
    facts = {key: record.get(key) for key in run.SAME}
    (tmp_path / "new/records").mkdir(parents=True)
    (tmp_path / f"new/records/unfinished-{run.digest(facts)}.npz").write_bytes(content)
    assert call("new", padding="zeros", size=48) == 0
    assert not list((tmp_path / "new/records").glob("unfinished-*"))
    assert predictions(tmp_path / "new", read_records(tmp_path / "new")[0]) == predictions(tmp_path / "out", record)


@pytest.mark.parametrize("keep", [0, 200, None, "method"])
def test_a_cell_whose_predictions_are_damaged_is_done_again(call, tmp_path, capsys, keep):
    """Empty, cut off, of other images, or with a byte that names another compression; the other cell stays."""
    argv = ("--paddings=zeros,partial", "--sizes=32")
    assert call(tmp_path / "out", *argv) == 0
    records = read_records(tmp_path / "out")
    file, other = (tmp_path / "out" / record["predictions"] for record in records)
    whole = file.read_bytes()
    if keep is None:
        np.savez_compressed(file, index=np.arange(3), label=np.zeros(3, int), top5=np.zeros((3, 2), int))
    elif keep == "method":
        at = whole.rindex(b"PK\x01\x02") + 10  # of the central directory
        file.write_bytes(whole[:at] + b"\x63" + whole[at + 1 :])
    else:
        file.write_bytes(whole[:keep])
    capsys.readouterr()
    assert call(tmp_path / "out", *argv) == 0
    out = capsys.readouterr().out
    assert out.count("done before") == 1
    assert "against zeros on the same images" in out
    again = read_records(tmp_path / "out")
    assert [record["padding"] for record in again] == ["zeros", "partial", "zeros"]
    assert again[2]["top1"] == records[0]["top1"]
    assert other.is_file()


def test_a_size_that_no_padding_can_do_is_an_error(call, tmp_path, capsys):
    assert call("out", paddings="reflect,circular", sizes="native:64") == 1
    assert "native sizes go with zeros, partial, partial_sqrt, not with reflect" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    sizes = "8,native:64,native:96"
    assert call("out", paddings="zeros,reflect,circular", sizes=sizes) == 0  # maps of one pixel cannot be mirrored
    said = [line.split(": not applicable: ") for line in capsys.readouterr().out.splitlines() if "applicable" in line]
    assert [cells for cells, _ in said] == ["reflect at 8", "reflect, circular at native:64, native:96"]
    assert said[0][1].startswith("timm/test_resnet cannot run with reflect")
    assert said[1][1].startswith("native sizes go with zeros, partial, partial_sqrt, not with reflect, circular:")
    done = {(record["padding"], record["size"]) for record in read_records(tmp_path / "out")}
    assert done == {("zeros", "8"), ("zeros", "native:64"), ("zeros", "native:96"), ("circular", "8")}
    lines = [json.loads(line) for line in (tmp_path / "out/not_applicable.jsonl").read_text().splitlines()]
    assert len({(line["padding"], line["size"]) for line in lines}) == len(lines) == 5


def test_cells_of_one_reason_are_said_together():
    reasons = {("a", "8"): "x", ("b", "8"): "x", ("a", "16"): "x", ("c", "8"): "y", ("d", "16"): "x"}
    assert reasons_text(reasons) == ["a at 8, 16; b at 8; d at 16: not applicable: x", "c at 8: not applicable: y"]


def test_copies_share_their_weights(call, monkeypatch):
    found, right = [], run.converted
    monkeypatch.setattr(run, "converted", lambda *args: found.append(right(*args)) or found[-1])
    assert call("out", paddings="zeros,partial,reflect", sizes="64") == 0
    first, *others = ({name: t.data_ptr() for name, t in model.state_dict().items()} for model in found)
    assert len(others) == 2
    assert all(other == first for other in others)
    assert len({id(module) for model in found for module in model.modules()}) == sum(
        len(list(model.modules())) for model in found
    )
