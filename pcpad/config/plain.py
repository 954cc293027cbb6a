"""Settings as plain values: as YAML, compared, and by digest."""

import hashlib
import json
from dataclasses import fields, is_dataclass
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


def digest(content) -> str:
    """12 hexadecimal digits over the canonical JSON of settings (their result fields) or of any plain value."""
    plain = to_dict(content, result_only=True) if is_dataclass(content) else content
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
