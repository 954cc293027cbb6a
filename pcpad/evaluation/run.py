"""pcpad eval: a run, or a model with weights, over paddings and sizes; one record for each cell."""

from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pcpad import models, weights
from pcpad.config import EvalSettings, PreprocessSettings
from pcpad.data.batch import EvalTransform
from pcpad.data.catalogue import DataSet, open_for_evaluation
from pcpad.data.loaders import choose_loader, default_workers
from pcpad.data.manifest import check_images, image_sizes
from pcpad.data.native import NativeTransform, native_transform
from pcpad.environment import hardware, num_cores, pick_device
from pcpad.evaluation.counts import count
from pcpad.evaluation.record import make_record, percent, write_record
from pcpad.folders import result_folder
from pcpad.padding import PADDING_MODES, convert
from pcpad.padding.modes import canonical
from pcpad.probe import probe, probe_native, refuse_filling
from pcpad.progress import Progress, say
from pcpad.training import checkpoint


@dataclass
class Subject:
    """What is evaluated, with the facts that its records state.

    Attributes:
        name: resolved model name. model: with its weights and zero padding.
        classes: folder names of the outputs, where they are known.
        preprocess: overrides of the model's own. data: name of the data set, ``auto`` if nothing was said.
        native: whether it was trained on images of their own aspect ratio.
        facts: record fields that are the same for every cell.
    """

    name: models.ModelName
    model: nn.Module
    num_classes: int
    classes: tuple[str, ...] | None
    preprocess: PreprocessSettings
    weights: str | None
    data: str
    size: int | None
    native: bool
    padding: str
    power: float
    on_small: str
    facts: dict


def evaluate(settings: EvalSettings) -> Path:
    """Evaluate every padding at every size; returns the folder that holds the records.

    Raises:
        ValueError, OSError: for anything the user can mend, before the first cell wherever that can be known.
    """
    device = pick_device(settings.device)
    loader, loader_name, loader_line = choose_loader(settings.data.loader)
    subject = subject_of_run(settings) if settings.run else subject_of_model(settings)
    paddings = parse_paddings(settings.paddings or settings.padding or subject.padding)
    if settings.power is not None and "partial" not in paddings:
        others = ", ".join(paddings)
        raise ValueError(f"power={settings.power} has a meaning for partial padding only, not for {others}")
    sizes = parse_sizes(settings.sizes) if settings.sizes else [(settings.size or subject.size, subject.native)]
    transforms = [transform_for(subject, size, native, paddings) for size, native in sizes]
    data = open_for_evaluation(subject.data, subject.num_classes, subject.classes)
    out = settings.out or settings.run or f"runs/eval-{subject.name.name}-{datetime.now():%Y%m%d-%H%M%S}"
    say(f"model: {subject.name}; data: {data.name}, {len(data.val):,} images; {hardware(device)}; {loader_line}")
    with result_folder(Path(out), "records.jsonl") as folder:
        if settings.data.check != "none":
            check_images(data.val, settings.data.workers or num_cores())
        original = None
        if any(native for _, native in sizes):
            original = image_sizes(data.val, settings.data.workers or num_cores())
        for padding in paddings:
            convert(subject.model, padding, **options(subject, padding))
            for transform in transforms:
                if not isinstance(transform, NativeTransform):
                    probe(subject.model, str(subject.name), padding, transform.size)
        layout = torch.channels_last if settings.channels_last else torch.preserve_format
        subject.model.to(device, memory_format=layout)
        rows = []
        for padding in paddings:
            convert(subject.model, padding, **options(subject, padding))
            for transform in transforms:
                record = one_cell(
                    settings, subject, data, original, loader, loader_name, device, padding, transform, folder
                )
                rows.append(record)
    show(rows, folder)
    return folder


def one_cell(
    settings: EvalSettings,
    subject: Subject,
    data: DataSet,
    original: np.ndarray | None,
    loader,
    loader_name: str,
    device: torch.device,
    padding: str,
    transform: EvalTransform,
    folder: Path,
) -> dict:
    """Evaluate one padding at one size and write its record; `original` are the sizes of the image files."""
    batches = loader.EvalLoader(
        data.val.files,
        data.val.labels,
        transform,
        batch_size=settings.batch_size,
        workers=settings.data.workers or default_workers(),
        device=device,
        sizes=original,
    )
    progress = Progress(f"{padding} at {transform.label}", len(batches), 30.0)
    try:
        counts = count(
            subject.model,
            batches,
            expected=len(data.val),
            num_classes=subject.num_classes,
            device=device,
            amp=settings.amp,
            channels_last=settings.channels_last,
            progress=lambda: progress.step(str),
        )
    finally:
        progress.close()
    record = make_record(
        counts,
        model=str(subject.name),
        num_classes=subject.num_classes,
        padding=padding,
        power=options(subject, padding).get("power", 1.0),
        on_small=subject.on_small,
        transform=transform,
        data=data.name,
        manifest_digest=data.val.digest,
        loader=loader_name,
        device=device,
        amp=settings.amp,
        canvas_padding=round(batches.share_of_padding, 4),
        **subject.facts,
    )
    write_record(folder, record, counts)
    top5 = f", top-5 {percent(counts.top5, counts.n)}" if counts.top5 is not None else ""
    speed = record["images_per_second"]
    native = (
        f", {batches.share_of_padding:.1%} of the canvas is padding" if isinstance(transform, NativeTransform) else ""
    )
    say(f"{padding} at {transform.label}: top-1 {percent(counts.top1, counts.n)}{top5}, {speed:.0f} images/s{native}")
    return record


