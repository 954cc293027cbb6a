"""What a study must not take for its own results, and must not lose."""

import json
from pathlib import Path

import numpy as np
import pytest

from pcpad.cli import main
from pcpad.study.entries import read_results
from pcpad.study.plan import load_plan
from pcpad.study.report.charts import Chart, Panel, Point, Series
from pcpad.study.report.figures import svg_of
from pcpad.study.report.sections import is_shown, paired_table, record_table
from pcpad.study.report.study_charts import record_charts
from pcpad.study.results import collect, missing_cells
from pcpad.study.states import DAMAGED, same_weights, state_of
from pcpad.study.tables import tables_of
from tests.study.launched import ZEROS
from tests.study.pages import whole_record
from tests.study.test_tables import GRID, entry, evaluation, results, rows_of

EVALUATE = {"paddings": ["zeros", "partial"], "sizes": [32]}
FAILED = {"kind": "run", "status": "failed", "model": "timm/a", "padding": "zeros", "seed": 0, "varied": {}}
FAILED |= {"exit_code": 1, "error": "x"}
BOTH = {"model": ["torchvision/resnet18", "timm/resnet18"], "padding": ["zeros", "partial"], "seed": [0]}


def test_networks_of_one_name_from_both_libraries_are_two(write):
    write(grid=BOTH, evaluate=EVALUATE, tables=["training", "cross"], data="/images")
    plan = load_plan("tiny")
    hits = {"torchvision/resnet18": 600, "timm/resnet18": 800}
    runs = [entry(run, [hits[run.model]], n=1000) for run in plan.runs]
    cells = [evaluation(run, run.padding, "32", hits[run.model]) for run in plan.runs]
    training, cross = tables_of(plan, runs + cells)[0].split("of the last epoch's weights")
    assert [row[:3] for row in rows_of(training, "resnet18 | zeros")[:2]] == [
        ["torchvision/resnet18", "zeros", "60.0"],
        ["timm/resnet18", "zeros", "80.0"],
    ]
    assert {row[0]: row[3].split()[0] for row in rows_of(cross, "| 32 | zeros")} == {
        "torchvision/resnet18": "**60.0",
        "timm/resnet18": "**80.0",
    }


def test_the_loader_of_an_evaluation_may_be_another_than_that_of_the_training(write):
    write(evaluate=EVALUATE, tables=["cross"], settings={"size": 32, "epochs": 2}, data="/images")
    plan = load_plan("tiny")
    run = plan.runs[0]
    assert run.settings.data.loader == "auto"
    cell = evaluation(run, "zeros", "32", 500, record=whole_record(loader="torchvision"))
    assert cell["run_digest"] == run.digest("dali")
    assert missing_cells(plan, run, {("evaluation", run.name, "zeros", "32"): cell}) == [("partial", "32")]
    other = evaluation(plan.runs[1], "partial", "32", 500)
    text = tables_of(plan, [cell, other])[0]
    assert "**50.0" in text
    assert "images were read by torchvision (1 of 2) and dali (1 of 2)" in text


@pytest.mark.parametrize(
    "change",
    [
        {"amp": "bf16"},
        {"ema": True},
        {"on_small": "replicate"},
        {"power": 0.5},
        {"preprocess": {"mean": [0.5, 0.5, 0.5], "crop_pct": 0.9}},
        {"step": 3},
        {"checkpoint": "best"},
        {"run": "another"},
    ],
)
def test_what_was_evaluated_by_hand_with_other_settings_is_no_cell(change, finished):
    plan, _ = finished
    run = plan.runs[0]
    path = run.folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    plain = {"amp": "off", "ema": False, "on_small": "raise", "power": 1.0}
    lines = [line | plain | {"preprocess": {"mean": [0.5, 0.5, 0.5], "crop_pct": 1.0}} for line in lines]
    (partial,) = [line for line in lines if line["padding"] == "partial"]
    for more in ({}, change):
        path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, partial | {"top1": 4} | more]))
        cells = {e["padding_evaluated"]: e["top1"] for e in collect(plan) if e["name"] == run.name and "size" in e}
        assert cells["partial"] == (3 if more else 4)


