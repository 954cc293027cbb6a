"""Images per second of pcpad's training loop against timm's and torchvision's, on one network, batch and device.

    python experiments/benchmarks/training.py --data /path/to/photographs

The peers' loops are written here after their public behaviour: what timm's train.py and torchvision's
references/classification/train.py do in a step at their defaults, with SGD. Twice each: on one batch that is made
beforehand, and on JPEGs read by each one's own loader (pcpad's: DALI). Each repetition is a process of its own, in
turn (``--together``: all in one process, where starting takes longer than measuring). On a GPU the share of its
arithmetic stands beside the rates: operations of the step over those of a large product of matrices in the same time.
Writes training-<device>.json.
"""

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing

from pcpad import models
from pcpad.config import TrainSettings
from pcpad.data.batch import Batch
from pcpad.data.loaders import default_workers
from pcpad.environment import keep_freed_memory
from pcpad.training.distributed import World
from pcpad.training.loop import Job, Training, train_epoch
from pcpad.training.signals import Signals

HERE = Path(__file__).resolve().parent
WAYS = ["torchvision", "timm", "timm, channels_last", "pcpad"]
KEPT = ", memory kept"  # as pcpad keeps it on a CPU


def warm(options: argparse.Namespace) -> int:
    """Steps before the clock starts: more than any loader prepares ahead."""
    if options.images_from == "synthetic":
        return 4
    import loaders  # which needs DALI

    return loaders.warm(options.workers)


class Stamps:
    """Takes the time as each batch is asked for: the step before it has then been issued.

    The device is waited for where the clock starts and where it stops; between the two a loop may go ahead of it.
    """

    def __init__(self, options: argparse.Namespace):
        self.options, self.times, self.warm = options, [], warm(options)
        self.steps = self.warm + options.steps

    def __call__(self, batches: Iterator) -> Iterator:
        for batch in batches:
            if len(self.times) in (self.warm, self.steps):
                timing.synchronise(self.options.device)
            self.times.append(time.perf_counter())
            if len(self.times) > self.steps:
                return
            yield batch

    def rate(self) -> float:
        """Images per second of the steps that count."""
        return self.options.steps * self.options.batch / (self.times[-1] - self.times[self.warm])


class OurLoader:
    """What the training loop asks of a loader, around batches that come from anywhere."""

    def __init__(self, batches: Iterator[Batch], stamps: Stamps):
        self.steps_per_epoch, self._batches = stamps.steps, stamps(batches)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches."""
        return self._batches

    def state(self) -> dict:
        """Nothing to go on from."""
        return {}


def synthetic(options: argparse.Namespace) -> Iterator[tuple[Tensor, Tensor]]:
    """One batch again and again."""
    torch.manual_seed(0)
    x = torch.randn(options.batch, 3, options.size, options.size, device=options.device)
    y = torch.randint(1000, (options.batch,), device=options.device)
    while True:
        yield x, y


def read_by(options: argparse.Namespace, name: str) -> Iterator:
    """Batches of a loader of `loaders`, enough for all steps."""
    import loaders

    number = (options.steps + 2) * options.batch  # and those before
    wanted = argparse.Namespace(**vars(options) | {"images": number, "evaluation": False})
    return loaders.loader(wanted, name)


def run_pcpad(options: argparse.Namespace, net: nn.Module, stamps: Stamps) -> None:
    """pcpad's own loop, with its log and its progress line."""
    keep_freed_memory(options.device)
    settings = TrainSettings(
        model=options.model, padding="zeros", batch_size=options.batch, amp=options.amp, epochs=1, size=options.size
    )
    net.to(memory_format=torch.channels_last)
    if options.images_from == "synthetic":
        batches = (Batch(x, y, torch.arange(len(y))) for x, y in synthetic(options))
    else:
        batches = read_by(options, "pcpad, DALI")
    data = argparse.Namespace(classes=tuple(range(1000)))
    with tempfile.TemporaryDirectory(prefix="pcpad-bench-") as folder:
        loader = OurLoader(batches, stamps)
        job = Job(settings, options.model, net, data, loader, None, None, options.device, World(), Path(folder))
        training = Training(job, {"settings_digest": ""}, None, Signals())
        train_epoch(training)
        training.book.close()


