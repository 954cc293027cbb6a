"""pcpad train: from settings to a trained, evaluated, recorded model."""

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from pcpad import models, weights
from pcpad.config import TrainSettings, digest
from pcpad.data.batch import EvalTransform, TrainTransform
from pcpad.data.catalogue import NAMED, DataSet, open_for_training
from pcpad.data.damage import DamagedImageError
from pcpad.data.loaders import choose_loader, default_workers
from pcpad.data.manifest import check_images, image_sizes, leave_out
from pcpad.data.native import NativeTrainTransform, NativeTransform, native_transform
from pcpad.environment import hardware, keep_freed_memory, num_cores, pick_device
from pcpad.evaluation.record import rewind
from pcpad.padding import convert
from pcpad.padding.modes import canonical
from pcpad.probe import probe, probe_native, refuse_filling
from pcpad.progress import say
from pcpad.training import checkpoint
from pcpad.training.adapting import check_adapting, make_teacher, recalibration_rows
from pcpad.training.checkpoint import Shelf
from pcpad.training.distributed import World, local_rank, this_world
from pcpad.training.loop import Job, fit
from pcpad.training.mixing import augmented_by, check_mixing
from pcpad.training.optimizer import check_optimizer, peak_rate
from pcpad.training.requeue import Requeue, tell_launcher
from pcpad.training.runfolder import EXCLUDED, choose_checkpoint, new_run_folder, own_folder, read_run, write_run
from pcpad.training.schedule import check_schedule
from pcpad.training.signals import Signals, Stopped
from pcpad.training.sizes import SizeOf, sizes_trained_at, which_sizes

CHECK_TRAIN_UP_TO = 60_000
"""Training images that data.check=auto decodes before the run; more are checked as they are read."""


def train(settings: TrainSettings, signals: Signals | None = None) -> Path:
    """Train and evaluate one model; returns the run's folder.

    In a process that torchrun has started this is that process's part of it.

    Args:
        signals: those that ask for a stop; not listened to before the first step if not given.

    Raises:
        ValueError, OSError: for anything the user can mend; a run that has no checkpoint yet leaves nothing behind.
        Stopped: a signal has asked for it; the run can be resumed.
    """
    device = own_device(settings)
    keep_freed_memory(device)
    make_deterministic(settings)
    world = this_world(device)
    try:
        return train_in(world, device, settings, signals)
    finally:
        world.close()