def test_a_power_that_the_training_ended_with_is_its_own(finished):
    plan, _ = finished
    run = plan.runs[1]
    path = run.folder / "records.jsonl"
    lines = [json.loads(line) | {"power": 0.5} for line in path.read_text().splitlines()]
    for power, left in ((0.5, ["partial"]), (1.0, [])):
        changed = [line | ({"power": power} if line["checkpoint"] == "last" else {}) for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in changed if line["padding"] == "partial"))
        Path("experiments/tiny/results.jsonl").unlink(missing_ok=True)
        cells = [e["padding_evaluated"] for e in collect(plan) if e["name"] == run.name and "size" in e]
        assert cells == left


@pytest.mark.parametrize("trained", [0.5, 1.0, None])
def test_evaluations_are_paired_with_that_of_the_power_of_the_training(trained, tmp_path):
    """Of three images each evaluation has others right, so that only one table of pairs is right."""
    right = {("partial", 0.5): [1, 1, 0], ("partial", 1.0): [1, 0, 0], ("zeros", 1.0): [0, 0, 1]}
    about = {"run": "r", "checkpoint": "last", "padding_trained": "partial", "n": 3}
    records = []
    for number, ((padding, power), hits) in enumerate(right.items()):
        np.savez(tmp_path / f"{number}.npz", top5=1 - np.array([hits]).T, label=np.zeros(3, int))
        about |= {"padding": padding, "power": power, "top1": sum(hits), "predictions": f"{number}.npz"}
        records.append(whole_record(**about))
    if trained is not None:
        records.append(whole_record(run="r", checkpoint="epoch", step=1, padding="partial", power=trained))
    rows = [row[2:4] + row[5:7] for row in rows_of(paired_table(tmp_path, records), "| 64 |")]
    half, whole = "partial, power 0.5", "partial"
    if trained == 0.5:
        assert rows == [[whole, half, "0", "1"], ["zeros", half, "1", "2"]]
    else:
        assert rows == [[half, whole, "1", "0"], ["zeros", whole, "1", "1"]]


@pytest.mark.parametrize("planned", ["pretrained", "a1_in1k"])
def test_evaluations_of_other_weights_do_not_count(planned, write):
    """The plan is of a1_in1k now; a digest of settings does not hold the weights."""
    settings = {"size": 32, "epochs": 2, "weights": planned}
    write(evaluate=EVALUATE, tables=["cross", "resolution"], settings=settings, data="/images")
    plan = load_plan("tiny")
    run, same = plan.runs[0], planned == "a1_in1k"
    record = whole_record(weights_digest="a1_in1k")
    cells = [evaluation(run, padding, "32", 500, record=record) for padding in EVALUATE["paddings"]]
    left = missing_cells(plan, run, {("evaluation", run.name, cell["padding_evaluated"], "32"): cell for cell in cells})
    assert left == ([] if same else [("zeros", "32"), ("partial", "32")])
    assert ("50.0" in tables_of(plan, cells)[0]) == same
    assert is_shown(cells[0], run) == same


