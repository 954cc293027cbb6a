"""The training loop: steps are the only clock, an epoch ends with an evaluation, a record and a checkpoint."""

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pcpad.config import TrainSettings, to_dict
from pcpad.data.batch import Batch, EvalTransform
from pcpad.data.catalogue import DataSet
from pcpad.evaluation.counts import autocast
from pcpad.evaluation.record import percent
from pcpad.padding.modes import power_of
from pcpad.progress import say
from pcpad.ragged import RaggedBatch
from pcpad.training.adapting import freeze_norms, power_after, put_power, towards_teacher
from pcpad.training.beginning import begin
from pcpad.training.checkpoint import Shelf
from pcpad.training.distributed import World, parallel
from pcpad.training.ending import finish_epoch, say_result
from pcpad.training.fused import is_fused
from pcpad.training.guard import Later, Step, all_finite, diverged, gradients, look_at, only_if
from pcpad.training.logbook import Logbook
from pcpad.training.mixing import hits_of, loss_of, make_mixing
from pcpad.training.optimizer import make_optimizer, peak_rate
from pcpad.training.schedule import learning_rate
from pcpad.training.signals import Signals, Stopped, code_of, name_of
from pcpad.training.state import State, make_average, seed_epoch
from pcpad.training.watch import Watch

LEAST_SCALE = 2.0**-10
"""Loss scale of fp16 below which training has diverged: it is halved at each step whose gradient is not finite."""


@dataclass
class Job:
    """All that a training needs; the model is on its device, the loaders are those of one loader module.

    Attributes:
        teacher: the unconverted network, where the loss compares with its outputs.
        calibration: makes the loader of the images that norms are recalibrated with.
    """

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
    teacher: nn.Module | None = None
    calibration: object = None


class Training:
    """A job under way: its state, the model as it is called, and what it writes to.

    Attributes:
        steps: optimizer steps of an epoch.
        mix: what is done to a batch before it is trained on, or None.
        recalibrated: whether the statistics of its norms were shifted.
        power: exponent of the ratio that the network has now.
        saved: when the last checkpoint was written, on the clock of time.monotonic, and after which step.
        unseen: the last step, where it is not known yet whether its numbers are finite.
    """

    def __init__(self, job: Job, run: dict, resume: dict | None, signals: Signals):
        settings, world = job.settings, job.world
        self.job, self.run, self.signals = job, run, signals
        self.steps = job.train_loader.steps_per_epoch // settings.accumulate
        optimizer = make_optimizer(job.model, settings.optim)
        scaler = torch.amp.GradScaler(job.device.type, enabled=settings.amp == "fp16")
        self.state = State(job.model, optimizer, scaler, make_average(job.model, settings.ema))
        if resume:
            self.state.load(resume, world)
        self.model = parallel(job.model, job.device, world)
        self.call = torch.compile(self.model) if settings.compile else self.model
        self.shelf = Shelf(job.folder, settings.save.keep)
        self.book = Logbook(job.folder, self.state.step) if world.is_main else None
        self.saved = time.monotonic(), self.state.step
        self.recalibrated = bool(resume and resume.get("recalibrated"))
        self.mix = make_mixing(settings, len(job.data.classes), job.device)
        self.power = power_of(settings.padding, settings.power)
        self.unseen: Step | None = None

    def settle(self) -> None:
        """Wait for the last step; all processes have to call it, before anything is made of its result.

        Raises:
            ValueError: as of `train_on`.
        """
        if self.unseen is not None:
            step, self.unseen = self.unseen, None
            look_at(self, step)

    def ramp(self) -> None:
        """Put the network to the power that is due after the steps so far."""
        power = power_after(self.state.step, self.job.settings, self.steps)
        if power != self.power:
            self.power = power
            for model in {self.state.model, self.state.evaluated}:
                put_power(model, self.job.settings, power)

    def save(self, loader: dict, best: bool = False) -> None:
        """Write a checkpoint; all processes have to call it, the main one writes.

        Args:
            loader: the state of this process's training loader after the last step.
        """
        state, world = self.state, self.job.world
        content = state.save(loader, world) | {"settings_digest": self.run["settings_digest"], "power": self.power}
        content["recalibrated"] = self.recalibrated
        settings = self.job.settings
        content["network"] = {"name": self.job.model_name, "model_kwargs": settings.model_kwargs}
        stated = {"padding": settings.padding, "size": settings.size, "weights": settings.weights}
        content["network"] |= stated | {"preprocess": asdict(settings.preprocess)}
        world.on_main(lambda: self.shelf.put(content, epoch_end=state.step_in_epoch == 0, best=best) and None)
        self.saved = time.monotonic(), state.step

    def wants_save(self) -> bool:
        """Whether a checkpoint inside the epoch is due; the main process decides for all."""
        save, state = self.job.settings.save, self.state
        before, step = self.saved
        if not self.job.world.is_main or state.step_in_epoch in (0, self.steps) or state.step == step:
            return False
        due = save.every_steps is not None and state.step % save.every_steps == 0
        return due or time.monotonic() - before >= 60 * save.every_minutes

    def stop(self, code: int, loader: dict) -> Stopped:
        """Save, and return what is to be raised."""
        name, step = name_of(code), self.state.step
        if step == 0 or self.state.step_in_epoch:  # else the end of the epoch is saved, with its result
            self.save(loader)
        how = f"make train RUN={self.job.folder}"
        return Stopped(name, f"stopped by {name} after step {step}; all that is needed to go on is saved: {how}")


