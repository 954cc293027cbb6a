"""Tables: made of results alone, without torch, and put where they belong."""

import csv
import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from pcpad.cli import main
from pcpad.study.markdown import put_into
from pcpad.study.plan import load_plan
from pcpad.study.tables import tables_of
from tests.study.pages import whole_record

GRID = {"model": ["timm/test_byobnet"], "padding": ["zeros", "partial", "reflect"], "seed": [0, 1, 2]}
COUNTS = {"zeros": [[70, 72, 60], [70, 75, 62], [70, 71, 64]], "partial": [[1, 80, 68], [1, 80, 70], [1, 80, 72]]}


def entry(run, top1: list[int], n: int = 100, images: str = "m") -> dict:
    facts = {"kind": "run", "name": run.name, "status": "done", "padding": run.padding, "top1": top1, "n": n}
    facts |= {"model": run.model, "seed": run.settings.seed, "varied": run.varied}
    facts["settings"] = {"seed": run.settings.seed}
    return facts | {"settings_digest": run.digest("dali"), "record": whole_record(manifest_digest=images)}


def results(plan) -> list[dict]:
    runs = [run for run in plan.runs if run.padding in COUNTS]
    return [entry(run, COUNTS[run.padding][run.settings.seed]) for run in runs]


def rows_of(text: str, first: str) -> list[list[str]]:
    """Cells of the lines of a Markdown table that begin with `first`."""
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if first in line]


def test_the_headline_is_the_last_epoch(write):
    """60, 62, 64 against 68, 70, 72: 8 more; deviation 2 each, so t = 8 / sqrt(8/3) = 4.899 with 4 degrees of freedom,
    p = 0.0080, and the interval is 8 -+ 2.7764 * 1.63299. Two comparisons are planned, so Holm's p is twice p."""
    write(grid=GRID)
    plan = load_plan("tiny")
    text, numbers = tables_of(plan, results(plan))
    headline, beside = text.split("The same runs by other measures")
    zeros, partial, reflect = rows_of(headline, "| test_byobnet")
    assert zeros == ["test_byobnet", "zeros", "60 62 64", "3", "62", "2", "", "", "", ""]
    assert partial == ["test_byobnet", "partial", "68 70 72", "3", "70", "2", "+8", "+3 to +13", "0.008", "0.016"]
    command = "pcpad study run tiny --only 'timm_test_byobnet-reflect-s*' --data /path/to/images"
    assert reflect == ["test_byobnet", "reflect", f"3 missing: `{command}`", "0", "-", "-", "", "", "", ""]
    assert "Top-1 in percent of 100 images at the last epoch" in headline
    assert "adjusted over the 2 comparisons of the study, of which 1 can be made so far." in headline
    zeros, partial, _ = rows_of(beside, "| test_byobnet")
    assert zeros[2:] == ["62", "", "68", "", "73", ""]  # last; (70 + 72 + 60) / 3 and so on; best
    assert partial[2:] == ["70", "+8", "50", "-18", "80", "+7"]
    assert "A run has 3 epochs only" in beside
    row = next(r for r in numbers if (r["padding"], r["basis"]) == ("partial", "last"))
    assert row["p"] == pytest.approx(0.008050, abs=5e-7)
    assert row["difference_high"] == pytest.approx(8 + 2.7764451 * 1.6329932)
    assert (row["low"], row["high"]) == pytest.approx((70 - 4.9682755, 70 + 4.9682755))  # 4.3026527 * 2 / sqrt(3)
    assert (row["runs"], row["images"], row["values"]) == (3, 100, "68.0 70.0 72.0")


def test_p_is_adjusted_over_all_comparisons_of_the_study(write):
    write(grid=GRID)
    plan = load_plan("tiny")
    more = [entry(run, [0, 0, 60 + run.settings.seed]) for run in plan.runs if run.padding == "reflect"]
    _, numbers = tables_of(plan, results(plan) + more)
    last = {r["padding"]: r for r in numbers if r["basis"] == "last"}
    small, large = sorted((last["partial"], last["reflect"]), key=lambda r: r["p"])
    assert small["p_holm"] == pytest.approx(2 * small["p"])
    assert large["p_holm"] == pytest.approx(max(large["p"], small["p_holm"]))