def run_peer(options: argparse.Namespace, net: nn.Module, stamps: Stamps, way: str) -> None:
    """A peer's loop: torchvision computes the accuracy of each batch and reads it, timm reads the loss."""
    if way.endswith("channels_last"):
        net.to(memory_format=torch.channels_last)
    source = "timm" if way.startswith("timm") else "torchvision, PIL"
    batches = synthetic(options) if options.images_from == "synthetic" else read_by(options, source)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    cast = torch.autocast(options.device.type, torch.bfloat16, enabled=options.amp == "bf16")
    net.train()
    total = 0.0
    for x, y in stamps(batches):
        x, y = x.to(options.device, non_blocking=True), y.to(options.device, non_blocking=True)
        if way.endswith("channels_last"):
            x = x.contiguous(memory_format=torch.channels_last)
        with cast:
            out = net(x)
            loss = F.cross_entropy(out, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        total += loss.item()
        if way == "torchvision":
            best = out.topk(5, 1).indices == y[:, None]
            total += best[:, 0].sum().item() + best.any(1).sum().item()


def one(options: argparse.Namespace, way: str) -> float:
    """Images per second of one loop, once."""
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # all three set it
    net = models.build(models.resolve(options.model), 1000).to(options.device)
    stamps = Stamps(options)
    if way.endswith(KEPT):
        keep_freed_memory(options.device)
        way = way.removesuffix(KEPT)
    if way == "pcpad":
        run_pcpad(options, net, stamps)
    else:
        run_peer(options, net, stamps, way)
    return stamps.rate()


def operations(options: argparse.Namespace) -> float:
    """Additions and multiplications of one image's forward and backward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    net = models.build(models.resolve(options.model), 1000).to(options.device)
    counter = FlopCounterMode(display=False)
    with counter:
        net(torch.randn(2, 3, options.size, options.size, device=options.device)).sum().backward()
    return counter.get_total_flops() / 2


def limit(options: argparse.Namespace) -> float:
    """Additions and multiplications per second of a large product of matrices, in the training's precision."""
    side = 8192 if options.device.type == "cuda" else 3072
    dtype = torch.bfloat16 if options.amp == "bf16" else torch.float32
    a = torch.randn(side, side, device=options.device, dtype=dtype)
    kept = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if torch.backends.cudnn.allow_tf32 else "highest")  # as convolutions are
    try:
        seconds = timing.in_turn({"product": lambda: a @ a}, 5, options.device)["product"]
    finally:
        torch.set_float32_matmul_precision(kept)
    return 2 * side**3 / min(seconds)


def compare(options: argparse.Namespace, arguments: list[str], source: str) -> dict:
    """All loops on one source of images."""
    found: dict[str, list[float]] = {way: [] for way in options.ways}
    order, rng = list(options.ways), random.Random(0)
    for _ in range(options.repeats):
        rng.shuffle(order)
        for way in order:
            if options.together:
                options.images_from = source
                rate = one(options, way)
            else:
                rate = timing.apart(__file__, [*arguments, "--one", way, "--images_from", source])
            found[way].append(rate)
            print(f"{source:10} {way:20} {rate:7.1f} images/s", flush=True)
    seconds = {way: [1 / rate for rate in rates] for way, rates in found.items()}
    ours = timing.ratios({"pcpad": seconds["pcpad"], **seconds}, "pcpad")
    for way in options.ways:
        print(
            f"{source:10} {way:20} {statistics.median(found[way]):7.1f} images/s, pcpad {ours[way]['ratio']:.2f} times",
            flush=True,
        )
    return {
        "rates": {way: round(statistics.median(rates), 2) for way, rates in found.items()},
        "pcpad_times_as_fast_as": {way: ours[way] for way in options.ways if way != "pcpad"},
        "repetitions": {way: [round(rate, 2) for rate in rates] for way, rates in found.items()},
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", help="folder of a folder for each class; without it only the batch made beforehand")
    parser.add_argument("--model", default="torchvision/resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10, help="that are timed, after those of warming up")
    parser.add_argument("--amp", default="off", choices=["off", "bf16"])
    parser.add_argument("--workers", type=int, default=default_workers(), help="threads or processes of each loader")
    named = [*WAYS, *(f"{way}{KEPT}" for way in WAYS[:-1])]
    parser.add_argument("--ways", nargs="+", choices=named, help="all if not given, with memory kept on a CPU alone")
    parser.add_argument("--together", action="store_true", help="all in this process")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--one", choices=named, help="measure this one, once, in this process")
    parser.add_argument("--images_from", choices=["synthetic", "files"], default="synthetic", help="of --one")
    options = parser.parse_args(argv)
    options.device = timing.device_here(parser, options.device)
    timing.check_data(parser, options.data)
    options.ways = options.ways or (WAYS if options.device.type == "cuda" else named)
    if "pcpad" not in options.ways:
        parser.error("--ways must have pcpad, which all are compared with")
    options.pin = options.device.type == "cuda"
    if options.together:
        timing.check_together(parser, options.device)
    if options.one:
        print(json.dumps(one(options, options.one)))
        return 0
    arguments = sys.argv[1:] if argv is None else argv
    stated = {key: getattr(options, key) for key in ("model", "batch", "size", "steps", "amp", "workers", "together")}
    path = options.out or HERE / f"training-{options.device.type}.json"
    result = {}
    for source in ("synthetic", "files")[: 1 + bool(options.data)]:
        result[source] = compare(options, arguments, source)
        timing.write(path, result | stated | timing.about(options.device))
    if options.data:  # all that reading costs, seen or not by a clock around the loader
        share = {way: result["files"]["rates"][way] / result["synthetic"]["rates"][way] for way in options.ways}
        result["files_to_synthetic"] = {way: round(ratio, 3) for way, ratio in share.items()}
        print(f"from files pcpad makes {share['pcpad']:.2f} of what it makes on a batch made beforehand")
        timing.write(path, result | stated | timing.about(options.device))
    if options.device.type == "cuda":  # a CPU's convolutions are faster than its products of matrices
        work, best = operations(options), limit(options)
        share = result["synthetic"]["rates"]["pcpad"] * work / best
        print(f"pcpad computes at {share:.2f} of the rate of a large product of matrices ({best / 1e12:.2f} TFLOP/s)")
        result |= {"flop_per_image": work, "product_flop_per_second": round(best), "share_of_product": round(share, 3)}
        timing.write(path, result | stated | timing.about(options.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
