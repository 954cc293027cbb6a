"""The libraries' own constructors of models, with what the user passes on to them."""

import contextlib
import inspect
import re
from dataclasses import dataclass

import torch
from torch import nn

from pcpad.config import nearest

AUXILIARY = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Heads of torchvision that only their own training recipes use; pcpad builds the networks without."""
HUB = ("hf-hub:", "local-dir:")
"""How names of timm begin that stand for a model of the Hugging Face hub, or for a folder of the same content."""
DECIDED = {
    "timm": {
        *("pretrained", "num_classes", "in_chans", "checkpoint_path", "cache_dir", "features_only", "scriptable"),
        *("exportable", "no_jit", "pretrained_cfg", "pretrained_cfg_overlay"),
    },
    "torchvision": {"weights", "num_classes", "progress", "aux_logits"},
}
"""Arguments of the constructors that pcpad gives itself."""


@dataclass(frozen=True)
class ModelName:
    """A model's library (``"torchvision"`` or ``"timm"``) and its name there, a timm tag included."""

    library: str
    name: str

    def __str__(self) -> str:
        return f"{self.library}/{self.name}"

    @property
    def on_hub(self) -> bool:
        """Whether the name is of a hub or folder, and not timm's own."""
        return self.name.startswith(HUB)


def construct(name: ModelName, model_kwargs: dict, **own) -> nn.Module:
    """The library's model.

    Args:
        model_kwargs: the user's arguments of the constructor.
        own: pcpad's.

    Raises:
        ValueError: the constructor does not take the user's arguments; or a hub's model cannot be read.
    """
    decided = sorted(DECIDED[name.library] & set(model_kwargs))
    if decided:
        raise ValueError(f"model_kwargs: {decided[0]} is not the user's to give: pcpad decides it; leave it out")
    try:
        model = call(name, own | model_kwargs)
    except TypeError as error:
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if not model_kwargs:
            raise
        if unknown and unknown[1] in model_kwargs:
            raise ValueError(unknown_argument(name, unknown[1])) from error
        raise ValueError(f"{name} cannot be built with model_kwargs={model_kwargs}: {error}") from error
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        if name.on_hub:
            way = "; it takes a network or a copy in the cache" if name.name.startswith("hf-hub:") else ""
            raise ValueError(f"{name} could not be read ({text}){way}") from error
        if not model_kwargs or isinstance(error, OSError) or own.get("pretrained") or own.get("weights"):
            raise
        raise ValueError(f"{name} cannot be built with model_kwargs={model_kwargs}: {text}") from error
    if name.library == "torchvision" and model_kwargs:
        refuse_swallowed(name, model, model_kwargs)
    return model


def call(name: ModelName, arguments: dict) -> nn.Module:
    """The library's function."""
    if name.library == "timm":
        import timm

        return timm.create_model(name.name, **arguments)
    from torchvision import models

    return models.get_model(name.name, **arguments)


def refuse_swallowed(name: ModelName, model: nn.Module, model_kwargs: dict) -> None:
    """Raise ValueError for an argument that a class of torchvision takes and never reads (MobileNetV3 takes all)."""
    if "kwargs" in inspect.signature(type(model).__init__).parameters:
        for argument in model_kwargs:
            if argument not in taken(model):
                raise ValueError(unknown_argument(name, argument))


def taken(model: nn.Module) -> list[str]:
    """Names of the arguments that the classes of a model state."""
    found = []
    for kind in type(model).__mro__:
        if kind is nn.Module:
            break
        if "__init__" in vars(kind):
            found += [key for key in inspect.signature(kind.__init__).parameters if key not in ("self", "kwargs")]
    return list(dict.fromkeys(found))


def unknown_argument(name: ModelName, argument: str) -> str:
    """The message for an argument that a constructor does not know: what its class states, and the nearest."""
    choices: list[str] = []
    with contextlib.suppress(Exception), torch.device("meta"):  # only for the message
        choices = [key for key in taken(call(name, {})) if key not in DECIDED[name.library]]
    known = f"; its class states {', '.join(choices)}{nearest(argument, choices)}" if choices else ""
    return f"model_kwargs: {name} does not take {argument!r}{known}; --model_kwargs '{{}}' takes back a recipe's"
