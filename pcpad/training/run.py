"""pcpad train: from settings to a trained, evaluated, recorded model."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import torch
from torch import nn

from pcpad import models, weights
from pcpad.config import TrainSettings, differences, digest, to_dict, yaml_text
from pcpad.data.batch import EvalTransform, TrainTransform
from pcpad.data.catalogue import NAMED, DataSet, open_for_training
from pcpad.data.loaders import choose_loader, default_workers
from pcpad.data.manifest import check_images, image_sizes
from pcpad.data.native import NativeTrainTransform, NativeTransform, native_transform
from pcpad.environment import commit, hardware, num_cores, pick_device, versions
from pcpad.folders import result_folder
from pcpad.padding import SurgeryReport, convert
from pcpad.padding.modes import canonical
from pcpad.probe import probe, probe_native, refuse_filling
from pcpad.training import checkpoint, lock
from pcpad.training.checkpoint import Shelf
from pcpad.training.distributed import World, local_rank, this_world
from pcpad.training.lock import locked
from pcpad.training.logbook import say
from pcpad.training.loop import Job, fit
from pcpad.training.optimizer import peak_rate
from pcpad.training.requeue import Requeue, tell_launcher
from pcpad.training.signals import Stopped

CHECK_TRAIN_UP_TO = 60_000
"""Training images that data.check=auto decodes before the run; more are checked as they are read."""


def train(settings: TrainSettings) -> Path:
    """Train and evaluate one model; returns the run's folder.

    In a process that torchrun has started this is that process's part of it.

    Raises:
        ValueError, OSError: for anything the user can mend; a run that has no checkpoint yet leaves nothing behind.
        Stopped: a signal has asked for it; the run can be resumed.
    """
    device = own_device(settings)
    make_deterministic(settings)
    world = this_world(device)
    try:
        return train_in(world, device, settings)
    finally:
        world.close()


def train_in(world: World, device: torch.device, settings: TrainSettings) -> Path:
    """`train`, in one of the processes of a world."""
    name = models.resolve(settings.model)
    # images of one size: the fastest kernel is worth finding
    torch.backends.cudnn.benchmark = not settings.data.native and not settings.deterministic
    loader, loader_name, loader_line = choose_loader(settings.data.loader)
    settings = replace(
        settings,
        model=str(name),
        padding=canonical(settings.padding),
        data=replace(settings.data, loader=loader_name, name=absolute(settings.data.name)),
    )
    if settings.weights and Path(settings.weights).is_file():
        settings = replace(settings, weights=str(Path(settings.weights).resolve()))
    if settings.data.native:
        refuse_filling([settings.padding])
    check_world(settings, world, device)
    say(which_data(settings))
    say(f"device: {which_devices(device, world)}; {loader_line}")

    if settings.resume:
        read_run(Path(settings.resume))
    data = world.on_main(lambda: open_for_training(settings.data.name))
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
        }
        resume = None
        if settings.resume:
            path = world.on_main(lambda: choose_checkpoint(folder, settings, facts, world))
            resume = checkpoint.load(path)
        torch.manual_seed(settings.seed)
        model = models.build(name, len(data.classes), None if resume else settings.weights, settings.reset_head)
        if settings.zero_init and settings.weights is None:
            models.zero_init_residual(model)
        if settings.weights:
            models.scale_input(model, name)
        surgery = convert(model, settings.padding, power=settings.power, on_small=settings.on_small)
        if settings.sync_bn:
            model = models.sync_batch_norm(model, name)
        if settings.data.native:
            multiple = probe_native(model, str(name), settings.padding, settings.size)
            transform = native_transform(transform, multiple)
        else:
            probe(model, str(name), settings.padding, settings.size)
        model.to(device, memory_format=torch.channels_last if settings.channels_last else torch.preserve_format)
        say(f"model: {name}, {count_parameters(model):,} parameters; {surgery.summary}")
        say(which_batch(settings, world))
        if not resume:
            world.on_main(lambda: write_run(folder, settings, facts, data, surgery, device, world))
        say(f"run: {folder}")
        train_loader, val_loader = make_loaders(loader, settings, data, transform, device, world)
        job = Job(settings, str(name), model, data, train_loader, val_loader, transform, device, world, folder)
        marker = Requeue(folder, world)
        try:
            marker.clear()
            fit(job, read_run(folder), resume)
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
    index = local_rank() if settings.gpus > 1 else device.index
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


@contextmanager
def own_folder(folder: Path, settings: TrainSettings) -> Iterator[None]:
    """The run's folder for this start alone; on an error without a checkpoint what was made in it is removed."""
    with locked(folder):
        if not settings.resume:
            refuse_occupied(folder, settings)
        Shelf(folder).sweep_temporary()
        with result_folder(folder, f"{checkpoint.FOLDER}/last.pt"):
            yield


