"""pcpad eval: a run, or a model with weights, over paddings and sizes; one record for each cell."""

import copy
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from torch import nn

from pcpad.config import EvalSettings, digest
from pcpad.data.batch import Batch
from pcpad.data.catalogue import DataSet, open_for_evaluation
from pcpad.data.loaders import choose_loader, default_workers
from pcpad.data.manifest import check_images, image_sizes
from pcpad.data.native import eval_order
from pcpad.environment import hardware, keep_freed_memory, num_cores, pick_device
from pcpad.evaluation.cells import SAME, Cell, Shelf, is_native, possible, reasons_text, recorded, write_reasons
from pcpad.evaluation.counts import Tally, autocast
from pcpad.evaluation.record import evaluated_settings, make_record, percent, write_record
from pcpad.evaluation.show import show
from pcpad.evaluation.subject import Subject, options, subject_of_model, subject_of_run
from pcpad.evaluation.variants import Size, check_width, leaves_nothing, parse_sizes, source, view
from pcpad.folders import result_folder
from pcpad.padding import PADDING_MODES, convert
from pcpad.padding.modes import canonical, power_of
from pcpad.progress import Progress, say
from pcpad.statistics import wilson

KEEP_SECONDS = 300.0
"""Seconds after which an evaluation keeps what it has counted so far."""


def evaluate(settings: EvalSettings) -> Path:
    """Evaluate every padding at every size, in one pass over the images; returns the folder that holds the records.

    Cells that the folder has a record of are not computed again, and those that were stopped go on.

    Raises:
        ValueError, OSError: for anything the user can mend, before the first image wherever that can be known.
    """
    device = pick_device(settings.device)
    keep_freed_memory(device)
    loader, loader_name, loader_line = choose_loader(settings.data.loader)
    subject = subject_of_run(settings) if settings.run else subject_of_model(settings)
    paddings = parse_paddings(settings.paddings or settings.padding or subject.padding)
    if settings.power is not None and "partial" not in paddings:
        others = ", ".join(paddings)
        raise ValueError(f"power={settings.power} has a meaning for partial padding only, not for {others}")
    sizes = parse_sizes(settings.sizes) if settings.sizes else [Size(settings.size or subject.size, subject.native)]
    if all(map(leaves_nothing, sizes)):
        check_width(sizes[0])  # a mistake in the call, and nothing to be noted of the model
    done, reasons = possible(subject, paddings, sizes)
    if not done:
        if settings.run and not settings.out:
            write_reasons(Path(settings.run), subject, reasons)
        raise ValueError(next(iter(reasons.values())))
    data = open_for_evaluation(subject.data, subject.num_classes, subject.classes)
    out = settings.out or settings.run or f"runs/eval-{subject.name.name}-{datetime.now():%Y%m%d-%H%M%S}"
    say(f"model: {subject.name}; data: {data.name}, {len(data.val):,} images; {hardware(device)}; {loader_line}")
    if not (settings.out or settings.run):
        say(f"records: {out}; with --out {out} a stopped evaluation goes on")
    for line in reasons_text(reasons):
        say(line)
    cells = [make_cell(settings, subject, data, loader_name, *one) for one in done]
    with result_folder(Path(out), "records*") as folder:
        if settings.data.check != "none":
            check_images(data.val, settings.data.workers or num_cores())
        sides = (
            image_sizes(data.val, settings.data.workers or num_cores()) if any(size.native for size in sizes) else None
        )
        shelf, records = Shelf(folder), {}
        for cell in cells:
            if not settings.again:
                records[cell.title] = recorded(folder, cell)
                shelf.load(cell)
            if found := records.get(cell.title):
                say(f"{cell.title}: done before: top-1 {percent(found['top1'], found['n'])} (--again computes it anew)")
        left = [cell for cell in cells if not records.get(cell.title)]
        layout = torch.channels_last if settings.channels_last else torch.preserve_format
        subject.model.to(device, memory_format=layout)
        networks = {p: converted(subject, p) for p in dict.fromkeys(cell.padding for cell in left)}
        for group in by_rows_seen(left):
            rows = np.setdiff1d(np.arange(len(data.val)), group[0].tally.state()["index"])
            batches = loader.EvalLoader(
                data.val.files,
                data.val.labels,
                list({made.label: made for made in (source(cell.transform) for cell in group)}.values()),
                batch_size=settings.batch_size,
                workers=settings.data.workers or default_workers(),
                device=device,
                sizes=sides,
                rows=rows.tolist(),
            )
            pass_over(batches, group, networks, settings, device, shelf)
            for cell in group:
                share = eval_order([cell.transform], range(len(data.val)), settings.batch_size, 0, 1, sides)[1]
                records[cell.title] = finish(
                    settings, subject, data, loader_name, device, cell, share[cell.transform.label], folder
                )
                shelf.clear(cell)
        write_reasons(folder, subject, reasons, [(cell.padding, cell.transform.label) for cell in cells])
    show([records[cell.title] for cell in cells], reasons, subject.facts["padding_trained"], folder)
    return folder


