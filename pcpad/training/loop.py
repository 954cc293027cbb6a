"""The training loop: steps are the only clock, an epoch ends with an evaluation, a record and a checkpoint."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pcpad.config import TrainSettings, to_dict
from pcpad.data.batch import EvalTransform
from pcpad.data.catalogue import DataSet
from pcpad.environment import memory_mb
from pcpad.evaluation.counts import Counts, autocast, count
from pcpad.evaluation.record import make_record, percent, write_record
from pcpad.ragged import RaggedBatch
from pcpad.training import checkpoint
from pcpad.training.distributed import World
from pcpad.training.logbook import Logbook, Progress, say
from pcpad.training.optimizer import make_optimizer
from pcpad.training.schedule import learning_rate


@dataclass
class Job:
    """All that a training needs; the model is on its device, the loaders are those of one loader module."""

    settings: TrainSettings
    model_name: str
    model: nn.Module
    data: DataSet
    train_loader: object
    val_loader: object
    transform: EvalTransform
    device: torch.device
    world: World
    folder: Path


def train_step(
    model: nn.Module,
    images: Tensor | RaggedBatch,
    labels: Tensor,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    amp: str,
    label_smoothing: float,
) -> tuple[Tensor, Tensor]:
    """One forward, backward and optimizer step.

    Args:
        images: float32 ``(B, 3, H, W)``, or a RaggedBatch of such images.
        labels: int64 ``(B,)``.

    Returns:
        Sum of the loss over the batch (float32) and number of correct predictions (int64), both 0-d on the device.
    """
    with autocast(images.device, amp):
        logits = model(images)
        loss = nn.functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)
    optimizer.zero_grad(set_to_none=True)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    return loss.detach() * len(labels), (logits.argmax(1) == labels).sum()


def fit(job: Job, run: dict, resume: dict | None = None) -> None:
    """Train to the last epoch, then say what came of it.

    Args:
        run: the content of run.json.
        resume: a checkpoint to continue from.

    Raises:
        ValueError: the loss is no longer finite, or an image is damaged. OSError: a file cannot be written.
    """
    settings, device, world = job.settings, job.device, job.world
    model = job.model
    optimizer = make_optimizer(model, settings.optim)
    scaler = torch.amp.GradScaler(device.type, enabled=settings.amp == "fp16")
    average = make_average(model, settings.ema)
    epoch, step, best = 0, 0, {"top1": -1, "epoch": 0}
    unevaluated = False  # an epoch was trained, and its evaluation failed
    if resume:
        epoch, step, best = resume["epoch"], resume["step"], resume["best"]
        model.load_state_dict(resume["model"])
        optimizer.load_state_dict(resume["optimizer"])
        scaler.load_state_dict(resume["scaler"])
        if average is not None:
            average.load_state_dict(resume["ema"])
        job.train_loader.restore(resume["loaders"][world.rank])
        unevaluated = resume["top1"] is None
        if epoch >= settings.epochs and not unevaluated:
            say(f"the run is finished: {epoch} of {settings.epochs} epochs")
            return
    call = torch.compile(model) if settings.compile else model
    book = Logbook(job.folder, step)

    def state(counts: Counts | None) -> dict:
        return {
            "epoch": epoch,
            "step": step,
            "best": best,
            "top1": counts and counts.top1,
            "n": counts and counts.n,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
            "ema": average and average.state_dict(),
            "loaders": world.collect(job.train_loader.state()),
            "settings_digest": run["settings_digest"],
            "world": world.size,
        }

    counts = None
    while unevaluated or epoch < settings.epochs:
        if not unevaluated:
            step = train_epoch(job, call, optimizer, scaler, average, book, epoch, step)
            epoch += 1
        unevaluated = False
        evaluated = average.module if average is not None else model
        try:
            counts = validate(job, evaluated)
        except ValueError:
            checkpoint.save(job.folder / "last.pt", state(None))  # the epoch's work is not lost with its evaluation
            raise
        if not np.isfinite(counts.loss):
            raise diverged(job, f"the validation loss is {counts.loss} after epoch {epoch}")
        improved = counts.top1 > best["top1"]
        if improved:
            best = {"top1": counts.top1, "epoch": epoch}
        record = make_record(
            counts,
            model=job.model_name,
            num_classes=len(job.data.classes),
            padding=settings.padding,
            padding_trained=settings.padding,
            power=settings.power,
            on_small=settings.on_small,
            transform=job.transform,
            data=job.data.name,
            manifest_digest=job.data.val.digest,
            run_digest=run["settings_digest"],
            weights_digest=run["weights_digest"],
            loader=settings.data.loader,
            device=device,
            amp=settings.amp,
            ema=average is not None,
            run=run["id"],
            checkpoint="epoch",
            step=step,
            seed=settings.seed,
            canvas_padding=round(job.val_loader.share_of_padding, 4),
        )
        write_record(job.folder, record, counts)
        report_epoch(book, counts, epoch, settings.epochs, step)
        if improved:  # first: a last.pt that names a best epoch must not be without it
            checkpoint.save(job.folder / "best.pt", state(counts))
        checkpoint.save(job.folder / "last.pt", state(counts))
    results = {
        "top1": 100 * counts.top1 / counts.n,
        "best_top1": 100 * best["top1"] / counts.n,
        "loss": counts.loss,
    }
    book.hyperparameters(to_dict(settings, result_only=True), results)
    book.close()
    say_result(job, counts, best)


def train_epoch(job: Job, call, optimizer, scaler, average, book: Logbook, epoch: int, step: int) -> int:
    """Train one epoch from step number `step`; returns the number of the step after it."""
    settings, device = job.settings, job.device
    steps = job.train_loader.steps_per_epoch
    job.model.train()
    # Dropout and the like start anew in every epoch, so that a resumed epoch is the one that was interrupted.
    torch.manual_seed(int(np.random.SeedSequence([settings.seed, epoch, job.world.rank]).generate_state(1)[0]))
    progress = Progress(f"epoch {epoch + 1}/{settings.epochs}", steps, settings.log_seconds)
    loss_sum, hits = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
    images_done, waited, every = 0, 0.0, max(1, steps // 10)
    mark = (time.perf_counter(), loss_sum, hits, 0, 0.0)  # where the last log entry ended

    def since_mark() -> dict[str, float]:
        n = max(images_done - mark[3], 1)
        seconds = time.perf_counter() - mark[0]
        loss, correct = float(loss_sum - mark[1]) / n, int(hits - mark[2])
        if not np.isfinite(loss):
            raise diverged(job, f"the loss is {loss} at step {step} (epoch {epoch + 1})")
        return {
            "train/loss": loss,
            "train/top1": 100 * correct / n,
            "train/images_per_second": n / seconds,
            "train/data_wait_percent": 100 * (waited - mark[4]) / seconds,
            "train/lr": optimizer.param_groups[0]["lr"],
            "train/memory_mb": memory_mb(device),
        }

    def text() -> str:
        v = since_mark()
        return (
            f"loss {v['train/loss']:.3f}  lr {v['train/lr']:.4g}  {v['train/images_per_second']:.0f} images/s  "
            f"data wait {v['train/data_wait_percent']:.0f}%"
        )

    batches = iter(job.train_loader.epoch(epoch))
    try:
        for i in range(steps):
            before = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - before
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings.schedule, settings.optim.lr, settings.epochs, steps)
            images = batch.images.to(memory_format=torch.channels_last) if settings.channels_last else batch.images
            loss, correct = train_step(
                call, images, batch.labels, optimizer, scaler, settings.amp, settings.label_smoothing
            )
            if average is not None:
                average.update(job.model, step=step)
            loss_sum, hits = loss_sum + loss, hits + correct
            images_done += len(batch.labels)
            step += 1
            progress.step(text)
            if (i + 1) % every == 0 or i + 1 == steps:
                book.scalars(step, since_mark())
                mark = (time.perf_counter(), loss_sum, hits, images_done, waited)
        next(batches, None)  # let the loader finish its epoch
    finally:
        progress.close()
    return step


def diverged(job: Job, what: str) -> ValueError:
    """The error of a training that has left the finite numbers."""
    kept = "the last checkpoint is kept" if (job.folder / "last.pt").exists() else "there is no checkpoint yet"
    advice = "try a lower --optim.lr, a --schedule.warmup_epochs, or --amp off"
    return ValueError(f"{what}: training has diverged; {kept}; {advice}")


def validate(job: Job, model: nn.Module) -> Counts:
    """Evaluate on the validation split."""
    settings = job.settings
    progress = Progress("evaluation", len(job.val_loader), settings.log_seconds)
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
        )
    finally:
        progress.close()


def make_average(model: nn.Module, decay: float | None):
    """timm's moving average of the weights, or None."""
    if decay is None:
        return None
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay)


