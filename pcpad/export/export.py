"""pcpad export: write a network in its padding mode, and check what was written against the network."""

import os
import shutil
from pathlib import Path
from uuid import uuid4

import torch
from torch import nn

from pcpad import models
from pcpad.config import ExportSettings
from pcpad.data.batch import EvalTransform
from pcpad.environment import versions
from pcpad.evaluation.subject import Subject, options, subject_of_model, subject_of_run
from pcpad.export import folder, graphs
from pcpad.folders import remove_empty
from pcpad.padding import convert
from pcpad.padding.modes import canonical
from pcpad.probe import probe
from pcpad.progress import say

SUFFIX = {"timm": "", "onnx": ".onnx", "torch": ".pt2"}


def export(settings: ExportSettings) -> Path:
    """Export one network; returns what was written.

    Raises:
        ValueError: the network, its weights or the mode are wrong, the library that writes is missing or cannot write
            this network, or what was written gives other numbers; nothing is left behind then. OSError: it cannot be
            written.
    """
    subject = subject_of_run(settings) if settings.run else subject_of_model(settings)
    padding = canonical(settings.padding or subject.padding)
    out = Path(settings.out) if settings.out else default_out(settings, subject, padding)
    refuse_existing(out, settings.format)
    transform = models.eval_transform(subject.name, subject.preprocess, settings.size or subject.size, subject.weights)
    model = subject.model.eval()
    facts = describe(subject, padding, transform)
    if settings.format == "onnx":
        graphs.check_onnx()
    partial = out.with_name(f".{out.name}.{uuid4().hex[:8]}.partial")
    created = [path for path in out.parents if not path.exists()]
    try:
        partial.mkdir(parents=True)
        if settings.format == "timm":
            folder.write(partial, model, subject, facts)
        surgery = convert(model, padding, **options(subject, padding))
        probe(model, str(subject.name), padding, transform.size)
        say(f"model: {subject.name}, {surgery.summary}; {transform.size} pixels")
        images = [torch.randn(n, 3, transform.size, transform.size) for n in batches(settings.batch)]
        if settings.format == "timm":
            apart = compare(model, folder.load(partial), images)
        else:
            write = graphs.write_onnx if settings.format == "onnx" else graphs.write_torch
            read = graphs.read_onnx if settings.format == "onnx" else graphs.read_torch
            write(partial / out.name, model, images[0], settings.batch is None, facts)
            apart = compare(model, read(partial / out.name), images)
        put_in_place(partial, out, settings.format)
    except OSError as error:
        raise OSError(f"{out} could not be written ({error.strerror or error}); choose another with --out") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(created)
    numbers = "the same numbers" if apart == 0 else f"the same numbers to {apart:.0e} of the largest"
    counts = ", ".join(str(len(x)) for x in images)
    say(f"checked: for batches of {counts} random images what was written gives {numbers}")
    say(f"written: {out}")
    if settings.format == "timm":
        say(f'in Python: model = pcpad.load("{out}")')
    return out


def default_out(settings: ExportSettings, subject: Subject, padding: str) -> Path:
    """A name below exports/: of the run, or of the model and its padding."""
    of_run = Path(settings.run).resolve().name if settings.run else subject.name.name
    trained = settings.run and padding == subject.padding
    return Path("exports") / f"{of_run}{'' if trained else f'-{padding}'}{SUFFIX[settings.format]}"


def refuse_existing(out: Path, kind: str) -> None:
    """Raise ValueError where the result is there already, or has another format's ending."""
    if os.path.lexists(out):
        raise ValueError(f"{out} exists: remove it, or choose another with --out")
    if SUFFIX[kind] and out.suffix != SUFFIX[kind]:
        raise ValueError(f"--out {out}: the name of a file of --format {kind} ends in {SUFFIX[kind]}")


def batches(fixed: int | None) -> list[int]:
    """Sizes of the batches to check with; a graph is traced with the first."""
    return [fixed] if fixed else [2, 3, 1]


def describe(subject: Subject, padding: str, transform: EvalTransform) -> dict:
    """What an export states of itself: the network, its padding, its images, where its weights are from."""
    power = subject.power if padding == "partial" else None
    return {
        "schema": 1,
        "model": str(subject.name),
        "num_classes": subject.num_classes,
        "model_kwargs": subject.kwargs,
        "padding": padding,
        "power": power,
        "on_small": subject.on_small,
        "transform_input": bool(getattr(subject.model, "transform_input", False)),
        "size": transform.size,
        "preprocess": {
            name: getattr(transform, name) for name in ("mean", "std", "interpolation", "crop_pct", "crop_mode")
        },
        "classes": list(subject.classes) if subject.classes else None,
        **subject.facts,
        "versions": versions(),
    }


@torch.inference_mode()
def compare(model: nn.Module, other, images: list[torch.Tensor]) -> float:
    """Largest difference of two networks' outputs, as a share of the largest output.

    Raises:
        ValueError: they differ by more than rounding in float32 explains, or the other refuses a batch.
    """
    worst = 0.0
    for x in images:
        want = model(x)
        try:
            got = other(x)
        except Exception as error:  # the runtimes have errors of their own
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"what was written refuses a batch of {len(x)} ({first}); --batch {len(x)} fixes it to that"
            ) from error
        apart = float((want - got).abs().max() / want.abs().max().clamp_min(1e-30))
        if not apart <= graphs.TOLERANCE:
            raise ValueError(
                f"what was written gives other numbers than the network: apart by {apart:.1e} of the largest output of "
                f"{len(x)} images, where {graphs.TOLERANCE:.0e} is allowed; nothing was kept"
            )
        worst = max(worst, apart)
    return worst


def put_in_place(partial: Path, out: Path, kind: str) -> None:
    """Rename the finished folder, or the files in it, to where they belong."""
    if kind == "timm":
        os.rename(partial, out)
        return
    for path in sorted(partial.iterdir(), key=lambda path: path.name == out.name):  # large weights beside it first
        os.replace(path, out.with_name(path.name))
