"""The page: whole, self-contained, escaped, the same every time, and with the numbers of the records."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from pcpad.cli import main
from pcpad.study.plan import load_plan
from pcpad.study.tables import tables_of
from tests.study.pages import COUNTS, GRID, ROOT, built, check_page, csv_rows, result

NASTY = '<script>alert("1")</script> & <b>'


@pytest.fixture
def study(write):
    """A study of three paddings, two of them run, with a title that is none of the page's business."""
    folder = write(grid=GRID, title=NASTY, question=f"Is it {NASTY}?")
    runs = [run for run in load_plan("tiny").runs if run.padding in COUNTS]
    lines = [json.dumps(result(run, COUNTS[run.padding][run.settings.seed])) for run in runs]
    (folder / "results.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_numbers_are_those_of_the_records(study):
    """The worked example of test_tables: 8 more, deviation 2 each, 4 degrees of freedom, interval 8 -+ 4.534."""
    seen = check_page(built("tiny"))
    head, zeros, partial, reflect = seen.tables[0]
    assert head[:3] == ["network", "padding", "runs"]
    assert zeros[:6] == ["test_byobnet", "zeros", "60 62 64", "3", "62", "2"]
    assert partial[5:] == ["2", "+8", "+3 to +13", "0.008", "0.016"]
    assert reflect[2] == "3 missing: pcpad study run tiny --only 'timm_test_byobnet-reflect-s*' --data /path/to/images"
    (row,) = csv_rows("tiny-differences.csv")
    assert (row["padding"], row["network"], float(row["difference"])) == ("partial", "test_byobnet", 8)
    half = 2.7764451 * math.sqrt(4 / 3 + 4 / 3)
    assert [float(row["low"]), float(row["high"])] == pytest.approx([8 - half, 8 + half])


def test_every_cell_of_the_markdown_is_on_the_page(study):
    plan = load_plan("tiny")
    entries = [json.loads(line) for line in (study / "results.jsonl").read_text().splitlines()]
    made = [line for line in tables_of(plan, entries)[0].splitlines() if line.startswith("|") and "---" not in line]
    wanted = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in made]
    tables = check_page(built("tiny")).tables
    assert [row for table in tables[:2] for row in table] == wanted


def test_training_curves(study):
    built("tiny")
    rows = csv_rows("tiny-training-test-byobnet.csv")
    seeds = [r for r in rows if r["padding"] == "zeros" and r["of"].startswith("seed")]
    wanted = [(f"seed {i}", epoch, float(COUNTS["zeros"][i][epoch - 1])) for i in range(3) for epoch in (1, 2)]
    assert [(r["of"], int(r["epoch"]), float(r["top1_percent"])) for r in seeds] == wanted
    first, last = [r for r in rows if (r["padding"], r["of"]) == ("partial", "mean of 3")]
    assert (float(first["top1_percent"]), float(last["top1_percent"])) == (54, 70)
    assert float(last["high"]) == pytest.approx(70 + 4.3026527 * 2 / math.sqrt(3))


def test_settings_versions_and_hardware_of_every_run(study):
    seen = check_page(built("tiny"))
    shared = {row[0]: row[1] for row in seen.tables[-1][1:]}
    assert shared["versions.torch"] == "9.8.7"
    assert shared["hardware"] == "AMD <1>"
    assert shared["settings.optim.lr"] == "0.01"
    differing = seen.tables[-2]
    assert [row[0] for row in differing[1:]] == [f"timm_test_byobnet-{p}-s{s}" for p in COUNTS for s in range(3)]
    assert "settings.padding" in differing[0]