def test_a_single_run_has_the_digits_that_its_images_support(write):
    """600 of 1,000 right: 95% within 3 points (Wilson), as a cell of several runs would show it."""
    write(grid=GRID)
    plan = load_plan("tiny")
    entries = [entry(plan.runs[0], [500, 600], n=1000), entry(plan.runs[3], [500, 612], n=1000)]
    headline, beside = tables_of(plan, entries)[0].split("The same")
    zeros, partial, _ = rows_of(headline, "| test_byobnet")
    assert zeros[2].startswith("60.0; 2 missing: `")
    assert (zeros[3:6], partial[3:]) == (["1", "60.0", "-"], ["1", "61.2", "-", "+1.2", "-", "-", "-"])
    entries = [entry(plan.runs[0], [500, 60], n=100), entry(plan.runs[3], [50, 66], n=100)]  # within 10 points
    headline, beside = tables_of(plan, entries)[0].split("The same")
    assert [row[4] for row in rows_of(headline, "| test_byobnet")] == ["60", "66", "-"]
    assert [row[2] for row in rows_of(beside, "| test_byobnet")] == ["60", "66", "-"]


def test_results_of_other_settings_are_missing(write):
    write(grid=GRID)
    plan = load_plan("tiny")
    entries = results(plan)
    entries[0]["settings_digest"] = "of an older plan"
    entries[3] |= {"status": "failed", "exit_code": 1, "error": "no room"}
    text, _ = tables_of(plan, entries)
    zeros, partial, _ = rows_of(text.split("The same")[0], "| test_byobnet")
    assert zeros[2].startswith("62 64; 1 missing: `pcpad study run tiny --only 'timm_test_byobnet-zeros-s*'")
    assert (zeros[3], partial[3]) == ("2", "2")
    assert "Failed:\n\n- timm_test_byobnet-partial-s0: exit code 1: `no room`" in text


def test_runs_on_other_images_are_not_compared(write):
    write(grid=GRID)
    plan = load_plan("tiny")
    entries = results(plan)
    for other in (entry(plan.runs[1], [1, 1, 1], images="x"), entry(plan.runs[1], [1, 1, 1], n=99)):
        with pytest.raises(ValueError, match=r"zeros-s0 was evaluated on 100 images.*zeros-s1 on .* compare nothing"):
            tables_of(plan, [entries[0], other])


def test_what_the_grid_varies_besides_has_rows_and_baselines_of_its_own(write):
    grid = {"model": ["timm/test_byobnet"], "padding": ["zeros", "partial"], "seed": [0, 1], "optim.lr": [0.1, 0.2]}
    write(grid=grid, settings={"epochs": 1, "schedule.warmup_epochs": 0})
    plan = load_plan("tiny")
    hits = {("zeros", 0.1): 50, ("partial", 0.1): 53, ("zeros", 0.2): 60, ("partial", 0.2): 67}
    entries = [entry(run, [hits[run.padding, run.varied["optim.lr"]] + run.settings.seed]) for run in plan.runs]
    headline = tables_of(plan, entries[:-1])[0].split("The same")[0]
    rows = {(row[0], row[1]): row for row in rows_of(headline, "| test_byobnet")}
    assert rows["test_byobnet optim.lr=0.1", "partial"][6] == "+3"
    assert rows["test_byobnet optim.lr=0.2", "partial"][2].startswith(
        "67; 1 missing: `pcpad study run tiny --only 'timm_test_byobnet-partial-s*-optim.lr_0.2'"
    )


def evaluation(run, padding: str, size: str, top1: int, **more) -> dict:
    facts = {"kind": "evaluation", "name": run.name, "status": "done", "padding": run.padding, "n": 1000}
    facts |= {"padding_evaluated": padding, "size": size, "top1": top1, "run_digest": run.digest("dali")}
    facts |= {"model": run.model, "seed": run.settings.seed, "varied": run.varied}
    return facts | {"record": whole_record()} | more


