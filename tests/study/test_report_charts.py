"""The numbers of a report's figures, from the CSV beside it, against what is worked out here by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

import pcpad
from pcpad.evaluation.border.plots import STYLES, style
from pcpad.study.plan import load_plan
from pcpad.study.report.charts import Chart, Panel, Point, Series
from pcpad.study.report.figures import figure_of
from tests.study.pages import GRID, ROOT, built, check_page, csv_rows, result, whole_record


def test_own_best_epochs_beside_published_ones(write):
    """Published 60, 62 and 63, 67: 4 more. Own best epochs 61, 63 and 70, 72: 9 more, though the last ones are not."""
    folder = Path("experiments/tiny")
    folder.mkdir(parents=True)
    lines = [
        "network,padding,run1,run2,average,diff,stdev",
        "test_byobnet,zeros,60,62,,,",
        "test_byobnet,partial,63,67,,,",
    ]
    (folder / "p.csv").write_text("\n".join(lines) + "\n")
    grid = GRID | {"padding": ["zeros", "partial"], "seed": [0, 1]}
    write(grid=grid, published="p.csv", tables=["training", "published"])
    tops = {"zeros": [[61, 50], [63, 50]], "partial": [[70, 1], [72, 1]]}
    lines = [json.dumps(result(run, tops[run.padding][run.settings.seed])) for run in load_plan("tiny").runs]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    check_page(built("tiny"))
    rows = {row["of"]: row for row in csv_rows("tiny-differences.csv")}
    assert {of: float(row["difference"]) for of, row in rows.items()} == {"published": 4, "own, best epoch": 9}
    half = 4.3026527 * math.sqrt(1 + 1)  # both deviations are the root of 2, so t has 2 degrees of freedom
    assert float(rows["own, best epoch"]["high"]) == pytest.approx(9 + half)


def test_a_studys_accuracy_by_size(write):
    """Right 600, 620, 640 of 1,000 with its own padding at 32: mean 62, deviation 2; two sizes of each padding."""
    grid = GRID | {"padding": ["zeros", "partial"]}
    folder = write(grid=grid, evaluate={"paddings": "own", "sizes": [32, 64]}, tables=["resolution"], data="/images")
    lines = []
    for run in load_plan("tiny").runs:
        for size in ("32", "64"):
            entry = {"kind": "evaluation", "name": run.name, "status": "done", "padding": run.padding, "n": 1000}
            entry |= {"model": run.model, "seed": run.settings.seed, "varied": {}}
            entry |= {"padding_evaluated": run.padding, "size": size, "run_digest": run.digest("dali")}
            entry |= {"top1": 600 + 20 * run.settings.seed + int(size) - 32}
            entry |= {"record": whole_record(hardware="a machine")}
            lines.append(json.dumps(entry))
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    seen = check_page(built("tiny"))
    rows = {(row["padding"], row["size"]): row for row in csv_rows("tiny-size-test-byobnet.csv")}
    assert len(rows) == 4
    half = 4.3026527 * 2 / math.sqrt(3)
    row = [float(rows["partial", "32"][key]) for key in ("top1_percent", "low", "high")]
    assert row == pytest.approx([62, 62 - half, 62 + half])
    assert ["test_byobnet", "partial", "62.0 ± 5.0", "65.2 ± 5.0"] in seen.tables[0]
    assert any("62.0 (57.0 to 67.0)" in cell for table in seen.tables for line in table for cell in line)


def test_evaluations_by_size(write, tmp_path):
    folder = tmp_path / "some"
    folder.mkdir()
    common = whole_record(model="timm/net", checkpoint="w.pth", padding_trained=None, n=1000, top5=950)
    common |= {"weights_digest": "w"}
    cells = [("zeros", "64", 500), ("zeros", "128", 799), ("partial", "64", 400), ("partial", "128", 640)]
    cells += [("zeros", "native:64", 510), ("zeros", "64", 610)]  # the last one again: it counts
    lines = [
        json.dumps(common | {"padding": p, "size": s, "top1": top1, "settings_digest": f"{p}{s}"})
        for p, s, top1 in cells
    ]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "not_applicable.jsonl").write_text(
        json.dumps({"padding": "reflect", "size": "64", "reason": "too small"})
    )
    seen = check_page(built("--records", str(folder)))
    rows = {(r["panel"], r["padding"], r["size"]): r for r in csv_rows("some-size-net-w.pth.csv")}
    assert len(rows) == 5
    row = rows["", "zeros", "128"]
    z, p, n = 1.959964, 0.799, 1000  # Wilson's interval by hand
    middle, half = (
        (p + z * z / 2 / n) / (1 + z * z / n),
        z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z**2 / 4 / n**2),
    )
    assert [float(row[k]) for k in ("top1_percent", "low", "high")] == pytest.approx(
        [79.9, 100 * (middle - half), 100 * (middle + half)]
    )
    assert float(rows["", "zeros", "64"]["top1_percent"]) == 61
    assert rows["shorter side, no crop", "zeros", "64"]["top1_percent"] == "51.0"
    assert ["net (w.pth)", "zeros", "128", "1000", "799", "79.9", "77.3 to 82.3", "95.0"] in seen.tables[0]
    assert ["-", "reflect", "64", *["n/a"] * 5] in seen.tables[0]


def test_paddings_are_compared_on_the_same_images(tmp_path, monkeypatch):
    """Six images; zeros right on the first five, partial on the last alone: p is twice (1 + 6) / 2^6. Of reflect, whose
    predictions are not there, nothing is said; n/a is not said of a cell that has a number."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some"
    (folder / "records").mkdir(parents=True)
    common = whole_record(model="timm/net", checkpoint="w.pth", n=6, weights_digest="w", padding_trained=None)
    lines = []
    for padding, right in (("zeros", [1, 1, 1, 1, 1, 0]), ("partial", [0, 0, 0, 0, 0, 1]), ("reflect", [1] * 6)):
        file = f"records/{padding}.npz"
        lines.append(common | {"padding": padding, "top1": sum(right), "settings_digest": padding, "predictions": file})
        if padding != "reflect":
            top5 = 1 - np.array(right)[:, None]
            np.savez(folder / file, label=np.zeros(6, int), top5=top5, index=np.arange(6))
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cells = [{"model": "timm/net", "padding": padding, "size": "64", "reason": "r"} for padding in ("partial", "mean")]
    (folder / "not_applicable.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in cells))
    first, second, *_ = check_page(built("--records", str(folder))).tables
    assert [row[:3] for row in first if "n/a" in row] == [["net (w.pth)", "mean", "64"]]
    assert second[0][4:] == ["difference", "right with it alone", "with the other alone", "p"]
    assert second[1:] == [["net (w.pth)", "64", "partial", "zeros", "-67", "1", "5", "0.22"]]


def test_what_is_compared_differs_in_its_padding_alone(tmp_path, monkeypatch):
    """Two crops, each with zeros and with partial padding, which the training had; and partial at another power."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some"
    (folder / "records").mkdir(parents=True)
    common = whole_record(model="timm/net", checkpoint="last", n=6, weights_digest="w", padding_trained="partial")
    lines, found = [], {0.875: {"zeros": 2, "partial": 6}, 1.0: {"zeros": 5, "partial": 3}}
    cells = [(crop, padding, 1.0, right) for crop, of in found.items() for padding, right in of.items()]
    for crop, padding, power, right in [*cells, (1.0, "partial", 0.5, 0)]:
        name = f"{padding}-{crop}-{power}"
        more = {"padding": padding, "power": power, "preprocess": {"crop_pct": crop}, "top1": right}
        lines.append(common | more | {"settings_digest": name, "predictions": f"records/{name}.npz"})
        top5 = (np.arange(6) >= right).astype(int)[:, None]
        np.savez(folder / f"records/{name}.npz", label=np.zeros(6, int), top5=top5, index=np.arange(6))
    (folder / "records.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, second, *_ = check_page(built("--records", str(folder))).tables
    assert [row[2:7] for row in second[1:]] == [
        ["zeros", "partial", "-67", "0", "4"],
        ["zeros", "partial", "+33", "2", "0"],
        ["partial, power 0.5", "partial", "-50", "0", "3"],
    ]


def test_bars_of_one_size_do_not_hide_each_other():
    """They are drawn beside each other, near their size, and inside the axes."""
    points = (Point(32, 50.0, 40.0, 60.0), Point(64, 55.0, 45.0, 65.0))
    series = tuple(Series(padding, points) for padding in ("zeros", "partial", "reflect"))
    chart = Chart("a", "A", "told", "size, pixels", "top-1, %", ("size", "top1"), 0.1, (Panel("", series),))
    (axes,) = figure_of(chart).axes
    places = [bars.lines[0].get_xdata()[0] for bars in axes.containers]
    assert len(set(places)) == 3
    assert all(abs(place - 32) < 1 for place in places)
    assert all(line.get_clip_on() for bars in axes.containers for line in bars.lines[2])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["32", "64"]


@pytest.mark.parametrize(("y", "share"), [("top-1, %", True), ("relative error, %", False)])
def test_shares_of_images_stay_between_0_and_100(y, share):
    """Student's interval of two runs reaches beyond both, and would press the curves together."""
    points = (Point(32, 60.0, -80.0, 200.0), Point(64, 62.0, 60.0, 64.0))
    chart = Chart("a", "A", "told", "size, pixels", y, ("size", "top1"), 0.1, (Panel("", (Series("zeros", points),)),))
    low, high = figure_of(chart).axes[0].get_ylim()
    assert (low, high) == (0, 100) if share else (low < -80 and high > 200)


def test_runs_of_one_padding_are_told_apart_and_named_whole():
    """Two runs of one padding share its colour but no line, and no long name in the legend leaves the figure."""
    names = ["partial-at-once-427a69", "partial-ramp-335c18", "replicate-at-once-of-a-long-name-af1b7b"]
    series = [Series(name.partition("-")[0], (Point(1, 70 + i), Point(2, 75)), of=name) for i, name in enumerate(names)]
    figure = figure_of(
        Chart("a", "A", "told", "epoch", "top-1, %", ("epoch", "top1"), 0.1, (Panel("", tuple(series)),))
    )
    first, second, third = figure.axes[0].get_lines()
    assert first.get_color() == second.get_color() != third.get_color()
    assert first.get_linestyle() == third.get_linestyle() == "-" != second.get_linestyle()
    figure.canvas.draw()
    (legend,) = figure.legends
    for text in legend.get_texts():
        box = text.get_window_extent()
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1, text.get_text()


def test_a_padding_has_its_colour_whatever_else_is_drawn():
    names = [name for name in pcpad.PADDING_MODES if name in STYLES]
    assert len(names) == 8
    looks = {name: style(name, [name]) for name in names}
    assert all(style(name, names) == looks[name] for name in names)
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 8


def test_a_single_run_by_its_folder(tmp_path, monkeypatch):
    """Its epochs as a curve, in the order of their steps, the last one in the table; what run.json says of it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs/one"
    folder.mkdir(parents=True)
    common = whole_record(model="timm/net", run="one-1", checkpoint="epoch", padding="partial", n=200)
    common |= {"padding_trained": "partial"}
    lines = [json.dumps(common | {"step": step, "top1": top1}) for step, top1 in ((20, 150), (30, 160), (10, 100))]
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n")
    about = {"id": "one-1", "settings": {"optim": {"lr": 0.25}}, "classes": ["a"], "hardware": "a machine"}
    (folder / "run.json").write_text(json.dumps(about))
    seen = check_page(built("--records", str(folder)))
    rows = csv_rows("one-training-net.csv")
    assert [(row["epoch"], row["top1_percent"], row["of"]) for row in rows] == [
        ("1", "50.0", "one-1"),
        ("2", "75.0", "one-1"),
        ("3", "80.0", "one-1"),
    ]
    assert [row[4] for row in seen.tables[0][1:]] == ["160"]
    assert any(["settings.optim.lr", "0.25"] in table for table in seen.tables)
    assert not any(cell == "classes" for table in seen.tables for row in table for cell in row)


def test_border_profiles_are_those_of_the_records(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_page(built("--records", str(ROOT / "experiments/border/exact")))
    rows = csv_rows("exact-fidelity.csv")
    records = map(json.loads, (ROOT / "experiments/border/exact/border.jsonl").read_text().splitlines())
    (record,) = [r for r in records if r.get("layer") == "blocks.1.1.conv_dw" and r["padding"] == "partial"]
    own = [r for r in rows if r["padding"] == "partial" and r["panel"].startswith("blocks.1.1.conv_dw")]
    assert len(own) >= 4
    for row in own:
        ring = int(row["distance"])
        wanted = 100 * math.sqrt(record["error"][ring] / record["true"][ring])
        assert float(row["relative_error_percent"]) == pytest.approx(wanted)
