"""The end of an epoch: evaluation, record, curves, checkpoint."""

import numpy as np
from torch import nn

from pcpad.evaluation.counts import Counts, Interrupted, count
from pcpad.evaluation.fields import read_records
from pcpad.evaluation.record import make_record, percent, write_record
from pcpad.models import is_path
from pcpad.origin import origin_of
from pcpad.padding.modes import power_of
from pcpad.progress import Progress, say
from pcpad.training.guard import diverged
from pcpad.training.logbook import Logbook
from pcpad.training.signals import code_of

BEFORE = UNCONVERTED, CONVERTED, RECALIBRATED = "unconverted", "converted", "recalibrated"
"""What a record before the first step is of: its ``checkpoint``."""


def finish_epoch(training) -> Counts:
    """Evaluate, record, log and save; an evaluation that fails leaves a checkpoint of the trained epoch.

    In several processes not where one of them alone fails: they save together.
    """
    job, state, world = training.job, training.state, training.job.world
    world.same(job.model)
    if state.average is not None:
        world.same(state.average)
    loader = job.train_loader.state()
    training.ramp()
    try:
        counts = validate(training, state.evaluated)
    except Interrupted as stop:
        raise training.stop(stop.code, loader) from None
    except Exception as error:
        if world.size == 1 or isinstance(error, (ValueError, OSError)):  # which all processes raise together
            training.save(loader)
        raise
    epoch = state.epoch + 1
    if not np.isfinite(counts.loss):
        raise diverged(training.shelf, f"the validation loss is {counts.loss} after epoch {epoch}")
    improved = counts.top1 > state.best["top1"]
    if improved:
        state.best = {"top1": counts.top1, "epoch": epoch}
    if world.is_main:
        write_record(job.folder, record_of(training, counts), counts)
        report_epoch(training.book, counts, epoch, job.settings.epochs, state.step)
    state.epoch, state.step_in_epoch, state.sums = epoch, 0, None
    state.result = {"top1": counts.top1, "n": counts.n}
    training.save(loader, best=improved)
    state.result = None
    return counts


def record_of(training, counts: Counts, padding: str | None = None, when: str = "epoch") -> dict:
    """The record of an evaluation during the run.

    Args:
        padding: mode evaluated with; the run's if not given.
        when: ``epoch``, or what was done before the first step.
    """
    job, run, settings = training.job, training.run, training.job.settings
    return make_record(
        counts,
        model=job.model_name,
        num_classes=len(job.data.classes),
        padding=padding or settings.padding,
        padding_trained=settings.padding if when == "epoch" else padding_of_weights(settings.weights),
        power=power_of(padding, 1.0) if padding else training.power,
        on_small=settings.on_small,
        transform=job.transform,
        data=job.data.name,
        manifest_digest=job.data.val.digest,
        run_digest=run["settings_digest"],
        weights_digest=run["weights_digest"],
        loader=settings.data.loader,
        device=job.device,
        amp=settings.amp,
        ema=when == "epoch" and training.state.average is not None,
        run=run["id"],
        checkpoint=when,
        step=training.state.step,
        seed=settings.seed,
        model_kwargs=settings.model_kwargs,
        augmented_by=run.get("augmented_by"),
        excluded=job.data.excluded,
        canvas_padding=round(job.val_loader.share_of_padding[job.transform.label], 4),
    )


def padding_of_weights(weights: str | None) -> str | None:
    """What weights were trained with: a library's own with zeros, a file of pcpad's with what it says."""
    if weights and not is_path(weights):
        return "zeros"
    known = origin_of(weights) if weights else None
    return known.padding if known else None


def validate(training, model: nn.Module) -> Counts:
    """Evaluate a network on the validation split; raises Interrupted where a signal asks to stop."""
    job, settings = training.job, training.job.settings
    title, main = "evaluation", job.world.is_main
    progress = Progress(title, len(job.val_loader), settings.log_seconds, shown=main)
    try:
        return count(
            model,
            job.val_loader,
            expected=len(job.data.val),
            num_classes=len(job.data.classes),
            device=job.device,
            amp=settings.amp,
            channels_last=settings.channels_last,
            world=job.world,
            progress=lambda: progress.step(str),
            stop=lambda: code_of(training.signals.asked),
        )
    finally:
        progress.close()


def report_epoch(book: Logbook, counts: Counts, epoch: int, epochs: int, step: int) -> None:
    """One line and the curves of an epoch's evaluation."""
    values = {"val/top1": 100 * counts.top1 / counts.n, "val/loss": counts.loss, "epoch": float(epoch)}
    top5 = ""
    if counts.top5 is not None:
        values["val/top5"] = 100 * counts.top5 / counts.n
        top5 = f", top-5 {percent(counts.top5, counts.n)}"
    book.scalars(step, values)
    say(f"epoch {epoch}/{epochs}: top-1 {percent(counts.top1, counts.n)}{top5}, loss {counts.loss:.3f}")


def say_result(job, counts: Counts, best: dict) -> None:
    """The last lines: the result beside chance, and where it lies."""
    chance = np.bincount(counts.label, minlength=len(job.data.classes)).max() / counts.n
    before = [r for r in read_records(job.folder) if r["checkpoint"] in BEFORE]
    if before:
        stages = [f"{r['checkpoint']} {100 * r['top1'] / r['n']:.2f}%" for r in before]
        if job.settings.epochs:
            stages.append(f"last epoch {100 * counts.top1 / counts.n:.2f}%")
        say(f"top-1: {', '.join(stages)}")
    when = "at the last epoch" if job.settings.epochs else "without training"
    say(
        f"result: top-1 {percent(counts.top1, counts.n)} {when} with {job.settings.padding} padding; "
        f"chance is {100 * chance:.2f}%; best epoch {best['epoch']}: {100 * best['top1'] / counts.n:.2f}%"
    )
    say(f"run: {job.folder}")
    paddings = ",".join(dict.fromkeys(("zeros", "partial", job.settings.padding)))
    say(f"next: make eval RUN={job.folder} SIZES={job.settings.size},{2 * job.settings.size} PADS={paddings}")
