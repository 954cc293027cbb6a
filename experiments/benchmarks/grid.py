"""What a grid of paddings and sizes costs against one evaluation for each of its cells.

    python experiments/benchmarks/grid.py --data /path/to/photographs

The grid and the forward passes of all its cells alone, on images that are there, are timed in turn, in an order drawn
anew in each repetition. Then once each cell by itself. All are in one process, so that none pays for starting torch,
and every evaluation, which is `pcpad eval`, starts with the images checked already.
The time does not depend on the weights, which are drawn at random if none are named.
Writes JSON: seconds of the grid and of the forward passes in every repetition, of each cell, and the ratios.
"""

import argparse
import contextlib
import io
import json
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing

import pcpad
from pcpad import models
from pcpad.config import EvalSettings
from pcpad.config.images import DataSettings
from pcpad.environment import pick_device
from pcpad.evaluation.fields import read_records
from pcpad.evaluation.run import evaluate


def seconds(folder: Path, options: argparse.Namespace, paddings: str, sizes: str) -> float:
    """Wall time of one evaluation, its records in `folder`."""
    settings = EvalSettings(
        model=options.model,
        weights=options.weights,
        paddings=paddings,
        sizes=sizes,
        data=DataSettings(name=options.data, loader=options.loader),
        batch_size=options.batch_size,
        device=options.device,
        out=str(folder),
    )
    start = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        evaluate(settings)
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> dict:
    """The grid, then every cell alone; raises RuntimeError where they do not agree."""
    paddings, sizes = options.paddings.split(","), options.sizes.split(",")
    with tempfile.TemporaryDirectory(prefix="pcpad-grid-") as scratch:
        folder = Path(scratch)
        if options.images:
            options.data = str(timing.some_images(options.data, folder / "images", options.images))
        if not options.weights:
            options.weights = str(folder / "weights.pth")
            net = models.build(models.resolve(options.model), timing.num_classes(options.data))
            torch.save(net.state_dict(), options.weights)
        seconds(folder / "warm", options, paddings[0], sizes[0])
        cells = [(padding, int(size)) for padding in paddings for size in sizes]
        times: dict[str, list[float]] = {"grid": [], "forward": []}
        order, rng = list(times), random.Random(0)
        for repeat in range(options.repeats):
            rng.shuffle(order)
            for what in order:
                times[what].append(
                    seconds(folder / f"grid-{repeat}", options, options.paddings, options.sizes)
                    if what == "grid"
                    else forward_seconds(options, cells, timing.count_images(options.data))
                )
                print(f"{repeat}: {what} {times[what][-1]:.1f} s", flush=True)
        found = {(r["padding"], r["size"]): r["top1"] for r in read_records(folder / "grid-0")}
        cells = []
        for padding, size in found:
            alone = folder / f"{padding}-{size}"
            spent = seconds(alone, options, padding, size)
            (record,) = read_records(alone)
            if record["top1"] != found[padding, size]:
                raise RuntimeError(
                    f"{padding} at {size}: {record['top1']} right alone, {found[padding, size]} in the grid"
                )
            cells.append({"padding": padding, "size": size, "top1": record["top1"], "seconds": round(spent, 2)})
            print(f"{padding} at {size}: {spent:.1f} s", flush=True)
    each, (whole, forward) = sum(cell["seconds"] for cell in cells), map(statistics.median, times.values())
    return {
        "model": options.model,
        "images": record["n"],
        "batch_size": options.batch_size,
        "loader": record["loader"],
        "grid_seconds": round(whole, 2),
        "cells_seconds": round(each, 2),
        "ratio": round(whole / each, 3),
        "forward_seconds": round(forward, 2),
        "ratio_to_forward": timing.ratios(times, "forward")["grid"]["ratio"],
        "repetitions": {what: [round(s, 2) for s in found] for what, found in times.items()},
        "cells": cells,
    } | timing.about(pick_device(options.device))


def forward_seconds(options: argparse.Namespace, cells: list[tuple[str, int]], images: int) -> float:
    """Seconds of the forward passes of all cells, in the evaluation's batches and memory format."""
    device, total = pick_device(options.device), 0.0
    model = models.build(models.resolve(options.model), 1000).to(device, memory_format=torch.channels_last).eval()
    for padding, size in cells:
        pcpad.convert(model, padding)
        x = torch.randn(options.batch_size, 3, size, size, device=device).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            model(x).argmax(1).cpu()
            start = time.perf_counter()
            for first in range(0, images, options.batch_size):
                model(x[: images - first]).argmax(1).cpu()
        total += time.perf_counter() - start
    return total


def main(argv: list[str] | None = None) -> int:
    """Measure and print; returns 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--weights", help="a file, or the name of the library's weights; drawn at random if not given")
    parser.add_argument("--data", required=True, help="a folder of class folders")
    parser.add_argument("--images", type=int, help="so many of them; all if not given")
    parser.add_argument("--paddings", default="zeros,partial,reflect,replicate,circular")
    parser.add_argument("--sizes", default="160,192,224,256,288")
    parser.add_argument("--loader", default="auto", choices=["auto", "dali", "torchvision"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="JSON file")
    options = parser.parse_args(argv)
    timing.device_here(parser, options.device)
    timing.check_data(parser, options.data)
    if not all(size.isdigit() for size in options.sizes.split(",")):
        parser.error(f"--sizes {options.sizes}: sides of square images in pixels, with commas between them")
    found = measure(options)
    text = json.dumps(found, indent=1)
    print(f"grid {found['grid_seconds']} s, one by one {found['cells_seconds']} s: {found['ratio']}")
    print(f"forward passes alone {found['forward_seconds']} s: {found['ratio_to_forward']}")
    if options.out:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
