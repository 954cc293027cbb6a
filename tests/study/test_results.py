"""results.jsonl: collected from folders, once each, whole; what is damaged is named."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pcpad.study.entries import read_results
from pcpad.study.plan import load_plan
from pcpad.study.results import alone, collect, covered, note_launch, paired
from pcpad.study.states import state_of


def test_an_entry_says_all_that_tables_and_plots_need(finished):
    plan, folder = finished
    layers = [{"is_conv": True, "action": action} for action in ("converted", "left", "converted")]
    layers.append({"is_conv": False, "action": "converted"})
    (plan.runs[0].folder / "surgery.json").write_text(json.dumps({"layers": layers}))
    for day, (seconds, resumed) in enumerate(((100, False), (7, False), (2.5, True))):
        line = {"name": plan.runs[0].name, "task": "train", "seconds": seconds, "resumed": resumed, "error": None}
        line |= {"exit_code": 0, "time": str(day), "log": "l"}
        note_launch(plan, line)
    collect(plan)
    entry = read_results(folder)[0]
    assert (entry["top1"], entry["loss"], entry["n"], entry["seed"]) == ([1, 2], [0.5, 0.5], 4, 0)
    assert (entry["seconds"], entry["hardware"], entry["commit"]) == (9.5, "h", "c0ffee")  # of its last beginning
    assert entry["record"]["step"] == 6
    assert entry["surgery"] == {"converted": 2, "left": 1}
    assert entry["settings"]["optim"]["lr"] == 0.01
    assert entry["settings"]["data"]["loader"] == "torchvision"
    assert "name" not in entry["settings"]["data"]  # no paths of a machine
    other = read_results(folder)[3]
    assert (other["kind"], other["padding"], other["seconds"]) == ("run", "partial", None)
    assert other["surgery"] is None


def test_pairs_are_counted_image_by_image(finished):
    """Labels 0 1 0 1: zeros is right on the first two, partial on the first, the third and the fourth."""
    plan, folder = finished
    collect(plan)
    cells = {(e["padding"], e["padding_evaluated"]): e for e in read_results(folder) if e["kind"] == "evaluation"}
    assert cells["zeros", "partial"]["paired"] == {"with": "zeros", "only_this": 2, "only_other": 1}
    assert cells["partial", "zeros"]["paired"] == {"with": "partial", "only_this": 1, "only_other": 2}
    assert "paired" not in cells["zeros", "zeros"]
    run = plan.runs[0]
    records = [cells["zeros", padding]["record"] for padding in ("zeros", "partial")]
    assert paired(run.folder, records[0], records[1] | {"manifest_digest": "of others"}) is None
    (run.folder / "records/zeros.npz").unlink()
    assert paired(run.folder, *records) is None


def test_collecting_again_changes_nothing(finished):
    plan, folder = finished
    first = collect(plan)
    text = (folder / "results.jsonl").read_bytes()
    written = (folder / "results.jsonl").stat().st_mtime_ns
    assert collect(plan) == first
    assert collect(plan, plan.runs[1:]) == first
    assert (folder / "results.jsonl").read_bytes() == text
    assert (folder / "results.jsonl").stat().st_mtime_ns == written  # not even written
    assert [e["name"] for e in first] == [plan.runs[0].name] * 3 + [plan.runs[1].name] * 3
    assert not list(folder.glob("*.tmp"))


def test_what_is_no_longer_there_stays_in_the_results(finished):
    plan, folder = finished
    collect(plan)
    Path("runs").rename("elsewhere")
    assert len(collect(plan)) == 6
    assert len(read_results(folder)) == 6


def test_a_failure_replaces_no_finished_run(finished):
    plan, _ = finished
    collect(plan)
    Path("runs").rename("elsewhere")
    failure = {"name": plan.runs[0].name, "task": "train", "seconds": 1, "resumed": False, "error": "no", "log": "l"}
    note_launch(plan, failure | {"exit_code": 1, "time": "now"})
    assert {e["status"] for e in collect(plan)} == {"done"}


def test_a_failed_evaluation_is_stated_where_its_folder_is_not(finished):
    """By another clone too, which has the results alone."""
    plan, folder = finished
    collect(plan)
    failed = {"kind": "evaluation", "name": plan.runs[0].name, "status": "failed", "model": "m", "padding": "zeros"}
    failed |= {"seed": 0, "varied": {}, "exit_code": 1, "error": "no", "log": "l", "time": "now"}
    with open(folder / "results.jsonl", "a") as file:
        file.write(json.dumps(failed) + "\n")
    Path("runs").rename("elsewhere")
    assert [e["error"] for e in collect(plan) if e["status"] == "failed"] == ["no"]
    Path("elsewhere").rename("runs")
    assert not [e for e in collect(plan) if e["status"] == "failed"]  # here nothing is missing


def test_what_a_cluster_s_jobs_have_noted_counts_by_its_time(write):
    """A file for each run. A failure that a later start has mended is none; one that came last is, wherever it ran."""
    folder = write(data="/images")
    plan = load_plan("tiny")
    about = {"task": "train", "seconds": 1, "resumed": False, "log": "l"}
    for run, day in zip(plan.runs, (3, 1), strict=True):
        path = Path("runs/tiny/jobs", f"{run.name}.jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        failure = about | {"name": run.name, "exit_code": 1, "error": "no disk", "time": "2026-01-02 00:00:00"}
        path.write_text(json.dumps(failure) + "\n")
        note_launch(plan, failure | {"exit_code": 0, "error": None, "time": f"2026-01-0{day} 00:00:00"})
    collect(plan)
    (entry,) = read_results(folder)
    assert (entry["name"], entry["status"], entry["error"]) == (plan.runs[1].name, "failed", "no disk")


def add(run, **changes) -> None:
    """Another record of the last weights, newer than the others: of zeros, with its predictions."""
    path = run.folder / "records.jsonl"
    record = json.loads(path.read_text().splitlines()[2])
    assert (record["checkpoint"], record["padding"]) == ("last", "zeros")
    with open(path, "a") as file:
        file.write(json.dumps(record | changes) + "\n")


def test_an_evaluation_on_other_images_is_no_cell(finished):
    """Made by hand, newer, right on more images: neither in place of the study's own nor where there is none."""
    plan, folder = finished
    before = collect(plan)
    add(plan.runs[0], manifest_digest="of others", n=3, top1=3)
    assert collect(plan) == before
    path = plan.runs[0].folder / "records.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    own = [line for line in lines if line["checkpoint"] == "last" and line["padding"] == "zeros" and line["n"] == 4]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines if line not in own))
    (folder / "results.jsonl").unlink()
    cells = {(e["name"], e["padding_evaluated"]) for e in collect(plan) if e["kind"] == "evaluation"}
    assert (plan.runs[0].name, "partial") in cells
    assert (plan.runs[0].name, "zeros") not in cells
    assert ("zeros", "32") not in covered(plan, plan.runs[0], state_of(plan.runs[0]))