def train_in(world: World, device: torch.device, settings: TrainSettings, signals: Signals | None = None) -> Path:
    """`train`, in one of the processes of a world."""
    name = models.resolve(settings.model)
    # images of one size: the fastest kernel is worth finding
    torch.backends.cudnn.benchmark = not settings.data.native and not settings.deterministic
    loader, loader_name, loader_line = choose_loader(settings.data.loader)
    settings = replace(
        settings,
        model=str(name),
        padding=canonical(settings.padding),
        data=replace(
            settings.data,
            loader=loader_name,
            name=absolute(settings.data.name),
            exclude=settings.data.exclude and str(Path(settings.data.exclude).expanduser().resolve()),
        ),
    )
    if settings.weights and Path(settings.weights).is_file():
        settings = replace(settings, weights=str(Path(settings.weights).resolve()))
    if settings.data.native:
        refuse_filling([settings.padding])
    check_world(settings, world, device)
    check_adapting(settings)
    check_mixing(settings, world.size)
    check_optimizer(settings.optim, device)
    check_schedule(settings.schedule, settings.epochs)
    say(which_data(settings))
    say(f"device: {which_devices(device, world)}; {loader_line}")

    if settings.resume:
        read_run(Path(settings.resume))
    data = world.on_main(lambda: data_of(settings))
    folder = world.on_main(lambda: Path(settings.resume) if settings.resume else new_run_folder(settings, data.name))
    with ExitStack() as stack:
        world.on_main(lambda: stack.enter_context(own_folder(folder, settings)) and None)
        tell_launcher(world, folder)
        data = world.on_main(lambda: check_data(data, settings))
        transform = models.eval_transform(name, settings.preprocess, settings.size, settings.weights)
        facts = {
            "settings_digest": digest(settings),
            "train_digest": data.train.digest,
            "val_digest": data.val.digest,
            "weights_digest": weights_digest(settings.weights),
            "classes": list(data.classes),
            "excluded": data.excluded,
            "augmented_by": augmented_by(settings),
        }
        resume = None
        if settings.resume:
            path = world.on_main(lambda: choose_checkpoint(folder, settings, facts, world))
            resume = checkpoint.load(path)
            if settings.adapt.distill and read_run(folder)["weights_digest"] != facts["weights_digest"]:
                raise ValueError(
                    f"--resume {folder}: the loss compares with the network of the weights {settings.weights}, and "
                    "that file is gone or another one: put it back"
                )
            world.on_main(lambda: rewind(folder, resume["step"], resume["step_in_epoch"] == 0))
        torch.manual_seed(settings.seed)
        distill = settings.adapt.distill > 0
        wanted = settings.weights if distill or not resume else None
        model = models.build(name, len(data.classes), wanted, settings.reset_head, settings.model_kwargs)
        if settings.zero_init and settings.weights is None:
            models.zero_init_residual(model)
        if settings.weights:
            models.scale_input(model, name)
        teacher = make_teacher(model) if distill else None
        surgery = convert(model, settings.padding, power=settings.power, on_small=settings.on_small)
        if settings.sync_bn:
            model = models.sync_batch_norm(model, name)
        if settings.data.native:
            multiple = probe_native(model, str(name), settings.padding, settings.size)
            transform = native_transform(transform, multiple)
        else:
            for size in {*sizes_trained_at(settings), settings.size}:
                probe(model, str(name), settings.padding, size)
        model.to(device, memory_format=torch.channels_last if settings.channels_last else torch.preserve_format)
        if teacher:
            teacher.to(device, memory_format=torch.channels_last if settings.channels_last else torch.preserve_format)
        say(f"model: {name}, {count_parameters(model):,} parameters; {surgery.summary}")
        say(which_batch(settings, world))
        if settings.progressive.start is not None:
            say(which_sizes(settings))
        if not resume:
            world.on_main(lambda: write_run(folder, settings, facts, data, surgery, device, world))
        train_loader, val_loader, calibration = make_loaders(loader, settings, data, transform, device, world)
        say(f"run: {folder}")
        loaders = train_loader, val_loader
        job = Job(settings, str(name), model, data, *loaders, transform, device, world, folder, teacher, calibration)
        marker = Requeue(folder, world)
        try:
            marker.clear()
            fit(job, read_run(folder), resume, signals)
        except Stopped as stop:
            marker.write(stop)
            tell_launcher(world, folder, stop)
            raise
        except KeyboardInterrupt:
            if Shelf(folder).all():
                say(f"\nto go on behind the last checkpoint: make train RUN={folder}")
            raise
        finally:
            train_loader.close()
    return folder


def own_device(settings: TrainSettings) -> torch.device:
    """The device of this process: of several on one machine, each has the GPU of its number."""
    device = pick_device(settings.device)
    if device.type != "cuda":
        return device
    index = local_rank() if int(os.environ.get("LOCAL_WORLD_SIZE", "1")) > 1 else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"gpus={settings.gpus}: this machine has {torch.cuda.device_count()} of them")
    return torch.device("cuda", index)


def check_world(settings: TrainSettings, world: World, device: torch.device) -> None:
    """Refuse a batch that the processes cannot share, and what a CPU cannot do.

    Raises:
        ValueError: names the batch sizes that fit.
    """
    parts = world.size * settings.accumulate
    if settings.batch_size % parts:
        lower = settings.batch_size // parts * parts
        near = " or ".join(str(size) for size in (lower, lower + parts) if size)
        raise ValueError(
            f"batch_size={settings.batch_size} is that of all processes together, and cannot be shared by {world.size} "
            f"processes in {settings.accumulate} parts each: choose {near}"
        )
    if settings.sync_bn and device.type != "cuda":
        raise ValueError(
            f"sync_bn does not exist on the device {device.type}: torch's SyncBatchNorm takes CUDA tensors only; train "
            "without it"
        )


def which_devices(device: torch.device, world: World) -> str:
    """The hardware of one process, and how many there are."""
    one = hardware(device)
    return one if world.size == 1 else f"{world.size} processes, each on {one}"


def which_batch(settings: TrainSettings, world: World) -> str:
    """The global batch and where its learning rate comes from, as one line."""
    share = settings.batch_size // (world.size * settings.accumulate)
    parts = [f"{world.size} processes"] * (world.size > 1) + [f"{settings.accumulate} parts"] * (
        settings.accumulate > 1
    )
    made = f" = {' x '.join([*parts, f'{share} images'])}" if parts else " images"
    rate = peak_rate(settings.optim, settings.batch_size)
    rule = ""
    if settings.optim.lr_batch_size is not None:
        rule = f" = {settings.optim.lr:g} x {settings.batch_size} / {settings.optim.lr_batch_size}"
    return f"batch of a step: {settings.batch_size}{made}; peak learning rate: {rate:g}{rule}"


