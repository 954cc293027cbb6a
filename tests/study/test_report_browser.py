"""The page in a real browser, Debian's chromium, headless; a script of the test's own says what it found."""

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from pcpad.study.report.page import Section, element, page, table

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH (Debian: apt-get install chromium)")

ROWS = [["b", "+3.5"], ["a", "-"], ["c10", "-2"], ["c9", "<0.001"], ["d", "10 ± 2"]]
PROBE = """
const said = {}, errors = [];
addEventListener("error", (event) => errors.push(String(event.message)));
addEventListener("securitypolicyviolation", (event) => errors.push("blocked " + event.blockedURI));
addEventListener("load", () => {
  const table = document.querySelector("table.sortable");
  const column = (i) => [...table.tBodies[0].rows].map((row) => row.cells[i].textContent);
  const heads = [...table.tHead.rows[0].cells];
  const sorts = () => heads.map((head) => head.getAttribute("aria-sort"));
  const press = (i) => { heads[i].querySelector("button").click(); return [column(i), sorts()]; };
  said.numbers = [press(1), press(1), press(1)];
  said.words = press(0);
  heads[0].querySelector("button").focus();
  said.focus = document.activeElement.textContent;
  said.loaded = performance.getEntriesByType("resource").map((entry) => entry.name);
  said.errors = errors;
  document.documentElement.dataset.said = JSON.stringify(said);
});
"""


def asked(folder: Path, text: str) -> tuple[dict, str]:
    """Open a page with the probe in it by file://; what the probe said, and what the browser wrote to its console."""
    path = folder / "page.html"
    path.write_text(text.replace("</head>", f"<script>{PROBE}</script></head>"))
    argv = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    argv += ["--enable-logging=stderr", "--virtual-time-budget=2000", "--dump-dom", path.resolve().as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    said = re.search(r'data-said="([^"]*)"', done.stdout)
    assert said, done.stderr[-500:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(said[1].replace("&quot;", '"').replace("&lt;", "<").replace("&amp;", "&")), console


def widths_on_a_phone(folder: Path, *texts: str) -> list[int]:
    """How wide each page gets where it has 390 pixels; in frames, since a window has 500 at least."""
    path = folder / "phone.html"
    frames = [f'<iframe width="390" height="800" style="border: 0" srcdoc="{escape(text)}"></iframe>' for text in texts]
    widths = "[...document.querySelectorAll('iframe')].map((f) => f.contentDocument.documentElement.scrollWidth)"
    script = f"<script>onload = () => document.title = JSON.stringify({widths});</script>"
    path.write_text(f"<title>none</title>{''.join(frames)}{script}")
    argv = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    argv += ["--hide-scrollbars", "--virtual-time-budget=2000", "--dump-dom", path.resolve().as_uri()]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(re.search(r"<title>(.*?)</title>", done.stdout)[1])


def test_sorting_by_its_headings(tmp_path):
    content = table(["name", "value"], ROWS, 1, "small")
    text = page("A page", element("p", "lead"), [Section("one", "One", content)], "foot")
    said, console = asked(tmp_path, text)
    up, down, back = said["numbers"]
    assert up == [["-2", "<0.001", "+3.5", "10 ± 2", "-"], ["none", "ascending"]]
    assert down == [["10 ± 2", "+3.5", "<0.001", "-2", "-"], ["none", "descending"]]  # no value stays below
    assert back == [[row[1] for row in ROWS], ["none", "none"]]
    assert said["words"] == [["a", "b", "c9", "c10", "d"], ["ascending", "none"]]
    assert said["focus"] == "name"
    assert (said["errors"], said["loaded"], console) == ([], [], "")
    loud = text.replace("</head>", '<script>throw new Error("x")</script><img src="http://127.0.0.1:9/x.png"></head>')
    said, console = asked(tmp_path, loud)
    assert len(said["errors"]) >= 1  # what is looked for would be found
    assert "CONSOLE" in console


def test_a_report_opens_from_disk(tmp_path, monkeypatch):
    """The published table: no errors, nothing loaded, as wide as a phone."""
    from pcpad.study.report.report import build
    from pcpad.study.report.sections import part_of

    monkeypatch.chdir(Path(__file__).resolve().parents[2])
    text, _ = build([part_of(Path("experiments/imagenet_table"))], "files")
    said, console = asked(tmp_path, text)
    assert (said["errors"], said["loaded"], console) == ([], [], "")
    assert said["words"][1][0] == "ascending"
    long = element("p", "word" * 200)
    wide = table([f"column {i}" for i in range(40)], [["1"] * 40, ["2"] * 40], 0, "wide")
    other = page("A page", long, [Section("one", "One", wide)], "foot")
    widths = widths_on_a_phone(tmp_path, text, other, other.replace("overflow-wrap: anywhere", ""))
    assert widths[:2] == [390, 390]  # tables scroll in their own boxes
    assert widths[2] > 390  # it does measure
