"""Pages made of the code: every command with its options, every padding mode, every recipe."""

import ast
import inspect
import re
import typing
from dataclasses import MISSING, fields, is_dataclass
from itertools import pairwise
from pathlib import Path

from pcpad import config
from pcpad.arguments import COMMANDS
from pcpad.padding import PADDING_MODES

SETTINGS = {
    "train": config.TrainSettings,
    "eval": config.EvalSettings,
    "border": config.BorderSettings,
    "export": config.ExportSettings,
    "inspect": config.InspectSettings,
    "data list": config.ListSettings,
    "data prepare": config.PrepareSettings,
    "data pack": config.PackSettings,
    "data check": config.CheckSettings,
    "study run": config.StudyRunSettings,
    "study table": config.StudyTableSettings,
    "report": config.ReportSettings,
    "doctor": config.DoctorSettings,
}
"""The settings class of each command; `adapt` takes those of `train`."""
SAME = {"adapt": "train"}


def write(folder: Path) -> None:
    """Write the made parts of the pages into a folder, as Markdown."""
    (folder / "commands.md").write_text(commands())
    (folder / "modes.md").write_text(modes())
    (folder / "recipes.md").write_text(recipes())


def commands() -> str:
    """Every command: what it does, and a list of its options, which also fits a narrow screen."""
    parts = []
    for command, does in COMMANDS.items():
        parts += [f"## pcpad {command}", f"{does[0].upper()}{does[1:]}."]
        if command in SAME:
            parts.append(f"Its options are those of `pcpad {SAME[command]}`.")
            continue
        for name, default, meaning in options(SETTINGS[command]):
            parts.append(f"`--{name}`{shown(default)}\n: {escape(meaning)}")
    return "\n\n".join(parts) + "\n"


def options(kind: type, prefix: str = "") -> list[tuple[str, object, str]]:
    """Dotted name, default and meaning of every setting of a class, in its order."""
    found, told, hints = [], docstrings(kind), typing.get_type_hints(kind)
    for f in fields(kind):
        if is_dataclass(hints[f.name]):
            found += options(hints[f.name], f"{prefix}{f.name}.")
        else:
            default = f.default if f.default is not MISSING else f.default_factory()
            found.append((prefix + f.name, default, told[f.name]))
    return found


def docstrings(kind: type) -> dict[str, str]:
    """The text below each field of a class, as one line."""
    body = ast.parse(inspect.cleandoc(inspect.getsource(kind))).body[0].body
    told = {}
    for field, text in pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
            told[field.target.id] = " ".join(text.value.value.split())
    return told


def shown(default) -> str:
    """A default value behind an option's name."""
    if default is None:
        return ""
    if isinstance(default, bool):
        default = str(default).lower()
    if isinstance(default, tuple):
        default = list(default)
    return f" `{default}`"


def escape(text: str) -> str:
    """Text for Markdown, a table's cell too."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def modes() -> str:
    """Every padding mode with what stands in the padding, and its source."""
    rows = ["| mode | what stands in the padding | source |", "|---|---|---|"]
    rows += [f"| `{mode.name}` | {escape(mode.summary)} | {escape(mode.source)} |" for mode in PADDING_MODES.values()]
    return "\n".join(rows) + "\n"


def recipes() -> str:
    """Every file of configs/: the comment at its head, and what it sets."""
    parts = []
    for path in sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml")):
        text = path.read_text()
        head = re.match(r"(?:#.*\n)+", text).group()
        body = text[len(head) :].strip()
        lines = [line.lstrip("#").strip() for line in head.splitlines()]
        facts, told = [], []
        for line in lines:
            known = re.match(r"(command|cost|expected):\s*(.*)", line)
            if known:
                facts.append([known.group(1), known.group(2)])
            elif facts and line:
                facts[-1][1] += f" {line}"
            else:
                told.append(line)
        parts += [f"## {path.stem}", " ".join(told).strip()]
        parts += ["\n".join(f"- {name}: {f'`{what}`' if name == 'command' else what}" for name, what in facts)]
        parts += [f"```yaml\n{body}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"