def test_cross_and_resolution(write):
    grid = {"model": ["timm/test_byobnet"], "padding": ["zeros", "partial"], "seed": [0, 1, 2]}
    evaluate = {"paddings": ["zeros", "partial"], "sizes": [32, 64]}
    write(grid=grid, evaluate=evaluate, tables=["cross", "resolution"], data="/images")
    plan = load_plan("tiny")
    zeros, partial = ([run for run in plan.runs if run.padding == p] for p in ("zeros", "partial"))
    entries = [evaluation(run, "zeros", "32", top1) for run, top1 in zip(zeros, (600, 620, 640), strict=True)]
    entries += [evaluation(run, "partial", "32", 500) for run in zeros]
    pair = {"with": "partial", "only_this": 1, "only_other": 9}
    entries += [evaluation(partial[0], "partial", "64", 700), evaluation(partial[0], "zeros", "64", 692, paired=pair)]
    text, numbers = tables_of(plan, entries)
    cross, resolution = text.split("by the side of the image in pixels")
    rows = rows_of(cross, "| test_byobnet")
    assert rows[0] == ["test_byobnet", "32", "zeros", "**62.0 ± 5.0**", "50.0 ± 3.1"]  # t over seeds; Wilson: no spread
    assert rows[1] == ["test_byobnet", "64", "partial", "69.2 ± 2.9", "**70.0 ± 2.8**"]
    # Differences of -100, -120 and -140 of 1,000: mean -12, deviation 2, t = 12 / (2 / sqrt(3)) = 10.392 with 2 degrees
    # of freedom, p = 1 - t / sqrt(t^2 + 2) = 0.00913, four comparisons are planned; half 4.3027 * 2 / sqrt(3) = 4.968.
    assert rows[2] == ["test_byobnet", "32", "zeros", "", "-12.0 ± 5.0 (0.037)"]
    assert len(rows) == 3
    assert "p adjusted by Holm over the 4 comparisons of the study" in cross
    row = next(r for r in numbers if "difference" in r)
    assert (row["padding"], row["padding_evaluated"], row["size"]) == ("zeros", "partial", "32")
    assert (row["model"], row["varied"]) == ("timm/test_byobnet", "{}")
    assert row["p"] == pytest.approx(1 - math.sqrt(108 / 110))
    assert row["p_holm"] == pytest.approx(4 * row["p"])
    assert (row["difference_low"], row["difference_high"]) == pytest.approx((-12 - 4.96828, -12 + 4.96828), abs=1e-4)
    assert "trained with partial: images right with zeros only: 1, with partial only: 9; p 0.021" in cross  # 22/1024
    assert (
        "- test_byobnet, partial: 10 evaluations: `pcpad study run tiny --only 'timm_test_byobnet-partial-s*'" in cross
    )
    assert rows_of(resolution, "| test_byobnet") == [
        ["test_byobnet", "zeros", "62.0 ± 5.0", "missing"],
        ["test_byobnet", "partial", "missing", "70.0 ± 2.8"],
    ]
    row = next(r for r in numbers if r["table"] == "cross" and r["padding_evaluated"] == "zeros" and r["size"] == "64")
    assert row["p"] == pytest.approx(22 / 1024)
    entries[0]["run_digest"] = "of an older plan"
    assert "- test_byobnet, zeros: 7 evaluations" in tables_of(plan, entries)[0]


def test_comparisons_that_cannot_be_made_are_not_counted(write):
    """Of what was trained with reflect nothing is evaluated with reflect, so there is nothing to compare with."""
    grid = {"model": ["timm/test_byobnet"], "padding": ["zeros", "partial", "reflect"], "seed": [0, 1, 2]}
    evaluate = {"paddings": ["zeros", "partial"], "sizes": [32, 64]}
    write(grid=grid, evaluate=evaluate, tables=["cross", "resolution"], data="/images")
    plan = load_plan("tiny")
    zeros, partial = ([run for run in plan.runs if run.padding == p] for p in ("zeros", "partial"))
    entries = [
        evaluation(run, p, "32", top1) for run in zeros for p, top1 in (("zeros", 600 + 20 * run.settings.seed),)
    ]
    entries += [evaluation(run, "partial", "32", 500) for run in zeros]
    entries += [evaluation(run, "partial", "32", 700 + 10 * run.settings.seed) for run in partial]
    cross, resolution = tables_of(plan, entries)[0].split("by the side of the image in pixels")
    assert "over the 4 comparisons of the study" in cross  # two trainings, one other padding each, two sizes
    assert "over the 2 comparisons of the study" in resolution  # partial against zeros at two sizes


