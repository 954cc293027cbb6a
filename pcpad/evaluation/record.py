"""Records: one JSON line for each evaluation, and beside it what was predicted for every image."""

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import numpy as np
import torch

from pcpad.config import digest
from pcpad.data.batch import EvalTransform
from pcpad.environment import commit, hardware, versions
from pcpad.evaluation.counts import Counts
from pcpad.evaluation.fields import read_records
from pcpad.folders import reason
from pcpad.lines import append_line

SCHEMA = 1
"""Version of the record."""


def evaluated_settings(
    *,
    model: str,
    num_classes: int,
    padding: str,
    power: float,
    on_small: str,
    transform: EvalTransform,
    ema: bool,
    loader: str,
    amp: str,
    model_kwargs: dict | None = None,
) -> dict:
    """What of an evaluation's settings changes its result: as the record states it, and its digest is of."""
    preprocess = asdict(transform)
    del preprocess["size"]
    stated = {
        "model": model,
        "num_classes": num_classes,
        "padding": padding,
        "power": power,
        "on_small": on_small,
        "size": transform.label,
        "preprocess": preprocess,
        "ema": ema,
        "loader": loader,
        "amp": amp,
    }
    return stated | ({"model_kwargs": model_kwargs} if model_kwargs else {})


def make_record(
    counts: Counts,
    *,
    model: str,
    num_classes: int,
    padding: str,
    padding_trained: str | None,
    power: float,
    on_small: str,
    transform: EvalTransform,
    data: str,
    manifest_digest: str,
    loader: str,
    device: torch.device,
    amp: str,
    ema: bool,
    run: str | None = None,
    checkpoint: str | None = None,
    step: int | None = None,
    run_digest: str | None = None,
    weights_digest: str | None = None,
    seed: int | None = None,
    excluded: int = 0,
    canvas_padding: float = 0.0,
    model_kwargs: dict | None = None,
    augmented_by: dict | None = None,
) -> dict:
    """One evaluation as a plain dict.

    Args:
        counts: the result.
        padding, padding_trained: mode evaluated with, and mode the weights were trained with where that is known.
        checkpoint: ``last``, ``best``, ``epoch`` (during training), or the weights' name.
        run_digest: settings digest of the run, which says how the weights came to be.
        weights_digest: of the file that evaluation or training started from, or the name of the library's weights.
        excluded: damaged training images that were left out when the weights were trained.
        canvas_padding: share of the canvases' pixels that are no image's, where images keep their aspect ratio.
        model_kwargs: arguments of the network's constructor, stated where there are any.
        augmented_by: whose code augmented the images that the weights were trained with, stated where there is any.
    """
    evaluated = evaluated_settings(
        model=model,
        num_classes=num_classes,
        padding=padding,
        power=power,
        on_small=on_small,
        transform=transform,
        ema=ema,
        loader=loader,
        amp=amp,
        model_kwargs=model_kwargs,
    )
    return {
        "schema": SCHEMA,
        "id": uuid4().hex[:12],
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run,
        "checkpoint": checkpoint,
        "step": step,
        **evaluated,
        "padding_trained": padding_trained,
        **({"augmented_by": augmented_by} if augmented_by else {}),
        "data": data,
        "n": counts.n,
        "top1": counts.top1,
        "top5": counts.top5,
        "loss": counts.loss,
        "excluded": excluded,
        "canvas_padding": canvas_padding,
        "settings_digest": digest(evaluated),
        "run_digest": run_digest,
        "manifest_digest": manifest_digest,
        "weights_digest": weights_digest,
        "commit": commit(),
        "versions": versions(),
        "seed": seed,
        "device": device.type,
        "hardware": hardware(device),
        "images_per_second": round(counts.n / counts.seconds, 2),
    }


def write_record(folder: Path, record: dict, counts: Counts) -> dict:
    """Append a record to ``records.jsonl`` and put ``records/<name>.npz`` beside it; the .npz comes first.

    Returns the record with the name of the .npz, as it was written.

    The .npz holds `index` int64 ``(n,)``, `label` int64 ``(n,)`` and `top5` int32 ``(n, k)``.

    Raises:
        OSError: the folder cannot be written.
    """
    name = f"records/{record['padding']}-{record['size'].replace(':', '-')}-{record['id']}.npz"
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez_compressed(file, index=counts.index, label=counts.label, top5=counts.predictions)
        os.replace(temporary, path)
    except BaseException as error:
        why = reason(path, error)  # before the room that the temporary file took is free again
        temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise OSError(f"{path} could not be written: {why}") from error
    written = {**record, "predictions": name}
    append_line(folder / "records.jsonl", written)
    return written


def rewind(folder: Path, step: int, evaluated: bool) -> None:
    """Drop the records of epochs that a resumed run does again: those after `step`, and of it unless `evaluated`.

    Records that pcpad eval has written stay.
    """
    records = read_records(folder)
    last = step if evaluated else step - 1
    kept = [r for r in records if r["checkpoint"] != "epoch" or r["step"] <= last]
    if len(kept) < len(records):
        temporary = folder / "records.jsonl.tmp"
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))
        os.replace(temporary, folder / "records.jsonl")
        for record in records:
            if record not in kept and "predictions" in record:
                (folder / record["predictions"]).unlink(missing_ok=True)


def percent(hits: int, n: int) -> str:
    """``"81.20% (406 of 500)"``."""
    return f"{100 * hits / n:.2f}% ({hits} of {n})"
