"""Settings as plain values: as YAML, compared, and by digest."""

import hashlib
import json
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any


def to_dict(settings, *, result_only: bool = False) -> dict[str, Any]:
    """Settings as plain dicts and lists; `result_only` leaves out what does not change a result."""
    out = {}
    for f in fields(settings):
        if result_only and not f.metadata.get("result", True):
            continue
        value = getattr(settings, f.name)
        if is_dataclass(value):
            value = to_dict(value, result_only=result_only)
        out[f.name] = list(value) if isinstance(value, tuple) else value
    return out


def default_of(field: Field):
    """What a field holds if nothing is said; MISSING if it has no default."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def as_older(settings) -> dict[str, Any]:
    """Result fields as a plain dict, less those that came later (`fields.later`) and hold their default."""
    out = to_dict(settings, result_only=True)
    for f in fields(settings):
        value = getattr(settings, f.name)
        if f.metadata.get("later") and value == default_of(f):
            del out[f.name]
        elif f.name in out and is_dataclass(value):
            out[f.name] = as_older(value)
    return out


def result_part(kind: type, saved: dict) -> dict[str, Any]:
    """Of settings that were saved as a dict the result fields, with the defaults of what the dict has not yet.

    Args:
        kind: the settings class, whose fields all have defaults.
    """
    out = {}
    for f in fields(kind):
        if f.metadata.get("result", True):
            if is_dataclass(f.type):
                out[f.name] = result_part(f.type, saved.get(f.name) or {})
            else:
                value = saved[f.name] if f.name in saved else default_of(f)
                out[f.name] = list(value) if isinstance(value, tuple) else value
    return out


def digest(content) -> str:
    """12 hexadecimal digits over the canonical JSON of settings (their result fields) or of any plain value.

    A result field that came after the first runs counts where it is not at its default, so that the digests of older
    runs stand.
    """
    plain = as_older(content) if is_dataclass(content) else content
    text = json.dumps(plain, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def differences(old: dict, new: dict, prefix: str = "") -> list[str]:
    """Lines ``"key: old -> new"`` for every leaf in which two settings dicts differ."""
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a} -> {b}")
    return lines


def yaml_text(settings) -> str:
    """Settings as YAML that ``--config`` reads back."""
    import yaml

    return yaml.safe_dump(to_dict(settings), sort_keys=False, width=115)


def flatten(settings: dict, prefix: str = "") -> dict:
    """Nested settings as one dict with dotted names."""
    out = {}
    for key, value in settings.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
