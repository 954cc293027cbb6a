"""A folder of weights and ``config.json``, as timm writes and reads it, with the padding stated in it."""

import json
from pathlib import Path

import torch
from torch import nn

from pcpad import models, weights
from pcpad.evaluation.subject import Subject
from pcpad.padding import convert

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
SCHEMA = 1
"""Version of what stands below ``pcpad`` in config.json; a reader refuses another."""
STATED = ("model", "num_classes", "model_kwargs", "transform_input", "power", "padding", "on_small")
"""What `load` needs of it."""


def write(folder: Path, model: nn.Module, subject: Subject, facts: dict) -> None:
    """Write a network that is not converted: its weights, config.json and a page that says how to use them.

    A timm model's folder is written by timm, and ``timm.create_model("local-dir:FOLDER", pretrained=True)`` reads it,
    with zero padding; `load` reads the padding too.
    """
    if subject.name.library == "timm":
        from timm.models import save_for_hf

        save_for_hf(model, str(folder), safe_serialization=True)
        config = json.loads((folder / CONFIG).read_text())
        config["pretrained_cfg"].update(stated(facts))
        for key in ("test_input_size", "test_crop_pct"):  # those of timm's own weights
            config["pretrained_cfg"].pop(key, None)
    else:
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / WEIGHTS)
        config = {"architecture": subject.name.name, "library": "torchvision", "pretrained_cfg": stated(facts)}
    config["num_classes"] = facts["num_classes"]
    if facts["classes"]:
        config["label_names"] = facts["classes"]
    config["pcpad"] = {k: v for k, v in facts.items() if k != "classes"}
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
    (folder / CARD).write_text(card(facts, subject.name.library))
    (folder / WEIGHTS).chmod((folder / CONFIG).stat().st_mode)  # safetensors lets nobody else read it


def stated(facts: dict) -> dict:
    """The preprocessing in timm's words."""
    return {"input_size": [3, facts["size"], facts["size"]], **facts["preprocess"]}


def card(facts: dict, library: str) -> str:
    """The page beside the weights."""
    name = facts["model"].partition("/")[2]
    power = "" if facts["power"] in (None, 1.0) else f", power={facts['power']:g}"
    own = ""
    if library == "timm":
        own = (
            "\nWithout pcpad, `timm.create_model('local-dir:FOLDER', pretrained=True)` builds the network with zero "
            f"padding:\nit needs `pcpad.convert(model, {facts['padding']!r}{power})` to give the same outputs.\n"
        )
    means = facts["preprocess"]
    return f"""# {name}, {facts["padding"]} padding

Weights of {facts["model"]} with {facts["num_classes"]} classes, to be used with {facts["padding"]} padding. \
`config.json` says where they are from.

```python
import pcpad

model = pcpad.load("FOLDER")  # in eval mode, converted
```
{own}
Images: {facts["size"]} pixels, {means["interpolation"]} resize, crop {means["crop_pct"]:g} ({means["crop_mode"]}), \
mean {list(means["mean"])}, deviation {list(means["std"])} of values in 0..1.
"""


def load(folder: str | Path) -> nn.Module:
    """The network that ``pcpad export`` wrote to a folder, with its weights and its padding, in eval mode.

    The network is built by timm or torchvision, whichever it is from; weights are loaded by name, strictly, without
    running code.

    Raises:
        ValueError: there is no such export in the folder, or it is damaged.
    """
    folder = Path(folder)
    path = folder / CONFIG
    if not path.is_file():
        raise ValueError(f"{folder} is no exported model: there is no {path} (pcpad export --out FOLDER writes one)")
    try:
        facts = json.loads(path.read_text()).get("pcpad")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        raise ValueError(f"{path} was not written by this pcpad: it states no padding of schema {SCHEMA}")
    if missing := [key for key in STATED if key not in facts]:
        raise ValueError(f"{path} is damaged: it does not state {', '.join(missing)}")
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{folder} is no whole export: there is no {WEIGHTS}")
    state = torch.random.get_rng_state()
    model = models.create(models.resolve(facts["model"]), facts["num_classes"], facts["model_kwargs"])
    torch.random.set_rng_state(state)  # the random weights that are replaced at once cost the caller no numbers
    weights.load_state(model, weights.read_file(str(folder / WEIGHTS)), str(folder / WEIGHTS))
    if facts["transform_input"]:
        model.transform_input = True
    power = 1.0 if facts["power"] is None else facts["power"]
    convert(model, facts["padding"], power=power, on_small=facts["on_small"])
    return model.eval()
