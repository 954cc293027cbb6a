"""pcpad train: from settings to a trained, evaluated, recorded model."""

import json
import os
import sys
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
from pcpad.training import checkpoint
from pcpad.training.distributed import World, this_world
from pcpad.training.logbook import say
from pcpad.training.loop import Job, fit

CHECK_TRAIN_UP_TO = 60_000
"""Training images that data.check=auto decodes before the run; more are checked as they are read."""


def train(settings: TrainSettings) -> Path:
    """Train and evaluate one model; returns the run's folder.

    Raises:
        ValueError, OSError: for anything the user can mend; a run that has no checkpoint yet leaves nothing behind.
    """
    world = this_world()
    device = pick_device(settings.device)
    name = models.resolve(settings.model)
    # images of one size: the fastest kernel is worth finding
    torch.backends.cudnn.benchmark = not settings.data.native
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
    say(which_data(settings))
    say(f"device: {hardware(device)}; {loader_line}")

    resume = read_resume(settings) if settings.resume else None
    data = open_for_training(settings.data.name)
    folder = Path(settings.resume) if resume else new_run_folder(settings, data.name)
    with result_folder(folder, "last.pt"):
        check_data(data, settings)
        transform = models.eval_transform(name, settings.preprocess, settings.size, settings.weights)
        facts = {
            "settings_digest": digest(settings),
            "train_digest": data.train.digest,
            "val_digest": data.val.digest,
            "weights_digest": weights_digest(settings.weights),
            "classes": list(data.classes),
        }
        if resume:
            check_resume(resume, folder, settings, facts)
        torch.manual_seed(settings.seed)
        model = models.build(name, len(data.classes), None if resume else settings.weights, settings.reset_head)
        if settings.zero_init and settings.weights is None:
            models.zero_init_residual(model)
        if settings.weights:
            models.scale_input(model, name)
        surgery = convert(model, settings.padding, power=settings.power, on_small=settings.on_small)
        if settings.data.native:
            multiple = probe_native(model, str(name), settings.padding, settings.size)
            transform = native_transform(transform, multiple)
        else:
            probe(model, str(name), settings.padding, settings.size)
        model.to(device, memory_format=torch.channels_last if settings.channels_last else torch.preserve_format)
        say(f"model: {name}, {count_parameters(model):,} parameters; {surgery.summary}")
        if not resume:
            write_run(folder, settings, facts, data, surgery, device)
        say(f"run: {folder}")
        train_loader, val_loader = make_loaders(loader, settings, data, transform, device, world)
        job = Job(settings, str(name), model, data, train_loader, val_loader, transform, device, world, folder)
        try:
            fit(job, read_run(folder), resume)
        except KeyboardInterrupt:
            if (folder / "last.pt").exists():
                say(f"\nto go on behind the last finished epoch: make train RUN={folder}")
            raise
        finally:
            train_loader.close()
    return folder


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
    batch, eval_batch = settings.batch_size // world.size, settings.eval_batch_size or settings.batch_size
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


def check_data(data: DataSet, settings: TrainSettings) -> None:
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
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(
            f"{folder} exists and is not empty: continue it with --resume {folder}, or choose another --out"
        )
    return folder


def write_run(
    folder: Path,
    settings: TrainSettings,
    facts: dict,
    data: DataSet,
    surgery: SurgeryReport,
    device: torch.device,
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
    }
    (folder / "run.json").write_text(json.dumps(about, indent=1) + "\n")
    (folder / "surgery.json").write_text(json.dumps(surgery.to_dict(), indent=1) + "\n")


def read_run(folder: Path) -> dict:
    """``run.json`` of a run's folder; raises ValueError if there is none."""
    path = Path(folder) / "run.json"
    if not path.is_file():
        raise ValueError(f"{folder} is no run: there is no {path}")
    return json.loads(path.read_text())


def read_resume(settings: TrainSettings) -> dict:
    """The last checkpoint of the run to be continued."""
    read_run(Path(settings.resume))
    return checkpoint.load(Path(settings.resume) / "last.pt")


def check_resume(content: dict, folder: Path, settings: TrainSettings, facts: dict) -> None:
    """Raise ValueError unless settings and data are those the run was started with; names every difference."""
    old = read_run(folder)
    if old["settings_digest"] != facts["settings_digest"]:
        now = json.loads(json.dumps(to_dict(settings, result_only=True)))
        before = {k: v for k, v in old["settings"].items() if k in now}
        changed = [line for line in differences(before, now) if not line.startswith("data.")]
        raise ValueError(
            f"--resume {folder}: the run has other settings: {'; '.join(changed) or 'data.loader'}; "
            "start a new run to change them"
        )
    for key in ("train_digest", "val_digest", "classes"):
        if old[key] != facts[key]:
            raise ValueError(
                f"--resume {folder}: the images are not those the run was started with ({key.replace('_', ' ')} "
                "differs); restore them, or start a new run"
            )
    say(f"resuming {folder} after epoch {content['epoch']}")
