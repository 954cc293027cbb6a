"""Files of JSON lines, one object a line: appended to, read, and checked for what each object has to hold."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from pcpad.folders import reason


def append_line(path: Path, entry: dict) -> None:
    """Add an entry to a file of JSON lines; a line that was cut off while it was written makes room for it.

    A last line that lacks nothing but its end stays, as `read_lines` reads it.

    Raises:
        OSError: it could not be written; names the file and the free space.
    """
    try:
        with open(path, "a+b") as file:
            end = file.tell()
            file.seek(max(end - 1, 0))
            if file.read(1) not in (b"", b"\n"):
                file.seek(0)
                content = file.read()
                start = content.rfind(b"\n") + 1
                if is_entry(content[start:]):
                    file.write(b"\n")
                else:
                    file.truncate(start)
            file.write(json.dumps(entry).encode() + b"\n")
    except OSError as error:
        raise OSError(f"{path} could not be written: {reason(path, error)}") from error


def is_entry(line: bytes) -> bool:
    """Whether a line is a JSON object."""
    try:
        return isinstance(json.loads(line.decode()), dict)
    except ValueError:
        return False


def read_lines(
    path: Path, wrong: Callable[[dict], str | None] = lambda entry: None, remedy: str = "remove that line"
) -> list[dict]:
    """The entries of a file of JSON lines; a last line that was cut off while it was written is left out.

    Args:
        wrong: what is wrong with an entry, or None.
        remedy: what to do about a damaged line.

    Raises:
        ValueError: a line is damaged; names file and line, and the remedy.
    """
    lines = path.read_bytes().splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        damage = None
        try:
            entry = json.loads(line.decode())
        except ValueError as error:
            damage = error if number < len(lines) else None
        else:
            damage = wrong(entry) if isinstance(entry, dict) else f"a {type(entry).__name__} in place of an object"
            entries.append(entry)
        if damage:
            raise ValueError(f"{path}, line {number}, is damaged ({damage}); {remedy}")
    return entries


@dataclass(frozen=True)
class Kind:
    """What a field may hold, in words and as a test; two of them with ``|`` between are either.

    >>> wrong_field({"n": -1}, {"n": COUNT | NOTHING})
    'its n is -1, not a whole number from 0 on or null'
    """

    words: str
    holds: Callable[[object], bool]

    def __or__(self, other: "Kind") -> "Kind":
        return Kind(f"{self.words} or {other.words}", lambda value: self.holds(value) or other.holds(value))


def is_whole(value: object) -> bool:
    """Whether a value is an integer; true and false are none."""
    return isinstance(value, int) and not isinstance(value, bool)


TEXT = Kind("text", lambda value: isinstance(value, str))
NOTHING = Kind("null", lambda value: value is None)
TRUTH = Kind("true or false", lambda value: isinstance(value, bool))
WHOLE = Kind("a whole number", is_whole)
COUNT = Kind("a whole number from 0 on", lambda value: is_whole(value) and value >= 0)
POSITIVE = Kind("a whole number from 1 on", lambda value: is_whole(value) and value >= 1)
NUMBER = Kind("a number", lambda value: is_whole(value) or isinstance(value, float))
FINITE = Kind("a finite number", lambda value: is_whole(value) or (isinstance(value, float) and isfinite(value)))
OBJECT = Kind("an object", lambda value: isinstance(value, dict))


def list_of(kind: Kind, least: int = 0) -> Kind:
    """A list of one kind, with so many of them at least."""
    words = f"a list of {kind.words}{f', at least {least}' if least else ''}"
    return Kind(
        words, lambda value: isinstance(value, list) and len(value) >= least and all(kind.holds(one) for one in value)
    )


def wrong_field(entry: dict, needed: Mapping[str, Kind], optional: Mapping[str, Kind] | None = None) -> str | None:
    """The first field of an entry that is missing or of another kind, in words; None where all is as it has to be.

    Args:
        optional: fields that may be missing.
    """
    for key, kind in {**needed, **(optional or {})}.items():
        if key not in entry:
            if key in needed:
                return f"there is no {key} in it"
        elif not kind.holds(entry[key]):
            text = json.dumps(entry[key])
            return f"its {key} is {text if len(text) <= 40 else text[:37] + '...'}, not {kind.words}"
    return None