def choose_checkpoint(folder: Path, settings: TrainSettings, facts: dict, world: World) -> Path:
    """The checkpoint to go on from: the newest intact one; with another number of processes, of an epoch's end.

    Raises:
        ValueError: there is none, or the run has other settings or images.
    """
    shelf = Shelf(folder)
    content, path, damaged = shelf.newest()
    if content is not None and content["world"] != world.size and content["step_in_epoch"]:
        was = f"the run was stopped inside epoch {content['epoch'] + 1}, with {content['world']} processes"
        now = f"with {world.size} it can go on from the end of an epoch only"
        content, path, more = shelf.newest(only_epoch_ends=True)
        damaged += [one for one in more if one not in damaged]
        if content is None:
            raise ValueError(f"--resume {folder}: {was}; {now}, and there is no checkpoint of one yet")
        say(f"note: {was}; {now}: what was done after step {content['step']} is done again")
    for text in damaged:
        say(f"warning: {text}; going on from the checkpoint before it")
    if content is None:
        raise ValueError(f"--resume {folder}: there is no checkpoint in it: the run was not trained for an epoch")
    check_resume(folder, settings, facts)
    inside = f" and {content['step_in_epoch']} steps" if content["step_in_epoch"] else ""
    say(f"resuming {folder} after epoch {content['epoch']}{inside} (step {content['step']})")
    return path


def make_loaders(loader, settings: TrainSettings, data: DataSet, transform: EvalTransform, device, world: World):
    """The training and the evaluation loader of one module, for this process's shard."""
    shared = {
        "workers": settings.data.workers or default_workers(),
        "device": device,
        "rank": world.rank,
        "world": world.size,
    }
    stated = vars(settings.augment) | {"size": settings.size, "mean": transform.mean, "std": transform.std}
    augment, sizes, val_sizes = TrainTransform(**stated), None, None
    if isinstance(transform, NativeTransform):
        augment = NativeTrainTransform(**stated, multiple=transform.multiple)
        sizes, val_sizes = (image_sizes(split, num_cores()) for split in (data.train, data.val))
    share = settings.batch_size // world.size
    batch, eval_batch = share // settings.accumulate, settings.eval_batch_size or share
    train, val = data.train, data.val
    train_loader = loader.TrainLoader(
        train.files, train.labels, augment, batch_size=batch, seed=settings.seed, sizes=sizes, **shared
    )
    val_loader = loader.EvalLoader(val.files, val.labels, transform, batch_size=eval_batch, sizes=val_sizes, **shared)
    return train_loader, val_loader


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


def check_data(data: DataSet, settings: TrainSettings) -> DataSet:
    """Decode images before they are needed, so that a damaged one costs no training time."""
    wanted = settings.data.check
    splits = []
    if wanted != "none":
        splits.append(("val", data.val))
        if wanted == "all" or len(data.train) <= CHECK_TRAIN_UP_TO:
            splits.append(("train", data.train))
    workers = settings.data.workers or num_cores()
    done = sum(check_images(manifest, workers) for _, manifest in splits)
    checked = f"; decoded {done:,} of them as a check" if done else ""
    say(f"images: {len(data.train):,} train, {len(data.val):,} val, {len(data.classes)} classes{checked}")
    return data