def fit(job: Job, run: dict, resume: dict | None = None, signals: Signals | None = None) -> None:
    """Train to the last epoch, then say what came of it.

    Args:
        run: the content of run.json.
        resume: a checkpoint to continue from.
        signals: those that ask for a stop; its own if not given.

    Raises:
        ValueError: the loss or the gradient is no longer finite, or an image is damaged. OSError: a file cannot be
            written. Stopped: a signal has asked for it, and a checkpoint was written.
    """
    settings = job.settings
    if resume and resume["epoch"] >= settings.epochs:
        result = f": top-1 {percent(resume['top1'], resume['n'])}" if resume.get("n") else ""
        say(f"the run is finished: {resume['epoch']} of {settings.epochs} epochs{result}; in {job.folder}")
        return
    if resume:
        states = [rank["loader"] for rank in resume["ranks"]]
        moved = resume["world"] != job.world.size
        job.train_loader.restore(states[0 if moved else job.world.rank], other_world=moved)
    with signals or Signals() as signals:
        signals.wait()
        training = Training(job, run, resume, signals)
        state = training.state
        with training.book or nullcontext():
            counts = begin(training) if state.step == 0 else None
            while state.epoch < settings.epochs:
                if state.step_in_epoch < training.steps or job.train_loader.state()["epoch"] == state.epoch:
                    train_epoch(training)
                counts = finish_epoch(training)
            if job.world.is_main:
                results = {
                    "top1": 100 * counts.top1 / counts.n,
                    "best_top1": 100 * state.best["top1"] / counts.n,
                    "loss": counts.loss,
                }
                training.book.hyperparameters(to_dict(settings, result_only=True), results)
        if job.world.is_main:
            say_result(job, counts, state.best)


