"""JSON lines: what is damaged is named, whatever it is."""

import json
import subprocess
import sys

import pytest

from pcpad.folders import read_text, write_whole
from pcpad.lines import (
    COUNT,
    FINITE,
    NOTHING,
    POSITIVE,
    TEXT,
    TRUTH,
    WHOLE,
    append_line,
    list_of,
    read_lines,
    wrong_field,
)


def wrong(entry: dict) -> str | None:
    return wrong_field(entry, {"n": POSITIVE, "name": TEXT | NOTHING}, {"hits": list_of(COUNT, 1)})


@pytest.mark.parametrize(
    ("line", "damage"),
    [
        (b"{", "Expecting property name"),
        (b'{"n": 1, "name": "\xff"}', "codec can't decode byte 0xff"),
        (b"[1]", "a list in place of an object"),
        (b'{"name": "a"}', "there is no n in it"),
        (b'{"n": 0, "name": "a"}', "its n is 0, not a whole number from 1 on"),
        (b'{"n": true, "name": "a"}', "its n is true, not a whole number"),
        (b'{"n": 1, "name": 7}', "its name is 7, not text or null"),
        (b'{"n": 1, "name": null, "hits": []}', "not a list of a whole number from 0 on, at least 1"),
        (b'{"n": 1, "name": null, "hits": [1, -1]}', r"its hits is \[1, -1\], not"),
    ],
)
def test_a_damaged_line_is_named_with_what_is_wrong(line, damage, tmp_path):
    path, fine = tmp_path / "a.jsonl", b'{"n": 1, "name": null, "hits": [0]}'
    path.write_bytes(fine + b"\n" + line + b"\n" + fine + b"\n")
    with pytest.raises(ValueError, match=rf"a\.jsonl, line 2, is damaged \(.*{damage}.*\); measure anew$"):
        read_lines(path, wrong, "measure anew")
    path.write_bytes(fine + b"\n" + fine + b"\n")
    assert read_lines(path, wrong) == [json.loads(fine)] * 2


def test_a_last_line_that_was_cut_off_is_none_and_a_whole_one_is_looked_at(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"n": 1, "name": null}\n{"n": 2, "na')
    assert read_lines(path, wrong) == [{"n": 1, "name": None}]
    path.write_bytes(b'{"n": 1, "name": null}\n{"n": -2, "name": null}')
    with pytest.raises(ValueError, match=r"line 2, is damaged \(its n is -2"):
        read_lines(path, wrong)


@pytest.mark.parametrize(
    ("last", "kept"), [(b'{"n": 2, "na', False), (b'{"n": 2, "name": "b"}', True), (b"[2]", False), (b"", False)]
)
def test_an_entry_is_added_behind_a_line_without_its_end(tmp_path, last, kept):
    """An editor may write no end, and a full disk cut off anything; what is whole is never removed."""
    path, first = tmp_path / "a.jsonl", b'{"n": 1, "name": "a"}\n'
    path.write_bytes(first + last)
    append_line(path, {"n": 3, "name": "c"})
    assert path.read_bytes() == first + (last + b"\n" if kept else b"") + b'{"n": 3, "name": "c"}\n'
    assert [entry["n"] for entry in read_lines(path, wrong)] == ([1, 2, 3] if kept else [1, 3])


def test_kinds():
    assert not WHOLE.holds(True)
    assert not WHOLE.holds(1.0)
    assert TRUTH.holds(False)
    assert not TRUTH.holds(0)
    assert FINITE.holds(3)
    assert not any(FINITE.holds(value) for value in (float("nan"), float("inf"), "1", None))


def test_a_file_that_cannot_be_written_is_named_and_stays(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder could not be written: Is a directory"):
        write_whole(tmp_path / "folder", "x")
    with pytest.raises(OSError, match="gone/a could not be written: No such file or directory"):
        write_whole(tmp_path / "gone/a", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    write_whole(tmp_path / "a", "ä\r\n")
    assert read_text(tmp_path / "a") == "ä\r\n"
    (tmp_path / "a").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"a is no text in UTF-8 \(byte 3: invalid start byte\)"):
        read_text(tmp_path / "a")


def test_two_processes_may_write_one_file(tmp_path):
    program = (
        "import sys; from pathlib import Path; from pcpad.folders import write_whole\n"
        "for _ in range(300): write_whole(Path('a'), sys.argv[1] * 1000)"
    )
    both = [subprocess.Popen([sys.executable, "-c", program, letter], cwd=tmp_path) for letter in "xy"]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "a").read_text() in ("x" * 1000, "y" * 1000)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
