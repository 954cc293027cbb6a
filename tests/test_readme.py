"""The README keeps its word: its example runs, its targets and variables are there."""

import json
import re
import subprocess
from pathlib import Path

from tests.zoo import run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_library_example_runs(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    promised = re.search(r"print\(report\.summary\)\s+# (.*)", example).group(1)
    assert capsys.readouterr().out.strip() == promised
    assert len([line for line in example.splitlines() if line.strip()]) <= 12


def test_every_target_it_names_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"make ([a-z-]+)", README))
    assert {"train", "eval", "test", "tensorboard"} <= named <= targets
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(f"make {target} " in shown for target in targets)
    for name in ["MODEL", "PAD", "PADS", "DATA", "RECIPE", "SEED", "GPUS", "RUN", "SIZES", "STUDY", "OUT", "ARGS"]:
        assert re.search(rf"\b{name}=", shown), name


def test_every_recipe_it_names_is_there():
    for name in set(re.findall(r"configs/(\w+)\.yaml", README)):
        assert (ROOT / "configs" / f"{name}.yaml").is_file()


def test_the_counts_are_those_of_the_proof():
    table = run.read_table(run.TABLE)
    summary = json.loads(run.TABLE.with_name("summary.json").read_text())
    counted = run.summarise({name: row for name, row in table.items() if row["code"] == summary["code"]})
    assert counted == {key: summary[key] for key in counted}
    assert len(table) == summary["models"]
    quoted = re.search(r"all ([\d,]+) models.*?([\d,]+)\s+convolutions.*?(\d+) families", README, re.DOTALL)
    wanted = ("proved", "converted", "families_proved")
    assert [int(number.replace(",", "")) for number in quoted.groups()] == [summary[key] for key in wanted]
    assert summary["proved"] == summary["with_padded_convolutions"]
    assert not summary["failed"]
    told = (run.TABLE.parent / "README.md").read_text()
    for key in ("models", "with_padded_convolutions", "converted", "families_proved", "ill_conditioned"):
        assert re.search(rf"\b{summary[key]:,}\b", told), key
