"""The studies of the repository: their tables are those that today's code makes of their records."""

import json
import re
import shutil
from pathlib import Path

import pytest

from pcpad.config import ReportSettings
from pcpad.study.report.report import make_report
from pcpad.study.tables import make_tables

HOME = Path(__file__).resolve().parents[2] / "experiments"
STUDIES = sorted(path.parent.name for path in HOME.glob("*/study.yaml"))
KEPT = ("study.yaml", "README.md", "results.jsonl", "published.csv")


@pytest.fixture
def copy(tmp_path, monkeypatch):
    for name in STUDIES:
        (tmp_path / "experiments" / name).mkdir(parents=True)
        for file in KEPT:
            if (HOME / name / file).is_file():
                shutil.copy(HOME / name / file, tmp_path / "experiments" / name / file)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "experiments"


def drawn(name, copy):
    """The files of a study's figures as the report makes them: name to text."""
    make_report(ReportSettings(study=name, out=str(copy / "page.html")))
    return {file.name: file.read_text() for file in (copy / "page-files").iterdir()}


def told(svg):
    return re.search("<desc.*?</desc>", svg, re.DOTALL)[0]


@pytest.mark.parametrize("name", STUDIES)
def test_the_tables_are_those_of_the_records(copy, name):
    make_tables(name)
    assert (copy / name / "README.md").read_text() == (HOME / name / "README.md").read_text()
    made, committed = copy / name / "table.csv", HOME / name / "table.csv"
    assert made.is_file() == committed.is_file()
    if made.is_file():
        assert made.read_text() == committed.read_text()


@pytest.mark.parametrize("name", STUDIES)
def test_the_figures_are_those_of_the_records(name, copy):
    made = drawn(name, copy)
    committed = {file.name: file.read_text() for file in (HOME / name / "figures").iterdir()}
    assert made.keys() == committed.keys()
    for file, text in made.items():
        if file.endswith(".csv"):
            assert text == committed[file], file
        else:  # where its curves lie is matplotlib's; what it tells is ours
            assert told(text) == told(committed[file]), file
        if file.endswith(".svg"):
            assert f"figures/{file}" in (HOME / name / "README.md").read_text()


def test_another_number_gives_another_table(copy):
    file = copy / "cifar10/results.jsonl"
    lines = file.read_text().splitlines()
    entry = json.loads(lines[0])
    entry["top1"][-1] -= 100
    lines[0] = json.dumps(entry, separators=(",", ":"))
    file.write_text("\n".join(lines) + "\n")
    make_tables("cifar10")
    assert (copy / "cifar10/README.md").read_text() != (HOME / "cifar10/README.md").read_text()
    file = "cifar10-training-test-resnet.csv"
    assert drawn("cifar10", copy)[file] != (HOME / "cifar10/figures" / file).read_text()