def make_cell(settings: EvalSettings, subject: Subject, data: DataSet, loader: str, padding: str, transform) -> Cell:
    """A cell that has seen nothing."""
    evaluated = evaluated_settings(**what(settings, subject, loader, padding, transform))
    facts = subject.facts | {"settings_digest": digest(evaluated), "manifest_digest": data.val.digest}
    return Cell(padding, transform, {key: facts.get(key) for key in SAME}, Tally(subject.num_classes))


def what(settings: EvalSettings, subject: Subject, loader: str, padding: str, transform) -> dict:
    """The fields of a cell's record that change its result."""
    return {
        "model": str(subject.name),
        "num_classes": subject.num_classes,
        "padding": padding,
        "power": power_of(padding, subject.power),
        "on_small": subject.on_small,
        "transform": transform,
        "ema": subject.facts["ema"],
        "loader": loader,
        "amp": settings.amp,
        "model_kwargs": subject.kwargs,
    }


def converted(subject: Subject, padding: str) -> nn.Module:
    """A copy of the model in a padding mode, in eval mode; it shares its weights and buffers with the model."""
    shared = {id(t): t for t in (*subject.model.parameters(), *subject.model.buffers())}
    model = copy.deepcopy(subject.model, shared)
    convert(model, padding, **options(subject, padding))
    return model.eval()


def by_rows_seen(cells: list[Cell]) -> list[list[Cell]]:
    """The cells in groups that have seen the same images: one group, unless some were stopped on their way."""
    groups: dict[bytes, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(np.sort(cell.tally.state()["index"]).tobytes(), []).append(cell)
    return list(groups.values())


def pass_over(
    batches: Iterable[Batch],
    cells: list[Cell],
    networks: dict[str, nn.Module],
    settings: EvalSettings,
    device: torch.device,
    shelf: Shelf,
) -> None:
    """Every batch through every cell; what was counted is kept now and then, and where it stops.

    A cell's seconds are those of its own forward passes and an equal share of the waiting for images.
    """
    title = cells[0].title if len(cells) == 1 else f"{len(cells)} cells"
    progress, kept, clock = Progress(title, len(batches), 30.0), time.monotonic(), time.perf_counter()
    try:
        with torch.inference_mode():
            for batch in batches:
                images = batch.images
                waited, clock = time.perf_counter() - clock, time.perf_counter()
                for cell in cells:
                    seen = view(cell.transform, images[source(cell.transform).label], batch.index)
                    if settings.channels_last:
                        seen = seen.to(memory_format=torch.channels_last)
                    with autocast(device, settings.amp):
                        logits = networks[cell.padding](seen)
                    cell.tally.add(logits, batch)
                    cell.tally.seconds += waited / len(cells) + time.perf_counter() - clock
                    clock = time.perf_counter()
                progress.step(str)
                if time.monotonic() - kept > KEEP_SECONDS:
                    shelf.save(cells)
                    kept = time.monotonic()
    except BaseException:
        shelf.save(cells)
        raise
    finally:
        progress.close()


def finish(settings, subject: Subject, data: DataSet, loader: str, device, cell: Cell, share: float, folder) -> dict:
    """Write the record of a cell that has seen all images, and say it in one line."""
    counts = cell.tally.counts(len(data.val))
    record = make_record(
        counts,
        data=data.name,
        manifest_digest=data.val.digest,
        device=device,
        canvas_padding=round(share, 4),
        **what(settings, subject, loader, cell.padding, cell.transform),
        **{key: value for key, value in subject.facts.items() if key != "ema"},
    )
    record = write_record(folder, record, counts)
    low, high = wilson(counts.top1, counts.n)
    top5 = f", top-5 {percent(counts.top5, counts.n)}" if counts.top5 is not None else ""
    native = f", {share:.1%} of the canvas is padding" if is_native(cell.transform) else ""
    top1 = f"top-1 {percent(counts.top1, counts.n)}, 95% interval {100 * low:.1f} to {100 * high:.1f}"
    say(f"{cell.title}: {top1}{top5}, {record['images_per_second']:.0f} images/s{native}")
    return record


def parse_paddings(text: str) -> list[str]:
    """``"zeros,partial"`` or ``"all"`` to registered names; raises ValueError for an unknown one."""
    if text == "all":
        return list(PADDING_MODES)
    return list(dict.fromkeys(canonical(part.strip()) for part in text.split(",")))