def test_weights_of_a_file_without_an_ending_are_a_file(write, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(settings={"size": 32, "epochs": 2, "weights": "backbone"}, data="/images")
    run = load_plan("tiny").runs[0]
    assert not same_weights(run, "0123456789ab")  # a library's name of its weights
    Path("backbone").touch()
    assert same_weights(run, "0123456789ab")
    assert not same_weights(run, None)


def test_a_result_that_stands_there_twice_counts_once(write):
    folder = write(evaluate=EVALUATE, tables=["cross"], data="/images")
    plan = load_plan("tiny")
    cell = evaluation(plan.runs[0], "zeros", "32", 500)
    line = json.dumps(cell) + "\n"
    (folder / "results.jsonl").write_text(2 * line)
    assert read_results(folder) == [cell]
    assert main(["report", "tiny"]) == 0  # which reads the file as it is
    assert "1 to 2 runs" not in (page := Path("reports/tiny.html").read_text())
    assert "of one run over its images" in page
    assert "over 2 runs" not in page
    (folder / "results.jsonl").write_text(line + json.dumps(cell | {"top1": 600}) + "\n")
    with pytest.raises(ValueError, match=rf"lines 1 and 2, are of the same evaluation {ZEROS} zeros 32 and differ"):
        read_results(folder)


@pytest.mark.parametrize(
    "lacking",
    [
        {"kind": "run", "name": "x"},
        {"kind": "run", "name": "x", "status": "done", "n": 5},
        {"kind": "evaluation", "name": "x", "status": "done", "padding_evaluated": "zeros", "size": "32"},
        {"kind": "else", "name": "x", "status": "done"},
    ],
)
def test_a_result_without_what_tables_need_is_named(lacking, write, capsys):
    folder = write()
    (folder / "results.jsonl").write_text(json.dumps(lacking) + "\r\n")
    assert main(["study", "table", "tiny"]) == 1
    assert "results.jsonl, line 1, is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["settings_digest", "id", "settings"])
def test_a_run_json_that_lacks_a_key_is_damaged(key, finished, capsys):
    plan, _ = finished
    path = plan.runs[0].folder / "run.json"
    about = json.loads(path.read_text())
    del about[key]
    path.write_text(json.dumps(about))
    assert state_of(plan.runs[0]).kind == DAMAGED
    assert main(["study", "table", "tiny"]) == 0
    assert "not looked at: 1 run whose folder is changed or damaged; " in capsys.readouterr().out


def test_pairs_that_were_counted_stay_without_their_predictions(finished):
    plan, folder = finished
    first = collect(plan)
    assert sum("paired" in e for e in first) == 2
    for path in Path("runs").rglob("*.npz"):
        path.write_bytes(b"PK cut")
    assert collect(plan) == first
    for path in Path("runs").rglob("*.npz"):
        path.unlink()
    assert collect(plan) == first
    (folder / "results.jsonl").unlink()
    assert [e.get("paired") for e in collect(plan) if e["kind"] == "evaluation"] == [None] * 4


def test_evaluations_of_a_training_that_was_done_anew_do_not_stay(finished):
    plan, _ = finished
    assert len(collect(plan)) == 6
    run = plan.runs[0]
    for path in (run.folder / "run.json", run.folder / "records.jsonl"):
        lines = [line for line in path.read_text().splitlines() if '"last"' not in line]
        path.write_text("\n".join(lines).replace(f'"{run.name}"', '"another-id"') + "\n")
    left = [(e["kind"], e["name"]) for e in collect(plan)]
    assert left == [("run", run.name), ("run", plan.runs[1].name), *[("evaluation", plan.runs[1].name)] * 2]


def test_a_loss_that_is_nan_is_no_new_result(finished):
    plan, folder = finished
    path = plan.runs[0].folder / "records.jsonl"
    path.write_text(path.read_text().replace('"loss": 0.5', '"loss": NaN'))
    collect(plan)
    written = (folder / "results.jsonl").stat().st_mtime_ns
    collect(plan)
    assert (folder / "results.jsonl").stat().st_mtime_ns == written
    assert main(["study", "table", "tiny"]) == 0


def test_numbers_of_another_plan_do_not_stay(write, capsys):
    folder = write(grid=GRID)
    lines = [*results(load_plan("tiny")), FAILED | {"name": "gone"}]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["study", "table", "tiny"]) == 0
    assert (folder / "table.csv").is_file()
    assert "Failed" not in (folder / "README.md").read_text()
    write(grid=GRID, settings={"size": 64, "epochs": 3, "schedule.warmup_epochs": 1})
    assert main(["study", "table", "tiny"]) == 0
    assert not (folder / "table.csv").exists()


