"""The README keeps its word: its example runs, its targets and variables are there."""

import re
import subprocess
from pathlib import Path

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
    for name in ["MODEL", "PAD", "PADS", "DATA", "RECIPE", "SEED", "GPUS", "RUN", "SIZES", "OUT", "ARGS"]:
        assert re.search(rf"\b{name}=", shown), name


def test_every_recipe_it_names_is_there():
    for name in set(re.findall(r"configs/(\w+)\.yaml", README)):
        assert (ROOT / "configs" / f"{name}.yaml").is_file()