def train_epoch(training: Training) -> None:
    """Train what is left of an epoch; a stop that was asked for comes after a whole step."""
    job, state, settings, world = training.job, training.state, training.job.settings, training.job.world
    job.model.train()
    if settings.adapt.freeze_norms:
        freeze_norms(job.model)
    training.ramp()  # a stop before the first step saves the power that is in force
    if state.step_in_epoch == 0:
        seed_epoch(settings.seed, state.epoch, world.rank)
        state.sums = state.new_sums()
    watch = Watch(training)
    every = max(1, training.steps // 10)
    peak = peak_rate(settings.optim, settings.batch_size)
    batches = job.train_loader.epoch(state.epoch)
    try:
        for i in range(state.step_in_epoch, training.steps):
            before = job.train_loader.state()
            parts, error = watch.fetch(batches, settings.accumulate)
            check_agreed(training, before, error)
            training.ramp()
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(state.step, settings.schedule, peak, settings.epochs, training.steps)
            train_on(training, parts)
            state.step += 1
            state.step_in_epoch = i + 1
            watch.step(sum(len(part.labels) for part in parts))
            if (i + 1) % every == 0 or i + 1 == training.steps:
                training.settle()  # no curve has what is not finite, and it is waited for here anyway
                watch.write()
        before = job.train_loader.state()
        _, error = watch.fetch(batches, 0)  # let the loader finish its epoch
        check_agreed(training, before, error, None if error else job.train_loader.state())
    finally:
        watch.close()


def check_agreed(training: Training, loader: dict, error: Exception | None, ended: dict | None = None) -> None:
    """What all processes decide alike between two steps: whether one has failed to read, to stop, to save.

    Args:
        loader: the state of this process's loader after the last step.
        error: what this process met when it read the next batch. After a signal it is not looked at: the system may
            have stopped the workers too.
        ended: at the end of an epoch its loader's state behind it; where a process has not come there, all go on from
            before.
    """
    world = training.job.world
    asked = code_of(training.signals.asked)
    failed, stop, save = world.agree(error is not None, asked, training.wants_save())
    if stop or failed or save:
        training.settle()
    if stop:
        raise training.stop(stop, ended if ended and not failed else loader)
    if failed:
        world.share(error)
    if save:
        training.save(loader)


def train_on(training: Training, parts: list[Batch]) -> None:
    """One optimizer step on the parts of a batch.

    Where the optimizer is fused, it is not waited for, but the step before it is (`training.unseen`).

    Raises:
        ValueError: the loss or the gradient is not finite, here or in another process, of this step or of the one
            before. Weights are as before where it is; the moving average of them may not be, nor the weights of other
            processes.
    """
    job, state, world, settings = training.job, training.state, training.job.world, training.job.settings
    if training.mix is not None:
        key = (settings.seed, state.epoch, state.step_in_epoch, world.rank)
        parts = [training.mix(part, *key, number) for number, part in enumerate(parts)]

    def pass_over(number: int, joins: bool) -> tuple[Tensor, Tensor]:
        """Forward and backward of one part; whether the gradients of all processes are joined in it."""
        part = parts[number]
        with nullcontext() if joins or world.size == 1 else training.model.no_sync():
            images = part.images.to(memory_format=torch.channels_last) if settings.channels_last else part.images
            teach = job.teacher and (job.teacher, settings.adapt.distill)
            how = {"amp": settings.amp, "label_smoothing": settings.label_smoothing, "kind": settings.loss}
            return backward(training.call, images, part.labels, state.scaler, parts=len(parts), teach=teach, **how)

    def alone() -> None:
        state.optimizer.zero_grad(set_to_none=True)
        for number in range(len(parts)):
            pass_over(number, joins=False)

    state.optimizer.zero_grad(set_to_none=True)
    passes = [pass_over(number, joins=number + 1 == len(parts)) for number in range(len(parts))]
    loss, hits = (sum(values) for values in zip(*passes, strict=True))
    images = sum(len(part.labels) for part in parts)
    state.sums.add(loss, hits, images)
    scaled, before = state.scaler.is_enabled(), training.unseen
    fine = all_finite(loss, [] if scaled else gradients(state.optimizer))
    if before is not None:
        fine = fine & before.fine.value
    step = Step(state.step + 1, state.epoch + 1, Later(fine), loss / images, alone if world.size > 1 else None)
    if is_fused(state.optimizer) and not scaled:
        with only_if(fine, state.optimizer):
            optimizer_step(state)
        training.unseen = step
        if before is not None:
            look_at(training, before)
        return
    look_at(training, step)
    optimizer_step(state)
    if scaled and any(world.agree(state.scaler.get_scale() < LEAST_SCALE)):
        raise diverged(training.shelf, f"the gradient is not finite at any loss scale at step {state.step + 1}")


def backward(
    model: nn.Module,
    images: Tensor | RaggedBatch,
    labels: Tensor,
    scaler: torch.amp.GradScaler,
    amp: str,
    label_smoothing: float,
    parts: int = 1,
    kind: str = "ce",
    teach: tuple[nn.Module, float] | None = None,
) -> tuple[Tensor, Tensor]:
    """Forward and backward pass of one batch, or of one of the `parts` of equal size that make up a batch.

    Args:
        images: float32 ``(B, 3, H, W)``, or a RaggedBatch of such images.
        labels: int64 ``(B,)``, or shares of the classes, float32 ``(B, C)``.
        kind: of the loss, as in `loss_of`.
        teach: a network, and the share of the loss that compares with its outputs.

    Returns:
        Sum of the loss over the images (float32) and number of correct predictions (int64), both 0-d on the device.
    """
    with autocast(images.device, amp):
        logits = model(images)
        logits = logits if logits.dtype == torch.float64 else logits.float()
        loss = loss_of(logits, labels, kind, label_smoothing)
        if teach:
            with torch.no_grad():
                taught = teach[0](images)
            loss = towards_teacher(loss, logits, taught, teach[1])
    scaler.scale(loss / parts if parts > 1 else loss).backward()
    return loss.detach() * len(labels), hits_of(logits, labels)


def optimizer_step(state: State) -> None:
    """Update the weights, the loss scale and the moving average from the gradients that are there."""
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update(state.model, step=state.step)
