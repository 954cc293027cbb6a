"""What the settings classes share: fields that change no result, and checks that name what is wrong."""

from dataclasses import field
from difflib import get_close_matches


def aside(default, **kwargs):
    """A field that does not change a result (paths, workers, logging): it stays out of the digest."""
    return field(default=default, metadata={"result": False}, **kwargs)


def later(default, **kwargs):
    """A field that came after the first runs: at its default it stays out of the digest, and older runs keep theirs."""
    return field(default=default, metadata={"later": True}, **kwargs)


def nearest(name: str, choices) -> str:
    """``"; did you mean 'x'?"`` for the choice nearest to `name`, or an empty string."""
    near = get_close_matches(name, list(choices), 1, 0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def check(ok: bool, name: str, value, wants: str) -> None:
    """Raise ValueError naming the setting, what it must be and what it is, unless `ok`."""
    if not ok:
        raise ValueError(f"{name} must be {wants}, not {value!r}")


def check_size(size: int | None, name: str = "size") -> None:
    """Raise unless `size` is None or positive."""
    check(size is None or size >= 1, name, size, "at least 1 pixel")
