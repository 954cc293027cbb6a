"""pcpad border: what each padding does to features near the border; records, and tables and plots drawn from them."""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import torch

from pcpad import models
from pcpad.config import BorderSettings, digest
from pcpad.data.batch import Batch, EvalTransform
from pcpad.data.loaders import choose_loader, default_workers
from pcpad.environment import commit, hardware, keep_freed_memory, pick_device, versions
from pcpad.evaluation.border.features import (
    Place,
    choose_margin,
    features,
    find_places,
    padded_layers,
    reaches,
    total_stride,
)
from pcpad.evaluation.border.images import Images, open_images
from pcpad.evaluation.border.records import RECORDS, SCHEMA
from pcpad.evaluation.border.report import report
from pcpad.evaluation.border.rings import FidelitySums, MeanMap
from pcpad.evaluation.border.shifts import ShiftCounts, check_shifts, parse_shifts, shift_transform
from pcpad.evaluation.run import parse_paddings
from pcpad.evaluation.subject import Subject, options, subject_of_model, subject_of_run
from pcpad.folders import result_folder
from pcpad.padding import convert
from pcpad.padding.modes import power_of
from pcpad.probe import probe
from pcpad.progress import Progress, say


@dataclass(frozen=True)
class Work:
    """What is looked at, how, and what every record states of it.

    Attributes:
        transform: of the size that the network sees. margin: pixels of context on each side.
        layout: memory format of images.
        loader: module of the loader.
    """

    subject: Subject
    paddings: list[str]
    images: Images
    places: list[Place]
    transform: EvalTransform
    margin: int
    device: torch.device
    layout: torch.memory_format
    loader: object
    settings: BorderSettings

    def batches(self, transform: EvalTransform, title: str) -> Iterator[Batch]:
        """Every image once, with a progress of this title."""
        loader = self.loader.EvalLoader(
            self.images.manifest.files,
            self.images.manifest.labels,
            transform,
            batch_size=self.settings.batch_size,
            workers=self.settings.data.workers or default_workers(),
            device=self.device,
        )
        progress = Progress(title, len(loader), 30.0)
        try:
            for batch in loader:
                yield batch
                progress.step(str)
        finally:
            progress.close()

    def put(self, padding: str) -> None:
        """Put the model into a padding mode."""
        convert(self.subject.model, padding, **options(self.subject, padding))


def runs_with(subject: Subject, padding: str, sizes: tuple[int, ...], alone: bool) -> bool:
    """Whether the model runs with a padding at these sizes; says why one of several does not.

    Raises:
        ValueError: it does not, and no other was asked for.
    """
    convert(subject.model, padding, **options(subject, padding))
    try:
        for size in sizes:
            probe(subject.model, str(subject.name), padding, size)
    except ValueError as error:
        if alone:
            raise
        say(f"{padding} is left out: {error}")
        return False
    return True


def border(settings: BorderSettings) -> Path:
    """Measure border fidelity, spatial bias and the effect of shifts; returns the folder of records and figures.

    Raises:
        ValueError, OSError: for anything the user can mend, before the work wherever that can be known.
    """
    device = pick_device(settings.device)
    keep_freed_memory(device)
    loader, loader_name, loader_line = choose_loader(settings.data.loader)
    subject = subject_of_run(settings) if settings.run else subject_of_model(settings)
    paddings = parse_paddings(settings.paddings)
    if settings.power is not None and "partial" not in paddings:
        raise ValueError(f"power={settings.power} has a meaning for partial padding only, not for {settings.paddings}")
    subject.model.eval()
    transform = models.eval_transform(subject.name, subject.preprocess, settings.size or subject.size, subject.weights)
    size, shifts = transform.size, parse_shifts(settings.shifts)
    check_shifts(shifts, size)
    layers = padded_layers(subject.model)
    convert(subject.model, "zeros")
    probe(subject.model, str(subject.name), "zeros", size)
    places = find_places(subject.model, layers, size)
    margin = choose_margin(settings.margin, size, total_stride(places))
    images = open_images(subject.data, subject.num_classes, subject.classes, settings.images, settings.seed)
    inside = f"{settings.run}/border" if settings.run else f"runs/border-{subject.name.name}"
    out = settings.out or f"{inside}-{datetime.now():%Y%m%d-%H%M%S}"
    if (Path(out) / RECORDS).exists():
        raise ValueError(f"{out} holds {RECORDS} of an earlier call: choose another --out, or remove it")
    side = size + 2 * margin
    say(
        f"model: {subject.name}; data: {images.name}, {len(images.manifest):,} images; "
        f"{hardware(device)}; {loader_line}"
    )
    say(f"{len(places)} padded convolutions; {size} pixels inside {side}, {margin} of context on each side")
    if images.unlabelled:
        say(f"labels are unknown, so accuracy is left out ({images.unlabelled})")
    with result_folder(Path(out), RECORDS) as folder:
        paddings = [padding for padding in paddings if runs_with(subject, padding, (size, side), paddings == [padding])]
        if not paddings:
            raise ValueError(f"{subject.name} runs with none of the paddings at size {size}: choose a larger --size")
        layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        subject.model.to(device, memory_format=layout)
        work = Work(subject, paddings, images, places, transform, margin, device, layout, loader, settings)
        work.put("zeros")
        reach = reaches(subject.model, places, size, margin)
        facts = common_facts(work, loader_name)
        with torch.inference_mode():
            measured = look_at_features(work)
            counted = look_at_shifts(work, shifts)
        records = [
            {"kind": "features", **facts, **mode(work, padding), **one, **measured[padding, place.layer]}
            for padding in paddings
            for place in places
            for one in [layer_facts(place, reach[place.layer], margin)]
        ]
        records += [
            {"kind": "shifts", **facts, **mode(work, padding), **counted[padding].result()} for padding in paddings
        ]
        write_records(folder, records)
        report(folder)
    say(f"records, tables and plots: {folder}")
    return folder