def report_epoch(book: Logbook, counts: Counts, epoch: int, epochs: int, step: int) -> None:
    """One line and the curves of an epoch's evaluation."""
    values = {"val/top1": 100 * counts.top1 / counts.n, "val/loss": counts.loss, "epoch": float(epoch)}
    top5 = ""
    if counts.top5 is not None:
        values["val/top5"] = 100 * counts.top5 / counts.n
        top5 = f", top-5 {percent(counts.top5, counts.n)}"
    book.scalars(step, values)
    say(f"epoch {epoch}/{epochs}: top-1 {percent(counts.top1, counts.n)}{top5}, loss {counts.loss:.3f}")


def say_result(job: Job, counts: Counts, best: dict) -> None:
    """The last lines: the result beside chance, and where it lies."""
    chance = np.bincount(counts.label, minlength=len(job.data.classes)).max() / counts.n
    say(
        f"result: top-1 {percent(counts.top1, counts.n)} at the last epoch with {job.settings.padding} padding; "
        f"chance is {100 * chance:.2f}%; best epoch {best['epoch']}: {100 * best['top1'] / counts.n:.2f}%"
    )
    say(f"run: {job.folder}")
    say(f"next: make eval RUN={job.folder} SIZES={job.settings.size},{2 * job.settings.size} PADS=zeros,partial")