def count_parameters(model: nn.Module) -> int:
    """Number of weights."""
    return sum(p.numel() for p in model.parameters())


def new_run_folder(settings: TrainSettings, data: str) -> Path:
    """Where a run goes: ``--out``, or a name below runs/ that says what it is and when it began.

    Raises:
        ValueError: ``--out`` is there and not empty.
    """
    if settings.out is None:
        short = settings.model.partition("/")[2].replace("/", "_")
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        return Path("runs") / f"{short}-{settings.padding}-{data}-s{settings.seed}-{stamp}"
    folder = Path(settings.out)
    refuse_occupied(folder, settings)
    return folder


def refuse_occupied(folder: Path, settings: TrainSettings) -> None:
    """Raise ValueError unless a new run can go to `folder`: it is not there, or empty but for its lock.

    If a run is there, the message says what is different in it.
    """
    if not folder.exists() or (folder.is_dir() and not {path.name for path in folder.iterdir()} - {lock.NAME}):
        return
    if not (folder / "run.json").is_file():
        raise ValueError(f"{folder} exists and is not empty: choose another --out")
    changed = changed_settings(read_run(folder), settings)
    raise ValueError(
        f"{folder} exists and is not empty: it holds a run with "
        + (f"other settings ({'; '.join(changed)}): choose another --out, " if changed else "these settings: ")
        + f"{'or ' if changed else ''}continue it with --resume {folder}"
        + ("" if changed else ", or choose another --out")
    )


def write_run(
    folder: Path,
    settings: TrainSettings,
    facts: dict,
    data: DataSet,
    surgery: SurgeryReport,
    device: torch.device,
    world: World,
) -> None:
    """Write settings.yaml, run.json (what the run is) and surgery.json (what convert did)."""
    (folder / "settings.yaml").write_text(yaml_text(replace(settings, out=None)))
    about = {
        "id": f"{folder.resolve().name}-{uuid4().hex[:6]}",
        "command": [os.path.basename(sys.argv[0]), *sys.argv[1:]],
        **facts,
        "data": data.name,
        "settings": to_dict(settings),
        "commit": commit(),
        "versions": versions(),
        "hardware": hardware(device),
        "processes": world.size,
    }
    (folder / "run.json").write_text(json.dumps(about, indent=1) + "\n")
    (folder / "surgery.json").write_text(json.dumps(surgery.to_dict(), indent=1) + "\n")


def read_run(folder: Path) -> dict:
    """``run.json`` of a run's folder; raises ValueError if there is none."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run: there is no {path}")
    return json.loads(path.read_text())


def check_resume(folder: Path, settings: TrainSettings, facts: dict) -> None:
    """Raise ValueError unless settings and data are those the run was started with; names every difference."""
    old = read_run(folder)
    if old["settings_digest"] != facts["settings_digest"]:
        raise ValueError(
            f"--resume {folder}: the run has other settings: {'; '.join(changed_settings(old, settings))}; "
            "start a new run to change them"
        )
    for key in ("train_digest", "val_digest", "classes"):
        if old[key] != facts[key]:
            raise ValueError(
                f"--resume {folder}: the images are not those the run was started with ({key.replace('_', ' ')} "
                "differs); restore them, or start a new run"
            )


def changed_settings(old: dict, settings: TrainSettings) -> list[str]:
    """Lines ``"name: was -> is"`` of what is different from a run's settings and changes a result."""
    now = json.loads(json.dumps(to_dict(settings, result_only=True)))
    before = {key: value for key, value in old["settings"].items() if key in now}
    lines = [line for line in differences(before, now) if not line.startswith("data.")]
    was, now_is = before["data"].get("loader"), now["data"].get("loader")
    return [*lines, *([f"data.loader: {was} -> {now_is}"] if was != now_is else [])]
