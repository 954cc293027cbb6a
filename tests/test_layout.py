"""The house: imports go one way, and the library needs torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HARNESS = ("torchvision", "nvidia", "tensorboard", "jsonargparse", "pandas", "matplotlib", "tqdm", "yaml", "PIL")

# Each part may import those of its own line and of the lines below.
STOREYS = [
    {"cli", "__main__"},
    {"study", "doctor", "export"},
    {"arguments"},
    {"evaluation", "training", "inspection"},
    {"data", "constructors", "models", "origin", "probe", "weights"},
    {"ragged"},
    {"padding"},
    {"config", "environment", "folders", "lines", "lock", "progress", "statistics", ""},
]


def storey(part: str) -> int:
    return next(i for i, parts in enumerate(STOREYS) if part in parts)


def imported_parts(path: Path) -> set[str]:
    """The parts of pcpad that a file imports, at its top or inside a function."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pcpad":
            below = node.module.split(".")[1:]
            parts |= {below[0]} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names = (alias.name.split(".") for alias in node.names)
            parts |= {name[1] if len(name) > 1 else "" for name in names if name[0] == "pcpad"}
    return {"" if part == "__version__" else part for part in parts}


@pytest.mark.parametrize("path", sorted((ROOT / "pcpad").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    inside = path.relative_to(ROOT / "pcpad").parts
    own = "" if inside[0] == "__init__.py" else inside[0].removesuffix(".py")
    allowed = set().union(*STOREYS[storey(own) :])
    if own == "":
        allowed = {"padding", "ragged"}  # the face exports them, lazily
    if own == "padding":
        allowed = {"padding"}  # liftable: torch, and nothing else of pcpad
    assert imported_parts(path) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "pcpad").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_dali_is_imported_in_its_own_modules_only(path):
    names = {
        alias.name if isinstance(node, ast.Import) else node.module or ""
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert any(name.startswith("nvidia") for name in names) == (
        path.name in ("dali.py", "dali_batches.py", "dali_images.py", "dali_packed.py", "dali_resize.py")
    )


def run(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def test_convert_works_without_the_harness():
    code = f"""
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {HARNESS!r}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import pcpad
assert "torch" not in sys.modules  # import pcpad costs nothing until it is used
import torch
net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1))
for mode in pcpad.PADDING_MODES:
    pcpad.convert(net, mode)
    net(torch.zeros(1, 3, 8, 8))
print(pcpad.PartialConv2d(3, 4, 3, padding=1))
assert "timm" not in sys.modules
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "PartialConv2d(3, 4," in done.stdout
    control = run(code.replace("import pcpad\n", "import pcpad, jsonargparse\n"))
    assert "ModuleNotFoundError: jsonargparse" in control.stderr  # the block does block


def test_the_command_line_loads_torch_only_when_it_trains():
    code = "import sys; from pcpad.cli import main; main({!r}); assert 'torch' not in sys.modules"
    for argv in (
        ["--help"],
        ["train", "--help"],
        ["train", "--modle", "x"],
        ["eval", "--help"],
        ["border", "--help"],
        ["data", "list"],
        ["data", "prepare", "--help"],
        ["study", "table", "--help"],
        ["report", "--help"],
    ):
        done = run(code.format(argv))
        assert done.returncode == 0, done.stderr


def test_unknown_attribute_lists_what_there_is():
    import pcpad

    with pytest.raises(AttributeError, match=r"no attribute 'Convert'.*convert"):
        _ = pcpad.Convert
    assert {"convert", "PartialConv2d"} <= set(dir(pcpad))
