"""pcpad inspect: what a padding mode would do to a model, from its shapes alone."""

import json
import sys
from pathlib import Path

import torch

from pcpad.config import InspectSettings
from pcpad.models import build_on_meta, is_flow, resolve, torchvision_names
from pcpad.padding import Inspection, inspect
from pcpad.padding.modes import canonical

OWN_SIZE = 224
"""Side in pixels of a model that names none of its own."""


def inspect_model(settings: InspectSettings) -> Inspection:
    """Inspect one model by name and print what is found.

    Raises:
        ValueError: an unknown model, argument of it, mode or size; a model that does not run at this size. OSError: the
            JSON file cannot be written, which is known before the work.
    """
    name, mode = resolve(settings.model, any_task=True), canonical(settings.padding)
    out = settings.out and Path(settings.out)
    if out:
        if out.is_dir():
            raise ValueError(f"--out {out} is a folder: name the JSON file to write")
        out.parent.mkdir(parents=True, exist_ok=True)
        new = not out.exists()
        out.open("a").close()  # it can be written: known before the work
        if new:
            out.unlink()
    model = build_on_meta(name, settings.model_kwargs)
    channels, own = 3, OWN_SIZE
    if name.library == "timm":
        channels, _, own = model.pretrained_cfg.get("input_size", (channels, own, own))
    size = settings.size or own
    inputs = None
    if name.library == "torchvision" and name.name not in torchvision_names() and hasattr(model, "transform"):
        print(
            f"{name} resizes its input and looks at its own boxes: run for real, once, without search", file=sys.stderr
        )
        model = model.to_empty(device="cpu")
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data.zero_()
        inputs = ([torch.zeros(3, size, size)],)
    if is_flow(name):
        inputs = (torch.empty(1, channels, size, size, device="meta"),) * 2
    found = inspect(model, mode, size, inputs=inputs, channels=channels, search=settings.search)
    print(found)
    if out:
        out.write_text(json.dumps(found.to_dict(), indent=1) + "\n")
    return found
