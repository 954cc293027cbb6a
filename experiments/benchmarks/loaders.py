"""Images per second of the loaders: pcpad's two, torchvision's and timm's; DALI's and PIL's work alone.

    python experiments/benchmarks/loaders.py --data /path/to/photographs --workers 2

All read the same files with the same number of threads or processes: a random resized crop to 224 pixels by one law,
bilinear, a flip, and normalised float32 batches on the device; with ``--evaluation`` the shorter side resized to 256
and the middle 224 pixels, in order. Each runs in processes of its own, in turn with the others, pcpad's with the memory
kept as in a training, the peers' once without and once with it (``--together``: all in one process, where starting
takes longer than measuring). Rates are those of a loader under way: the clock starts after the first batches. Writes
loaders-<device>.json, or loaders-evaluation-<device>.json.
"""

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing

from pcpad.data import dali, reference
from pcpad.data.batch import EvalTransform, TrainTransform
from pcpad.data.loaders import default_workers
from pcpad.data.manifest import class_folders, list_images
from pcpad.environment import keep_freed_memory

HERE = Path(__file__).resolve().parent
KEPT = ", memory kept"  # as pcpad keeps it on a CPU
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
CROP = 0.875  # of the resized image's shorter side, in an evaluation


def warm(workers: int) -> int:
    """Batches before the clock starts: more than any loader prepares ahead, which torch's does two for each worker."""
    return max(6, 2 * workers + 2)


def tensors(path: str) -> torch.Tensor:
    """An image as torchvision's own decoder gives it."""
    return decode_image(path, ImageReadMode.RGB)


def resizing(size: int, evaluation: bool) -> v2.Transform:
    """torchvision's transform of an image to the pixels that are normalised, but for the flip."""
    if not evaluation:
        return v2.RandomResizedCrop(size, SCALE, RATIO, antialias=True)
    return v2.Compose([v2.Resize(int(size / CROP), antialias=True), v2.CenterCrop(size)])


def torchvision_loader(options: argparse.Namespace, number: int, on_tensors: bool) -> DataLoader:
    """ImageFolder and torchvision's transforms, of PIL images as its reference trainings have them, or of tensors."""
    steps = [resizing(options.size, options.evaluation)]
    steps += [] if options.evaluation else [v2.RandomHorizontalFlip()]
    steps += [] if on_tensors else [v2.PILToTensor()]
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    folder = ImageFolder(options.data, v2.Compose(steps), **({"loader": tensors} if on_tensors else {}))
    folder.samples = repeated(folder.samples, number)
    workers = {"num_workers": options.workers, "persistent_workers": True, "pin_memory": options.pin}
    return DataLoader(folder, options.batch, shuffle=not options.evaluation, drop_last=True, **workers)


def timm_loader(options: argparse.Namespace, number: int) -> DataLoader:
    """timm's loader with its prefetcher where that works (on a GPU), without any augmentation beyond crop and flip."""
    from timm.data import create_dataset, create_loader

    dataset = create_dataset("", root=options.data)
    dataset.reader.samples = repeated(list(dataset.reader.samples), number)
    return create_loader(
        dataset,
        (3, options.size, options.size),
        options.batch,
        is_training=not options.evaluation,
        crop_pct=CROP,
        no_aug=False,
        scale=SCALE,
        ratio=RATIO,
        hflip=0.5,
        color_jitter=None,
        interpolation="bilinear",
        mean=MEAN,
        std=STD,
        num_workers=options.workers,
        use_prefetcher=options.pin,
        pin_memory=options.pin,
        persistent_workers=True,
    )