def test_runs_of_an_older_plan_are_not_said_to_be_how_it_was_made(study):
    lines = [json.loads(line) for line in (study / "results.jsonl").read_text().splitlines()]
    for line in lines[:2]:
        line["settings_digest"], line["hardware"] = "of an older plan", "an abacus"
    (study / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "an abacus" not in built("tiny")


def test_what_a_study_says_is_text(study):
    text = built("tiny")
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 2
    seen = check_page(text)
    assert seen.texts["title"].startswith(NASTY)
    assert len(seen.named("script")) == 1


def test_surgery_where_runs_are_at_hand(study):
    assert "Surgery" not in built("tiny")
    for run in load_plan("tiny").runs[:4]:
        layers = [
            {"name": f"c{i}", "kind": "Conv2d", "is_conv": i < 3, "kernel_size": [3, 3], "stride": None}
            | {"padding": "dynamic", "action": "left" if i else "converted", "reason": "<why>", "aliases": []}
            for i in range(4)
        ]
        run.folder.mkdir(parents=True)
        (run.folder / "surgery.json").write_text(json.dumps({"model": "Net", "mode": run.padding, "layers": layers}))
    seen = check_page(built("tiny"))
    (table,) = [table for table in seen.tables if table[0][-1] == "runs" and "converted" in table[0]]
    assert table[1:] == [
        ["Net", "zeros", "3", "1", "0", "2", "3"],
        ["Net", "partial", "3", "1", "0", "2", "1"],
    ]
    (run.folder / "surgery.json").write_text("{")
    assert main(["report", "tiny"]) == 1


def test_the_surgery_of_runs_that_are_not_at_hand(study):
    """From the results alone, as in a fresh clone; by the network's name, each run once though its folder is there."""
    path = study / "results.jsonl"
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    for entry in entries:
        entry["surgery"] = {"converted": 5, "left": 2} if entry["padding"] == "partial" else {"left": 7}
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    run = load_plan("tiny").runs[0]
    run.folder.mkdir(parents=True)
    (run.folder / "surgery.json").write_text(json.dumps({"model": "Net", "mode": run.padding, "layers": []}))
    (table,) = [t for t in check_page(built("tiny")).tables if t[0][-1] == "runs" and "converted" in t[0]]
    assert table[1:] == [
        ["test_byobnet", "zeros", "7", "0", "0", "7", "3"],
        ["test_byobnet", "partial", "7", "5", "0", "2", "3"],
    ]


def test_the_same_bytes_every_time(study):
    def everything() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in [*sorted(Path().glob("page*/*")), Path("page.html")]}

    built("tiny")
    first = everything()
    assert len(first) == 5  # two figures, each as SVG and CSV
    built("tiny")
    assert everything() == first
    for name, content in first.items():
        if name.endswith(".svg"):
            assert b"<desc" in content


def test_the_message_counts_the_figures(study, capsys):
    """A study of one padding has nothing to compare, so a figure less."""
    built("tiny")
    assert "the study tiny; 2 figures as SVG and CSV in page-files" in capsys.readouterr().out
    path = study / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if json.loads(line)["padding"] == "zeros"))
    built("tiny")
    assert "the study tiny; 1 figure as SVG and CSV in page-files" in capsys.readouterr().out


def test_all_studies_without_torch(tmp_path):
    """The repository's own studies, in a process that cannot import torch."""
    code = """
import sys
for name in ("torch", "timm", "tensorboard", "torchvision", "matplotlib.pyplot"):
    sys.modules[name] = None
from pcpad.cli import main
raise SystemExit(main(sys.argv[1:]))
"""
    argv = [sys.executable, "-c", code, "report", "--out", str(tmp_path / "all.html")]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "all.html").read_text()
    seen = check_page(text)
    targets = {a["href"] for a in seen.named("a")}
    assert {"#imagenet-table", "#border", "#without-training", "#imagenet-table.differences"} <= targets
    for href in targets:
        assert href.startswith("#") or (tmp_path / href).is_file()
    with open(tmp_path / "all-files/imagenet-table-differences.csv", newline="") as file:
        rows = {(r["network"], r["padding"]): r for r in csv.DictReader(file) if r["of"] == "published"}
    with open(ROOT / "experiments/imagenet_table/published.csv", newline="") as file:
        runs = {(r["network"], r["padding"]): [float(r[f"run{i}"]) for i in range(1, 6)] for r in csv.DictReader(file)}
    assert len(rows) == 15
    for (network, padding), row in rows.items():
        difference = sum(runs[network, padding]) / 5 - sum(runs[network, "zeros"]) / 5
        assert float(row["difference"]) == pytest.approx(difference)
        assert float(row["low"]) < difference < float(row["high"])
    assert float(rows["resnet50", "partial"]["low"]) == pytest.approx(0.34411456)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["tinny"], "unknown study 'tinny': choose from tiny, or a path; did you mean 'tiny'?"),
        (["--records", "nowhere"], "--records nowhere: no records there"),
    ],
)
def test_mistakes_are_named(argv, message, study, capsys):
    assert main(["report", *argv]) == 1
    assert message in capsys.readouterr().err
    assert not Path("reports").exists()


def test_nothing_to_show_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["report"]) == 1
    assert "no folder of experiments/ here has records" in capsys.readouterr().err