def make_deterministic(settings: TrainSettings) -> None:
    """Ask torch for algorithms that give the same bits every time."""
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not deterministic without it
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False


def make_loaders(loader, settings: TrainSettings, data: DataSet, transform: EvalTransform, device, world: World):
    """The training and the evaluation loader of one module, for this process's shard, and what makes a third.

    That is of training images as in evaluation, to recalibrate norms with.
    """
    shared = {
        "workers": settings.data.workers or default_workers(),
        "device": device,
        "rank": world.rank,
        "world": world.size,
    }
    augmented = {key: value for key, value in vars(settings.augment).items() if key != "erase"}
    stated = augmented | {"size": settings.size, "mean": transform.mean, "std": transform.std}
    augment, sizes, val_sizes = TrainTransform(**stated), None, None
    if isinstance(transform, NativeTransform):
        augment = NativeTrainTransform(**stated, multiple=transform.multiple)
        sizes, val_sizes = (image_sizes(split, num_cores()) for split in (data.train, data.val))
    share = settings.batch_size // world.size
    batch, eval_batch = share // settings.accumulate, settings.eval_batch_size or share
    train, val = data.train, data.val
    varied = settings.progressive.start is not None
    size_of = SizeOf(settings.progressive, settings.size) if varied else None
    files = train.files, train.labels
    train_loader = loader.TrainLoader(
        *files, augment, batch_size=batch, seed=settings.seed, sizes=sizes, size_of=size_of, **shared
    )
    if train_loader.steps_per_epoch < settings.accumulate:
        raise ValueError(
            f"no training step: {len(train):,} images over {world.size} processes do not fill {settings.accumulate} "
            f"parts of {batch} on each of them; lower --batch_size or --accumulate"
        )
    val_loader = loader.EvalLoader(val.files, val.labels, transform, batch_size=eval_batch, sizes=val_sizes, **shared)

    wanted = settings.adapt.recalibrate
    rows = recalibration_rows(len(train), wanted, eval_batch * world.size, settings.seed) if wanted else []

    def calibration():
        return loader.EvalLoader(
            train.files, train.labels, transform, batch_size=eval_batch, sizes=sizes, rows=rows, **shared
        )

    return train_loader, val_loader, calibration


def absolute(data: str) -> str:
    """A data set's name, or its folder as an absolute path, so that a run can be resumed from anywhere."""
    return data if data in NAMED else str(Path(data).expanduser().resolve())


def weights_digest(source: str | None) -> str | None:
    """Content of a weights file as a digest, or the name of the library's weights."""
    return weights.file_digest(source) if source and Path(source).is_file() else source


def which_data(settings: TrainSettings) -> str:
    """The first line: what is trained on, by which recipe, and how to get the other."""
    name = settings.data.name
    if name == "textures":
        other = "for real images: DATA=/path/with/train/and/val, or IMAGENET=/path for imagenet and the paper's recipe"
        name = "the built-in textures"
    else:
        other = "DATA=textures for the built-in images"
    return f"data: {name}, recipe: {settings.recipe} ({other})"


def data_of(settings: TrainSettings) -> DataSet:
    """The images to train and to evaluate on, less those that data.exclude names; a run that goes on has its copy."""
    data, file = open_for_training(settings.data.name, settings.adapt.imagenet_head), settings.data.exclude
    if file is None:
        return data
    if settings.resume and read_run(Path(settings.resume))["settings"]["data"].get("exclude") == file:
        file = Path(settings.resume, EXCLUDED)
    train = leave_out(data.train, Path(file))
    return replace(data, train=train, excluded=len(data.train) - len(train))


def check_data(data: DataSet, settings: TrainSettings) -> DataSet:
    """Decode images before they are needed, so that a damaged one costs no training time."""
    wanted = settings.data.check
    splits = []
    if wanted != "none":
        splits.append(("val", data.val))
        if wanted == "all" or len(data.train) <= CHECK_TRAIN_UP_TO:
            splits.append(("train", data.train))
    workers = settings.data.workers or num_cores()
    done = 0
    for split, manifest in splits:
        try:
            done += check_images(manifest, workers)
        except DamagedImageError as error:
            if split == "val":
                raise
            way = f"pcpad data check --data {settings.data.name} --out FILE, then --data.exclude FILE"
            raise ValueError(f"{error}; or leave such training images out: {way}") from None
    checked = f"; decoded {done:,} of them as a check" if done else ""
    left_out = f" ({data.excluded:,} left out)" if data.excluded else ""
    say(f"images: {len(data.train):,} train{left_out}, {len(data.val):,} val, {len(data.classes)} classes{checked}")
    return data


def count_parameters(model: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in model.parameters())