def bare(options: argparse.Namespace, files: list[str], crop: bool) -> Iterator:
    """Batches of images that DALI decodes, whole or as far as a random crop reaches, and does nothing more with."""
    from nvidia.dali import fn
    from nvidia.dali.pipeline import Pipeline

    pipeline = Pipeline(options.batch, options.workers, None if options.device.type == "cpu" else 0)
    with pipeline:
        encoded, _ = fn.readers.file(files=files, random_shuffle=not options.evaluation)
        decode = fn.decoders.image_random_crop if crop else fn.decoders.image
        area = {"random_area": list(SCALE), "random_aspect_ratio": list(RATIO)} if crop else {}
        pipeline.set_outputs(decode(encoded, device="cpu" if options.device.type == "cpu" else "mixed", **area))
    pipeline.build()
    return (pipeline.run() for _ in range(len(files) // options.batch))


def pil_alone(options: argparse.Namespace, files: list[str]) -> Iterator:
    """Batches that PIL's decoding and resizing alone would make with as many cores: no loader, tensors or batches."""
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(options.workers) as pool:
        wanted = len(files)
        given = ([options.size] * wanted, [options.evaluation] * wanted)
        for i, _ in enumerate(pool.map(decode_by_pil, files, *given, chunksize=16)):
            if (i + 1) % options.batch == 0:
                yield None


def decode_by_pil(path: str, size: int, evaluation: bool) -> None:
    """What PIL does of an image for either peer."""
    with Image.open(path) as image:
        resizing(size, evaluation)(image.convert("RGB"))


def repeated(items: list, number: int) -> list:
    """So many items: those of the list, again and again."""
    return (items * -(-number // len(items)))[:number]


def rate(epoch: Iterator, batch: int, device: torch.device, first: int) -> float:
    """Images per second of an epoch, from its batch number `first` to its last."""
    start, count = 0.0, 0
    for step, made in enumerate(epoch):
        if isinstance(made, (list, tuple)) and isinstance(made[0], torch.Tensor):
            made = [part.to(device, non_blocking=True) for part in made[:2]]
        if step + 1 == first:
            timing.synchronise(device)
            start = time.perf_counter()
        count = step + 1 - first
    timing.synchronise(device)
    if count < 1:
        raise SystemExit(f"an epoch has {count + first} batches, and the clock starts after {first}: --batch smaller")
    return count * batch / (time.perf_counter() - start)


def loader(options: argparse.Namespace, name: str) -> Iterator:
    """One epoch of a loader."""
    folder = ImageFolder(options.data)
    batches = -(-options.images // options.batch) + warm(options.workers)
    number = -(-batches // options.workers) * options.workers * options.batch  # as many for each process
    files, labels = map(list, zip(*repeated(folder.samples, number), strict=True))
    if name.startswith("pcpad") or name.endswith(KEPT):
        keep_freed_memory(options.device)  # the processes of a loader inherit it
    name = name.removesuffix(KEPT)
    if name.startswith("pcpad"):
        if name == "pcpad, DALI, packed":
            root = Path(options.packed)
            images = list_images(root, {folder: label for label, folder in enumerate(class_folders(root))})
            files, labels = images.files, images.labels
        module = reference if name == "pcpad, torchvision" else dali
        shared = {"batch_size": options.batch, "workers": options.workers, "device": options.device}
        labels = np.array(labels)
        if options.evaluation:
            transform = EvalTransform(options.size, CROP, "bilinear", MEAN, STD)
            return iter(module.EvalLoader(files, labels, transform, **shared))
        transform = TrainTransform(options.size, SCALE, RATIO, 0.5, "bilinear", MEAN, STD)
        return module.TrainLoader(files, labels, transform, **shared, seed=0).epoch(0)
    if name.startswith("decoding"):
        return bare(options, files, name == "decoding of the crops")
    if name == "PIL alone":
        random.shuffle(files)
        return pil_alone(options, files)
    made = timm_loader(options, number) if name == "timm" else None
    return iter(made or torchvision_loader(options, number, name == "torchvision, tensors"))


def one(options: argparse.Namespace, name: str) -> float:
    """Images per second of a loader, once."""
    return rate(loader(options, name), options.batch, options.device, warm(options.workers))


NAMES = ["torchvision, PIL", "pcpad, DALI", "pcpad, torchvision", "torchvision, tensors", "timm"]
NAMES += ["decoding of whole images", "decoding of the crops", "PIL alone", "pcpad, DALI, packed"]
NAMES += [f"torchvision, PIL{KEPT}", f"timm{KEPT}"]


def main(argv: list[str] | None = None) -> int:
    """Measure, print each rate, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, help="folder of a folder for each class")
    parser.add_argument("--packed", help="a split of the same images in the packed form (pcpad data pack)")
    parser.add_argument("--ways", nargs="+", choices=NAMES, help="all of them if not given")
    parser.add_argument("--workers", type=int, default=default_workers(), help="threads or processes of each loader")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--evaluation", action="store_true", help="the loaders of an evaluation")
    parser.add_argument("--images", type=int, default=6000, help="at least so many are timed; files are repeated")
    parser.add_argument("--together", action="store_true", help="all in this process")
    parser.add_argument("--cold", action="store_true", help="empty the system's file cache before each (as root)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=NAMES, help="measure this one, once, in this process")
    options = parser.parse_args(argv)
    options.device = timing.device_here(parser, options.device)
    timing.check_data(parser, options.data)
    no_way = {"pcpad, DALI, packed": not options.packed, "decoding of the crops": options.evaluation}
    no_way |= {name: options.device.type != "cpu" for name in NAMES if name.endswith(KEPT)}
    options.ways = options.ways or [name for name in NAMES if not no_way.get(name)]
    options.pin = options.device.type == "cuda"
    if options.together:
        timing.check_together(parser, options.device)
    if options.one:
        print(json.dumps(one(options, options.one)))
        return 0
    found: dict[str, list[float]] = {name: [] for name in options.ways}
    order, arguments = list(options.ways), sys.argv[1:] if argv is None else argv
    rng = random.Random(0)
    for repeat in range(options.repeats):
        rng.shuffle(order)
        for name in order:
            if options.cold:
                os.sync()
                Path("/proc/sys/vm/drop_caches").write_text("3")
            if options.together:
                found[name].append(one(options, name))
            else:
                found[name].append(timing.apart(__file__, [*arguments, "--one", name]))
            print(f"{repeat}: {name:26} {found[name][-1]:7.0f} images/s", flush=True)
    seconds = {name: [1 / r for r in rates] for name, rates in found.items()}
    result = {
        "rates": {name: round(statistics.median(rates), 1) for name, rates in found.items()},
        "times_as_fast": {
            name: round(1 / ratio["ratio"], 3) for name, ratio in timing.ratios(seconds, options.ways[0]).items()
        },
        "compared_with": options.ways[0],
        "repetitions": {name: [round(r, 1) for r in rates] for name, rates in found.items()},
        "evaluation": options.evaluation,
        "cold": options.cold,
        "workers": options.workers,
        "batch": options.batch,
        "size": options.size,
        "images": options.images,
        "together": options.together,
    }
    for name in options.ways:
        print(f"{name:26} {result['rates'][name]:7.0f} images/s, {result['times_as_fast'][name]:.2f} times")
    path = options.out or HERE / f"loaders-{'evaluation-' * options.evaluation}{options.device.type}.json"
    timing.write(path, result | timing.about(options.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