def test_a_study_of_other_images_takes_no_evaluation_on_those_of_the_training(finished, write):
    plan, _ = finished
    options = dict.fromkeys(("grid", "recipe", "settings"))
    options |= {"evaluate": {"paddings": ["zeros"], "sizes": [32]}, "tables": ["cross"], "data": "/other/photographs"}
    folder = write("cross", **options, **{"from": "tiny"})
    add(plan.runs[0], manifest_digest="of others", n=3, top1=1, data="photographs")
    collect(load_plan("cross"))
    (entry,) = read_results(folder)
    assert (entry["name"], entry["n"], entry["top1"]) == (plan.runs[0].name, 3, 1)


@pytest.mark.parametrize(("on_small", "status"), [("raise", "not applicable"), ("replicate", None)])
def test_a_cell_that_could_not_be_done_otherwise_is_still_to_do(on_small, status, finished):
    """With another `on_small` than the study's; a line without it is of an older pcpad, which knew `raise` alone."""
    plan, folder = finished
    run = plan.runs[0]
    path = run.folder / "records.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if json.loads(line)["checkpoint"] == "epoch") + "\n")
    about = {"model": run.model, "padding": "partial", "size": "32", "reason": "too small"}
    (run.folder / "not_applicable.jsonl").write_text(json.dumps(about | {"on_small": on_small}) + "\n")
    collect(plan)
    found = [e["status"] for e in read_results(folder) if e["kind"] == "evaluation" and e["name"] == run.name]
    assert found == ([status] if status else [])
    (run.folder / "not_applicable.jsonl").write_text(json.dumps(about) + "\n")
    assert covered(plan, run, state_of(run)) == {("partial", "32")}


@pytest.mark.parametrize("text", ["{", "[1]", '{"kind": "run"}', "\x00"])
def test_a_damaged_line_is_named(text, finished):
    plan, folder = finished
    collect(plan)
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], text, *lines[1:]]) + "\n")
    with pytest.raises(ValueError, match=r"results\.jsonl, line 2, is damaged"):
        collect(plan)
    path.write_text("\n".join(lines)[:-5])  # whole files are written, so a last line that is cut off is damage too
    with pytest.raises(ValueError, match=r"results\.jsonl, line 6, is damaged"):
        read_results(folder)
    path.write_text("\n".join(lines[:-1]) + "\n")
    assert len(collect(plan)) == 6  # the line was removed as told, and collected again


def test_two_that_collect_wait_for_each_other(finished):
    _, folder = finished
    code = "from pcpad.study.results import *; from pcpad.study.plan import load_plan; collect(load_plan('tiny'))"
    with alone(folder):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(1.0)
        assert process.poll() is None
        assert not (folder / "results.jsonl").exists()
    assert process.wait() == 0
    assert len(read_results(folder)) == 6