def options(subject: Subject, padding: str) -> dict:
    """Options of convert for one padding mode."""
    extra = {"on_small": subject.on_small}
    return extra | ({"power": subject.power} if padding == "partial" else {})


def subject_of_run(settings: EvalSettings) -> Subject:
    """The model of a run, from its checkpoint."""
    from pcpad.training.runfolder import read_run

    folder = Path(settings.run)
    run = read_run(folder)
    trained = run["settings"]
    path = folder / checkpoint.FOLDER / f"{settings.checkpoint}.pt"
    content = checkpoint.load(path)
    ema = content["ema"] is not None if settings.ema is None else settings.ema
    if ema and content["ema"] is None:
        raise ValueError(f"{folder} has no averaged weights: it was trained without --ema")
    state = content["ema"] if ema else content["model"]
    name = models.resolve(trained["model"])
    model = models.create(name, len(run["classes"]))
    if trained["weights"]:
        models.scale_input(model, name)
    weights.load_state(model, weights.unwrap(state), str(path))
    preprocess = PreprocessSettings(**trained["preprocess"])
    return Subject(
        name=name,
        model=model,
        num_classes=len(run["classes"]),
        classes=tuple(run["classes"]),
        preprocess=merge(preprocess, settings.preprocess),
        weights=trained["weights"],
        data=trained["data"]["name"] if settings.data.name == "auto" else settings.data.name,
        size=trained["size"],
        native=trained["data"].get("native", False),
        padding=trained["padding"],
        power=trained["power"] if settings.power is None else settings.power,
        on_small=settings.on_small or trained["on_small"],
        facts={
            "run": run["id"],
            "run_digest": run["settings_digest"],
            "weights_digest": run["weights_digest"],
            "checkpoint": settings.checkpoint,
            "step": content["step"],
            "ema": ema,
            "seed": trained["seed"],
            "excluded": run.get("excluded", 0),
            "padding_trained": trained["padding"],
        },
    )


def subject_of_model(settings: EvalSettings) -> Subject:
    """A model by name with weights from a file or from its library."""
    name = models.resolve(settings.model)
    is_file = Path(settings.weights).is_file()
    model = models.build_as_published(name, settings.weights)
    num_classes = weights.num_outputs(model)
    return Subject(
        name=name,
        model=model,
        num_classes=num_classes,
        classes=None,
        preprocess=settings.preprocess,
        weights=settings.weights,
        data=settings.data.name,
        size=None,
        native=False,
        padding="zeros",
        power=1.0 if settings.power is None else settings.power,
        on_small=settings.on_small or "raise",
        facts={
            "weights_digest": weights.file_digest(settings.weights) if is_file else settings.weights,
            "checkpoint": Path(settings.weights).name if is_file else settings.weights,
            "ema": False,
            # Every library's own weights were trained with the network's own padding; of a file nobody knows.
            "padding_trained": None if is_file else "zeros",
        },
    )


def merge(base: PreprocessSettings, over: PreprocessSettings) -> PreprocessSettings:
    """`base` with what `over` states."""
    return replace(base, **{k: v for k, v in vars(over).items() if v is not None})


def parse_paddings(text: str) -> list[str]:
    """``"zeros,partial"`` or ``"all"`` to registered names; raises ValueError for an unknown one."""
    if text == "all":
        return list(PADDING_MODES)
    return list(dict.fromkeys(canonical(part.strip()) for part in text.split(",")))


def parse_sizes(text: str) -> list[tuple[int, bool]]:
    """``"128,native:224"`` to pixels and whether images keep their aspect ratio; raises ValueError for another text."""
    sizes = []
    for part in text.split(","):
        kind, _, side = part.strip().rpartition(":")
        if kind not in ("", "native") or not side.isdigit() or int(side) < 1:
            raise ValueError(
                "sizes must be positive integers, or native:N for images of their own aspect ratio, with commas "
                f"between them, not {text!r}"
            )
        sizes.append((int(side), kind == "native"))
    return list(dict.fromkeys(sizes))


def transform_for(subject: Subject, size: int, native: bool, paddings: list[str]) -> EvalTransform:
    """The preprocessing for one size; of native ones what their sides are rounded to is found by trying.

    Raises:
        ValueError: a native size with a padding mode that fills, or for a network that cannot take one.
    """
    square = models.eval_transform(subject.name, subject.preprocess, size, subject.weights)
    if not native:
        return square
    refuse_filling(paddings)
    multiple = 1
    for padding in paddings:
        convert(subject.model, padding, **options(subject, padding))
        multiple = max(multiple, probe_native(subject.model, str(subject.name), padding, size))
    return native_transform(square, multiple)


def size_key(size: str) -> tuple[bool, int]:
    """Sorts sizes as records state them: squares by their side, then native ones."""
    kind, _, side = size.rpartition(":")
    return bool(kind), int(side)


def show(records: list[dict], folder: Path) -> None:
    """The grid as a table of top-1 in percent, and where the records lie."""
    import pandas as pd

    if len(records) > 1:
        order = list(dict.fromkeys(sorted((r["size"] for r in records), key=size_key)))
        frame = pd.DataFrame([(r["padding"], r["size"], 100 * r["top1"] / r["n"]) for r in records])
        frame.columns = ["padding", "size", "top-1 %"]
        table = frame.pivot(index="padding", columns="size", values="top-1 %")
        table = table.loc[list(dict.fromkeys(frame["padding"])), order]
        text = table.to_string(float_format="%.2f")
        say(f"\ntop-1 in percent by padding and size, {records[0]['n']} images\n{text}\n")
    say(f"records: {folder / 'records.jsonl'}")