def look_at_features(work: Work) -> dict[tuple[str, str], dict]:
    """Fidelity and spatial bias of every padding and layer.

    Each padding is compared with itself: the network in that mode on the crop, and on the larger image around it.

    Returns:
        ``(padding, layer)`` to what its record holds.
    """
    size, margin, model = work.transform.size, work.margin, work.subject.model
    layers = list(dict.fromkeys(place.module for place in work.places))
    at = {place.layer: place for place in work.places}
    keys = [(padding, place) for padding in work.paddings for place in work.places]
    fidelity = {(padding, p.layer): FidelitySums(p.height, p.width) for padding, p in keys}
    padded = {(padding, p.layer): MeanMap(p.channels, p.height, p.width) for padding, p in keys}
    context = {(padding, p.layer): MeanMap(p.channels, p.height, p.width) for padding, p in keys}

    def crop(call: str, y: torch.Tensor) -> torch.Tensor | None:
        return at[call].window(y, margin) if call in at else None

    for batch in work.batches(replace(work.transform, size=size + 2 * margin, crop_pct=1.0), "features"):
        large = batch.images.contiguous(memory_format=work.layout)
        middle = large[..., margin : margin + size, margin : margin + size].contiguous(memory_format=work.layout)
        for padding in work.paddings:
            work.put(padding)
            true = features(model, layers, large, crop)
            own = features(model, layers, middle)
            for place in work.places:
                key = (padding, place.layer)
                fidelity[key].add(own[place.layer], true[place.layer])
                padded[key].add(own[place.layer])
                context[key].add(true[place.layer])
    return {
        key: {
            "positions": padded[key].positions.long().tolist(),
            "error": rounded(sums.error),
            "true": rounded(sums.true),
            "bias": padded[key].bias(),
            "bias_true": context[key].bias(),
            "picture": padded[key].picture(),
            "picture_true": context[key].picture(),
        }
        for key, sums in fidelity.items()
    }


def rounded(sums: torch.Tensor) -> list[float]:
    """Sums with nine digits, more than float32 features support."""
    return [float(f"{value:.9g}") for value in sums.tolist()]


def look_at_shifts(work: Work, shifts: list) -> dict[str, ShiftCounts]:
    """Predictions of every padding under shifts of the crop window."""
    counted = {padding: ShiftCounts(shifts) for padding in work.paddings}
    for batch in work.batches(shift_transform(work.transform, shifts), "shifts"):
        for padding in work.paddings:
            work.put(padding)
            counted[padding].add(work.subject.model, batch.images, batch.labels, work.transform.size, work.layout)
    return counted


def layer_facts(place: Place, reach: int | None, margin: int) -> dict:
    """What a record states of a layer, whatever the padding."""
    facts = asdict(place) | {"reach": reach}
    # Where it sees no further than the margin, the larger image's own padding has no part in its true features.
    return facts | {"exact": reach is not None and reach <= margin}


def mode(work: Work, padding: str) -> dict:
    """What a record states of its padding."""
    return {"padding": padding, "power": power_of(padding, work.subject.power)}


def common_facts(work: Work, loader_name: str) -> dict:
    """What every record of this call states."""
    subject, settings = work.subject, work.settings
    preprocess = asdict(work.transform)
    del preprocess["size"]
    looked = {
        "model": str(subject.name),
        "power": subject.power,
        "on_small": subject.on_small,
        "size": work.transform.size,
        "margin": work.margin,
        "preprocess": preprocess,
        "seed": settings.seed,
        "loader": loader_name,
    }
    stated = ("run", "checkpoint", "step", "ema", "padding_trained", "weights_digest")
    trained = {key: subject.facts.get(key) for key in stated} | {"seed_trained": subject.facts.get("seed")}
    return {
        "schema": SCHEMA,
        "id": uuid4().hex[:12],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **looked,
        **trained,
        "data": work.images.name,
        "n": len(work.images.manifest),
        "settings_digest": digest(looked | {"shifts": settings.shifts, "images": settings.images}),
        "manifest_digest": work.images.manifest.digest,
        "commit": commit(),
        "versions": versions(),
        "device": work.device.type,
        "hardware": hardware(work.device),
    }


def write_records(folder: Path, records: list[dict]) -> None:
    """Write all records in one step, one JSON line each."""
    temporary = folder / f"{RECORDS}.tmp"
    temporary.write_text("".join(json.dumps(record) + "\n" for record in records))
    os.replace(temporary, folder / RECORDS)
