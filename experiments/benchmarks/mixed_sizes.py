"""A mixed-size batch against its images one by one, a dense batch of the same canvas, and masks in every layer.

    python experiments/benchmarks/mixed_sizes.py --model torchvision/resnet50 --images /path/to/photographs

All forms are timed in turn within every repetition, so that a ratio compares neighbours in time. Writes
mixed_sizes-<device>.json beside this file (``--out``).
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import numpy as np
import timing
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import pcpad
from pcpad import models
from pcpad.data.damage import open_rgb
from pcpad.data.manifest import EXTENSIONS
from pcpad.data.native import native_sides, order_by_shape
from pcpad.environment import hardware, versions
from pcpad.padding.partial import rescale_border

HERE = Path(__file__).resolve().parent


class Masked:
    """The textbook: a map ``(N, C, H, W)`` with a full mask ``(N, 1, H, W)``, which every layer convolves.

    Each convolution multiplies by the mask, convolves the mask with ones, and multiplies the whole output by K / n, as
    the published implementation does; for the layers of torchvision's ResNets.
    """

    def __init__(self, x: Tensor, mask: Tensor):
        self.x, self.mask = x, mask

    def dim(self) -> int:
        return self.x.dim()

    def __add__(self, other: "Masked") -> "Masked":
        return Masked(self.x * self.mask + other.x * other.mask, torch.maximum(self.mask, other.mask))

    __iadd__ = __add__

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        first, rest, kwargs = args[0], args[1:], kwargs or {}
        if func is torch.conv2d:
            weight, bias, stride, padding, dilation, groups = rest
            x, mask = first.x * first.mask, first.mask
            ones = mask.new_ones(1, 1, *weight.shape[-2:])
            count = F.conv2d(mask, ones, None, stride, padding, dilation)
            y = F.conv2d(x, weight, None, stride, padding, dilation, groups)
            known = (count > 0).to(y.dtype)
            y = y * (ones.numel() / count.clamp(min=1)) * known
            if bias is not None:
                y = (y + bias.view(-1, 1, 1)) * known
            return Masked(y, known)
        if func is F.max_pool2d:
            return Masked(func(first.x * first.mask, *rest, **kwargs), func(first.mask, *rest, **kwargs))
        if func is F.adaptive_avg_pool2d:
            return (first.x * first.mask).sum((2, 3), True) / first.mask.sum((2, 3), True)
        if func in (F.batch_norm, F.relu):
            return Masked(func(first.x, *rest, **kwargs), first.mask)
        if func is rescale_border:
            return first  # the masks have seen the padding already
        raise TypeError(f"the textbook form has no {func}")


def photographs(folder: Path | None, count: int, size: int) -> list[Tensor]:
    """Images of native aspect ratio, float32; random ones of the sizes of photographs without a folder."""
    rng = np.random.default_rng(0)
    if folder is None:
        sides = [(500, 375), (375, 500), (500, 333), (333, 500), (480, 640), (400, 400)]
        sizes = [native_sides(*sides[rng.integers(len(sides))], size) for _ in range(count)]
        return [torch.rand(3, *one) for one in sizes]
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if len(paths) < count:
        raise ValueError(f"--images {folder}: {len(paths)} images found, {count} are needed")
    images = []
    for i in rng.choice(len(paths), count, replace=False):
        image = open_rgb(str(paths[i]))
        height, width = native_sides(image.height, image.width, size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        images.append(torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy()).float() / 255)
    return images


def forms(model: nn.Module, batch: pcpad.RaggedBatch, images: list[Tensor], compiled: bool, textbook: bool) -> dict:
    """Name to a function that runs the images once."""
    mask = batch.inside().to(batch.dtype)
    made = {
        "one by one": lambda: [model(image[None]) for image in images],
        "mixed": lambda: model(batch),
        "dense": lambda: model(batch.canvas),
    }
    if textbook:
        made["mask in every layer"] = lambda: model(Masked(batch.canvas, mask))
    if compiled:
        dense, mixed = (torch.compile(model, dynamic=False) for _ in range(2))
        made["mixed, compiled"] = lambda: mixed(batch)
        made["dense, compiled"] = lambda: dense(batch.canvas)
    return made


def measure(made: dict, repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every form in every repetition, after two of warming up."""
    seconds = {name: [] for name in made}
    for i in range(-2, repeats):
        for name, run in made.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if i >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def main(argv: list[str] | None = None) -> int:
    """Measure one model with zeros and partial padding; print a table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", default="torchvision/resnet50")
    parser.add_argument("--images", type=Path, help="a folder of photographs; random images if not given")
    parser.add_argument("--count", type=int, default=32, help="images of the batch")
    parser.add_argument("--size", type=int, default=224, help="their shorter side, in pixels")
    parser.add_argument("--window", type=int, default=1, help="batches among which the batch's shapes are sorted")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--compile", action="store_true", help="also torch.compile")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args(argv)
    device = timing.device_here(parser, options.device)
    try:
        name = models.resolve(options.model)
        images = photographs(options.images, options.count * options.window, options.size)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    order = order_by_shape(range(len(images)), np.array([image.shape[1:] for image in images]), options.count)
    middle = (options.window // 2) * options.count
    layout = {"memory_format": torch.channels_last}
    images = [images[i].to(device) for i in order[middle : middle + options.count]]
    batch = pcpad.RaggedBatch.from_images(images).to(**layout)
    images = [image[None].to(**layout)[0] for image in images]
    results = []
    for padding in ("zeros", "partial"):
        torch.manual_seed(0)
        model = models.build(name, 1000).eval().to(device, **layout)
        pcpad.convert(model, padding)
        textbook = padding == "partial" and name.name.startswith("resnet") and name.library == "torchvision"
        with torch.inference_mode():
            made = forms(model, batch, images, options.compile, textbook)
            seconds = measure(made, options.repeats, device)
        for form, times in seconds.items():
            rate = len(images) / statistics.median(times)
            results.append({"padding": padding, "form": form, "seconds": times, "images_per_second": rate})
            print(f"{padding:8} {form:20} {rate:8.1f} images/s", flush=True)
    about = {
        "model": str(name),
        "images": len(images),
        "size": f"native:{options.size}",
        "canvas": list(batch.canvas.shape[-2:]),
        "canvas_padding": round(batch.share_of_padding(), 4),
        "results": results,
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"mixed_sizes-{name.name}-{device.type}.json"
    path.write_text(json.dumps(about, indent=1) + "\n")
    height, width = about["canvas"]
    print(f"{about['canvas_padding']:.1%} of the canvas {height}x{width} is padding; {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
