"""The README keeps its word: its example runs, its targets and variables are there."""

import json
import re
import subprocess
from pathlib import Path

import torch

from pcpad.padding import PADDING_MODES
from pcpad.padding.fillers import FILLERS
from tests.zoo import run

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_the_library_example_runs(capsys):
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(examples) == 2  # the second one goes on where the first ends
    names = {}
    try:
        for example in examples:
            exec(compile(example, "README.md", "exec"), names)
            promised = re.search(r"print\(report\.summary\)\s+# (.*)", example).group(1)
            assert capsys.readouterr().out.strip() == promised
            assert len([line for line in example.splitlines() if line.strip()]) <= 12
        x = torch.randn(2, 3, 4, 5)
        padded = names["channel_mean"](x, (1, 0, 2, 1))
        assert torch.equal(padded[:, :, 1:, 2:-1], x - x.mean((2, 3), keepdim=True) + x.mean((2, 3), keepdim=True))
        torch.testing.assert_close(padded[:, :, 0, 3], x.mean((2, 3)))
    finally:
        del PADDING_MODES["channel_mean"], FILLERS["channel_mean"]


def test_the_modes_it_lists_are_those_there_are():
    table = README.partition("| mode | what stands in the padding |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(PADDING_MODES)


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
