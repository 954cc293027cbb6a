"""The documentation keeps its word: it builds without a warning, its examples run, what it names is there."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pcpad.arguments import COMMANDS, option_names

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
sys.path.append(str(DOCS))


def build(docs: Path, out: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(docs), str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, built from a copy of docs/ in a copy of its surroundings."""
    pytest.importorskip("sphinx")
    pytest.importorskip("myst_parser")
    root = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, root / "docs", ignore=shutil.ignore_patterns("_made", "__pycache__"))
    for name in ("pcpad", "configs"):
        (root / name).symlink_to(ROOT / name)
    done = build(root / "docs", root / "html")
    assert done.returncode == 0, done.stderr
    return root


def test_every_page_is_built_with_its_pictures_and_loads_nothing(site):
    for page in PAGES:
        text = (site / "html" / f"{page.stem}.html").read_text()
        loaded = re.findall(r'(?:src|href)="(https?://[^"]+)"[^>]*(?:rel|\.js|\.css)', text)
        assert not [url for url in loaded if not url.startswith("https://arxiv.org")], page.name
        for picture in re.findall(r'<img alt="([^"]*)"[^>]*src="([^"]+)"', text):
            assert len(picture[0]) > 60, "a picture needs words for who does not see it"
            assert (site / "html" / picture[1]).stat().st_size > 1000
    assert (site / "html/padding.html").read_text().count("<img") == 4


@pytest.mark.slow
def test_a_reference_to_nowhere_fails_the_build(site):
    page = site / "docs/install.md"
    page.write_text(page.read_text() + "\n[](nowhere.md)\n")
    done = build(site / "docs", site / "html")  # of the pages this one alone
    assert done.returncode != 0
    assert "nowhere" in done.stderr


def test_every_command_is_explained():
    import reference

    assert set(reference.SETTINGS) | set(reference.SAME) == set(COMMANDS)
    text = reference.commands()
    for command, kind in reference.SETTINGS.items():
        part = text.partition(f"## pcpad {command}\n")[2].partition("\n## ")[0]
        named = re.findall(r"^`--([\w.]+)`.*\n: (.+)$", part, re.MULTILINE)
        assert [name for name, _ in named] == list(option_names(kind)), command
        assert all(len(meaning) > 8 for _, meaning in named)


def test_the_pictures_show_the_formula():
    """Numbers that the page states, by hand: corners and sides of a 3x3 mean, and the largest ratios."""
    import pictures

    assert pictures.flat().axes[0].images[0].get_array()[0, :2].tolist() == pytest.approx([4 / 9, 6 / 9])
    corners = [axis.images[0].get_array()[0, 0] for axis in pictures.ratios().axes]
    assert [round(float(c), 2) for c in corners] == [2.25, round(25 / 9, 2), round(49 / 16, 2)]
    last = pictures.ratios().axes[2].images[0].get_array()[-1, -1]
    assert round(float(last), 2) == 1.96  # 49 / 25
    pictures.plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples_run_and_print_what_they_say(page, registries, capsys):
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE):
        exec(compile(block, page.name, "exec"), names)
        promised = re.findall(r"^print\(.*?\)\s+# (.*)$", block, re.MULTILINE)
        assert capsys.readouterr().out.splitlines() == promised


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_targets_and_options_it_names_are_there(page):
    import reference

    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets
    known = {name for kind in reference.SETTINGS.values() for name in option_names(kind)}
    known |= {"config", "print_config", "data", "flag", "help"}
    slurm = (ROOT / "scripts/slurm/submit.py").read_text()
    for name in set(re.findall(r"--([a-z][\w.]*)", text)):
        inside = name.startswith(("model_kwargs.", "optim.options.", "schedule.options."))
        assert name in known or inside or f'"--{name}"' in slurm, name
    for name in set(re.findall(r"`(experiments/[\w/.]+|configs/[\w/.]+|scripts/[\w/.]+)`", text)):
        assert (ROOT / name).exists(), name