def test_resolution_compares_each_size_with_the_baseline(write):
    """The numbers of Welch's test in the headline (62 and 70, deviations 2), of 1,000 images, at one size of two."""
    write(grid=GRID, evaluate={"paddings": "own", "sizes": [32, 64]}, tables=["resolution"])
    plan = load_plan("tiny")
    right = {"zeros": (600, 620, 640), "partial": (680, 700, 720)}
    of = [run for run in plan.runs if run.padding in right]
    entries = [evaluation(run, run.padding, "32", right[run.padding][run.settings.seed]) for run in of]
    entries += [evaluation(of[0], "zeros", "64", 500), evaluation(of[3], "partial", "64", 600)]  # a single run each
    text, numbers = tables_of(plan, entries)
    # Two paddings against zeros at two sizes: Holm multiplies the smallest p by four; half is 2.7764451 * 1.6329932.
    assert rows_of(text, "| test_byobnet")[2:] == [["test_byobnet", "partial", "+8.0 ± 4.5 (0.032)", ""]]
    assert "Difference to zeros at the same size" in text
    assert "over the 4 comparisons of the study" in text
    (row,) = [r for r in numbers if "difference" in r]
    assert (row["padding"], row["size"], row["difference"]) == ("partial", "32", pytest.approx(8))
    assert row["p_holm"] == pytest.approx(4 * 0.008050, abs=2e-6)
    assert "Difference" not in tables_of(plan, entries[6:])[0]


def test_the_command_writes_readme_and_csv(write, capsys):
    folder = write(grid=GRID)
    plan = load_plan("tiny")
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results(plan)))
    assert main(["study", "table", "tiny"]) == 0
    assert "6 results; experiments/tiny/README.md has new tables; 6 rows of numbers in" in capsys.readouterr().out
    readme = (folder / "README.md").read_text()
    assert readme.startswith("# Tiny\n\n<!-- table: begin -->\n\nTop-1 in percent of 100")
    assert readme.endswith("|\n\n<!-- table: end -->\n\nThe end.\n")
    with open(folder / "table.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["mean"] for line in lines if line["basis"] == "last"] == ["62.0", "70.0"]
    assert main(["study", "table", "tiny"]) == 0
    assert "is as it was" in capsys.readouterr().out
    assert (folder / "README.md").read_text() == readme


def test_the_text_around_the_markers_is_kept(tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("a\n<!-- table: begin -->\nold\n<!-- table: end --> b\n")
    assert put_into(readme, "new")
    assert readme.read_text() == "a\n<!-- table: begin -->\n\nnew\n\n<!-- table: end --> b\n"
    assert not put_into(readme, "new")
    for bad in (
        "none",
        "<!-- table: end --><!-- table: begin -->",
        "<!-- table: begin -->" * 2 + "<!-- table: end -->",
    ):
        readme.write_text(bad)
        with pytest.raises(ValueError, match=r"README\.md needs the line <!-- table: begin --> once"):
            put_into(readme, "new")
        assert readme.read_text() == bad
    with pytest.raises(ValueError, match="write it, with the lines <!-- table: begin -->"):
        put_into(tmp_path / "no.md", "new")


def test_tables_need_no_torch(write):
    """In a process that cannot import torch, timm or tensorboard; a hundred runs of a hundred epochs."""
    grid = {"model": ["timm/test_byobnet", "timm/test_resnet"], "padding": list(COUNTS), "seed": list(range(25))}
    folder = write(grid=grid)
    plan = load_plan("tiny")
    entries = [entry(run, [(7 * i + 3 * run.settings.seed) % 50 for i in range(100)]) for run in plan.runs]
    (folder / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in entries))
    code = """
import sys
for name in ("torch", "timm", "tensorboard", "torchvision"):
    sys.modules[name] = None
from pcpad.cli import main
raise SystemExit(main(sys.argv[1:]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code, "study", "table", "tiny"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "100 results" in done.stdout
    control = subprocess.run(
        [sys.executable, "-c", code, "inspect", "resnet18"], capture_output=True, text=True, check=False
    )
    assert "torch" in control.stderr  # what is blocked is blocked
    assert not Path("runs").exists()
