"""Before the first step: what the weights give as they are, converted, and with norms that are recalibrated."""

import torch

from pcpad.evaluation.counts import Counts, Interrupted
from pcpad.evaluation.fields import read_records
from pcpad.evaluation.record import percent, write_record
from pcpad.padding import convert
from pcpad.progress import Progress, say
from pcpad.training.adapting import batch_norms, batch_statistics, shift_statistics
from pcpad.training.ending import CONVERTED, RECALIBRATED, UNCONVERTED, record_of, validate
from pcpad.training.signals import code_of


def begin(training) -> Counts | None:
    """Evaluate and recalibrate as the settings ask, before step 0; what has a record already is not evaluated again.

    Returns:
        The last evaluation; None where there was none.
    """
    settings, state, world, folder = training.job.settings, training.state, training.job.world, training.job.folder
    adapt, counts = settings.adapt, None
    done = world.on_main(lambda: {r["checkpoint"] for r in read_records(folder) if r["run"] == training.run["id"]})
    stages = [UNCONVERTED, *[CONVERTED] * (settings.padding != "zeros"), *[RECALIBRATED] * (adapt.recalibrate > 0)]
    last = stages[-1]
    for stage in stages:
        if stage == RECALIBRATED and not training.recalibrated:
            recalibrate_norms(training)
            training.recalibrated = True
        if adapt.first and (stage not in done or (stage == last and settings.epochs == 0)):
            counts = evaluate(training, stage, again=stage in done)
    if settings.epochs == 0:
        state.best = {"top1": counts.top1, "epoch": 0}
        state.result = {"top1": counts.top1, "n": counts.n}
        training.save(training.job.train_loader.state(), best=True)
    return counts


def evaluate(training, stage: str, again: bool) -> Counts:
    """Evaluate the network before the first step, and record it unless that was done before."""
    job, settings, model = training.job, training.job.settings, training.job.model
    if stage == UNCONVERTED:
        convert(model, "zeros")
    try:
        counts = validate(training, model)
    except Interrupted as stop:
        raise training.stop(stop.code, job.train_loader.state()) from None
    finally:
        if stage == UNCONVERTED:
            put_back(training)
    if job.world.is_main and not again:
        write_record(job.folder, record_of(training, counts, "zeros" if stage == UNCONVERTED else None, stage), counts)
        training.book.scalars(0, {f"begin/{stage}_top1": 100 * counts.top1 / counts.n})
        words = f"{stage}, {'zeros' if stage == UNCONVERTED else settings.padding} padding"
        say(f"before the first step, {words}: top-1 {percent(counts.top1, counts.n)}, loss {counts.loss:.3f}")
    return counts


def put_back(training) -> None:
    """Convert the network to the padding of the run again."""
    settings = training.job.settings
    convert(training.job.model, settings.padding, power=settings.power, on_small=settings.on_small)


def recalibrate_norms(training) -> None:
    """Shift the statistics of all batch norms by what the conversion has changed, those of the average too."""
    job, settings, world = training.job, training.job.settings, training.job.world
    if not batch_norms(job.model):
        say("recalibrated: nothing, the network has no batch norms")
        return
    loader = job.calibration()
    progress = Progress("recalibration", 2 * len(loader), settings.log_seconds, shown=world.is_main)
    layout = torch.channels_last if settings.channels_last else torch.preserve_format

    def step() -> None:
        (code,) = world.agree(code_of(training.signals.asked))
        if code:
            raise Interrupted(code)
        progress.step(str)

    try:
        convert(job.model, "zeros")
        before = batch_statistics(job.model, loader, world, layout, step)
        put_back(training)
        after = batch_statistics(job.model, loader, world, layout, step)
    except Interrupted as stop:
        put_back(training)
        raise training.stop(stop.code, job.train_loader.state()) from None
    finally:
        progress.close()
    shift_statistics(job.model, before, after)
    if training.state.average is not None:
        training.state.average.set(job.model)
    images = min(settings.adapt.recalibrate, len(job.data.train))
    say(f"recalibrated: {len(before)} batch norms, from up to {images:,} training images")
