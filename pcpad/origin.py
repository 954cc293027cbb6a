"""What a file of weights that pcpad wrote says of its training: a checkpoint, or an export's weights."""

import json
from dataclasses import dataclass
from pathlib import Path

from pcpad.config import PreprocessSettings
from pcpad.weights import read_file


@dataclass(frozen=True)
class Origin:
    """How weights were trained.

    Attributes:
        padding, power: the mode, and the exponent of partial padding.
        size: side of the images that they were evaluated with, in pixels.
        preprocess: what the training stated of its images.
        weights: what it began with.
    """

    padding: str
    power: float
    size: int
    preprocess: PreprocessSettings
    weights: str | None


def origin_of(path: str) -> Origin | None:
    """What is known of a file of weights; None where it is not of pcpad, or not there.

    A checkpoint states it itself, an older one in the run.json of its run, an export in the config.json beside it.
    """
    file = Path(path)
    if not file.is_file():
        return None
    if file.suffix == ".safetensors":
        facts = read_json(file.with_name("config.json")).get("pcpad")
        facts = dict(facts) if isinstance(facts, dict) else {}
        own = facts.get("padding") == facts.get("padding_trained")
        facts = {**facts, "padding": facts.get("padding_trained"), "power": facts.get("power") if own else None}
        return made(facts)
    content = read_file(path)
    network = content.get("network")
    if not isinstance(network, dict) or "power" not in content:
        return None
    if "padding" not in network:
        settings = read_json(file.resolve().parent.parent / "run.json").get("settings")
        network = settings if isinstance(settings, dict) else {}
    return made({**network, "power": content["power"]})


def made(facts: dict) -> Origin | None:
    """An Origin of what a file says; None where it does not say it."""
    try:
        given = dict(facts["preprocess"])
        preprocess = PreprocessSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()})
        power = 1.0 if facts.get("power") is None else float(facts["power"])
        return Origin(str(facts["padding"]), power, int(facts["size"]), preprocess, facts.get("weights"))
    except (KeyError, TypeError, ValueError):
        return None


def read_json(path: Path) -> dict:
    """The object in a JSON file; empty where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