def test_runs_trained_on_other_images_are_not_compared(write):
    write(grid=GRID)
    plan = load_plan("tiny")
    entries = [e | {"train_digest": "t"} for e in results(plan)]
    del entries[1]["train_digest"]  # of an older pcpad, which did not note it
    assert "Not all is alike" not in tables_of(plan, entries)[0]
    entries[2]["train_digest"] = "u"
    with pytest.raises(ValueError, match=r"zeros-s0 and .*zeros-s2 were trained on other images \(t, u\)"):
        tables_of(plan, entries)


def test_runs_of_two_loaders_are_said_to_be(write):
    write(grid=GRID, settings={"size": 32, "epochs": 2})
    plan = load_plan("tiny")
    entries = results(plan)
    assert "Not all is alike" not in tables_of(plan, entries)[0]
    run = plan.runs[0]
    record = whole_record(loader="torchvision")
    entries[0] |= {"settings_digest": run.digest("torchvision"), "record": record}
    assert "images were read by dali (5 of 6) and torchvision (1 of 6)" in tables_of(plan, entries)[0]


def test_a_readme_with_windows_newlines_keeps_them(write):
    folder = write(grid=GRID)
    readme = folder / "README.md"
    readme.write_bytes(readme.read_bytes().replace(b"\n", b"\r\n"))
    assert main(["study", "table", "tiny"]) == 0
    content = readme.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 10
    assert main(["study", "table", "tiny"]) == 0
    assert readme.read_bytes() == content


def plain(**more) -> dict:
    record = whole_record(padding="partial", padding_trained=None, power=1.0, amp="off", data="d")
    return record | more


@pytest.mark.parametrize(
    ("more", "names"),
    [
        ({"power": 0.5}, {"a (w), power=1.0", "a (w), power=0.5"}),
        ({"data": "e", "n": 50}, {"a (w), data=d", "a (w), data=e"}),
        ({"settings_digest": "t"}, {"a (w), settings_digest=s", "a (w), settings_digest=t"}),
        ({"model": "torchvision/a"}, {"timm/a (w)", "torchvision/a (w)"}),
    ],
)
def test_plain_records_of_one_cell_that_differ_are_told_apart(more, names):
    records = [plain(), plain(size="32"), plain(**more, top1=20), plain(**more, top1=20, size="32")]
    assert {row[0] for row in rows_of(record_table(records, []), "| partial |")} == names
    charts = record_charts(records)
    assert {chart.title.removesuffix(": accuracy against size") for chart in charts} == names
    values = {point.y for chart in charts for point in chart.panels[0].series[0].points}
    assert values == {100 * 50 / 100, 100 * 20 / records[2]["n"]}


def test_what_a_program_said_is_no_markup(write):
    folder = write()
    error = "KeyError: <script>alert(1)</script> **b** `c` | <!-- d"
    failed = FAILED | {"name": ZEROS, "error": error}
    (folder / "results.jsonl").write_text(json.dumps(failed) + "\n")
    assert main(["study", "table", "tiny"]) == 0
    (line,) = [line for line in (folder / "README.md").read_text().splitlines() if line.startswith(f"- {ZEROS}")]
    assert line == f"- {ZEROS}: exit code 1: `KeyError: <script>alert(1)</script> **b** 'c' | <!-- d`"
    assert main(["report", "tiny"]) == 0
    page = Path("reports/tiny.html").read_text()
    assert "KeyError: &lt;script&gt;alert(1)&lt;/script&gt; **b** &#x27;c&#x27; | &lt;!-- d</code>" in page


def test_a_name_with_dollars_is_no_formula():
    series = Series("zeros", (Point(1, 2.0), Point(2, 3.0)), r"$\frac$ x_1 $a$")
    chart = Chart("c", "t", "told", "x", "y", ("x", "y"), 1.0, (Panel(r"a $\nothing$ b", (series,)),))
    svg = svg_of(chart)
    assert r"$\frac$ x_1 $a$" in svg
    assert r"a $\nothing$ b" in svg
