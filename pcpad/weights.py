"""Weights: read from a file without running code, loaded by name, strictly."""

import hashlib
import pickle
import pickletools
import re
import warnings

import torch
from torch import nn


class DamagedFileError(ValueError):
    """A file of weights that is damaged, or was never one; the message names it."""


def read_file(path: str) -> dict:
    """A checkpoint's content, without running any code that it may hold.

    Raises:
        DamagedFileError: the file is damaged or no checkpoint. ValueError: it holds code.
    """
    if str(path).endswith(".safetensors"):
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise DamagedFileError(f"{path} is no intact safetensors file ({error})") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about foreign pickles before it refuses them
            content = torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise
    except Exception as error:  # torch raises many kinds for a damaged file
        name = foreign_name(path, error) if isinstance(error, pickle.UnpicklingError) else None
        if name:
            raise ValueError(
                f"{path} was refused: it holds more than tensors ({name}), and pcpad never runs code from a file; "
                "save the plain state dict of a model you trust instead"
            ) from None
        raise DamagedFileError(f"{path} is no intact checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not the state dict of a model")
    return content


def foreign_name(path: str, error: pickle.UnpicklingError) -> str | None:
    """The class or function that made torch refuse a pickle; None if the file is merely damaged."""
    stated = re.search(r"(?:GLOBAL |got (?:type )?<class ')(\w+\.[\w.]*\w)", str(error))
    if stated:
        return stated.group(1)
    strings: list[str] = []
    try:
        with open(path, "rb") as file:
            for code, argument, _ in pickletools.genops(file):  # reads the instructions, runs none
                if code.name == "STACK_GLOBAL":
                    return ".".join(strings[-2:])
                if isinstance(argument, str):
                    strings.append(argument)
    except (ValueError, UnicodeDecodeError):
        pass
    return None


def unwrap(content: dict) -> dict[str, torch.Tensor]:
    """The state dict inside a checkpoint: wrappers and the prefixes of DDP and torch.compile are removed."""
    for key in ("state_dict", "model_state", "model"):
        if isinstance(content.get(key), dict):
            content = content[key]
            break
    content = {k: v for k, v in content.items() if isinstance(k, str)}
    while content and all(k.startswith(("module.", "_orig_mod.")) for k in content if k != "n_averaged"):
        content = {k.partition(".")[2]: v for k, v in content.items() if k != "n_averaged"}
    return {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}


def load_state(model: nn.Module, state: dict, source: str, reset_head: bool = False, ignore: tuple = ()) -> None:
    """Load a state dict by name, strictly, or raise ValueError and change nothing.

    Args:
        source: where the state comes from, for messages.
        reset_head: leave the classifier as it is where its shapes differ.
        ignore: prefixes of keys that may be superfluous.
    """
    own = model.state_dict()
    state = {own_key(k, own, state): v for k, v in state.items()}
    state = {k: v for k, v in state.items() if k in own or not k.startswith(ignore or ("\0",))}
    # Files older than this counter lack it, torchvision's first ones among them; only momentum=None would read it.
    state |= {k: v for k, v in own.items() if k.endswith("num_batches_tracked") and k not in state}
    missing, extra = [k for k in own if k not in state], [k for k in state if k not in own]
    other = [k for k in own if k in state and own[k].shape != state[k].shape]
    head = head_keys(model)
    if not missing and not extra and other and set(other) <= head:
        old, new = state[other[0]].shape[0], own[other[0]].shape[0]
        if not reset_head:
            raise ValueError(
                f"{source} has a head of {old} classes, the data {new}: add --reset_head to start with a new head"
            )
        state = {k: (own[k] if k in other else v) for k, v in state.items()}
    elif missing or extra or other:
        shapes = [f"{k} {tuple(state[k].shape)} instead of {tuple(own[k].shape)}" for k in other]
        parts = [
            f"{len(found)} {what} (e.g. {', '.join(found[:2])})"
            for what, found in (("missing", missing), ("unknown", extra), ("of another shape", shapes))
            if found
        ]
        raise ValueError(
            f"{source} holds the weights of another network than this {type(model).__name__}: of {len(own)} entries "
            + "; ".join(parts)
        )
    model.load_state_dict(state, strict=True)


def own_key(key: str, own: dict, state: dict) -> str:
    """The model's own key for that of a part which was wrapped by itself, ``features.module.0.weight`` for example.

    Torch's old recipe for VGG, and the reference code with it, trains and saves so. A key that the model knows, or
    whose plain form the file has too, stays.
    """
    plain = re.sub(r"(?<![^.])(module|_orig_mod)\.", "", key)
    return plain if key not in own and plain in own and plain not in state else key


def head_keys(model: nn.Module) -> set[str]:
    """State-dict keys of the classifier: timm's own answer, else the last linear layer or 1x1 convolution."""
    if hasattr(model, "get_classifier"):
        heads = model.get_classifier()
        heads = set(heads) if isinstance(heads, (tuple, list)) else {heads}
    else:
        layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
        heads = {layers[-1]} if layers else set()
    return {f"{name}.{k}" for name, m in model.named_modules() if m in heads for k in m.state_dict()}


def num_outputs(model: nn.Module) -> int:
    """Number of classes a classifier states: the width of its head's last weights."""
    own = model.state_dict()
    sizes = [own[key].shape[0] for key in own if key in head_keys(model)]
    if not sizes:
        raise ValueError(f"{type(model).__name__} has no classifier")
    return sizes[-1]


def file_digest(path: str) -> str:
    """12 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
