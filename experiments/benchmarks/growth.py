"""How images/s grow: of DALI with its threads and with the size of the images, of a training with its processes.

    python experiments/benchmarks/growth.py --data /path/to/photographs --threads 1 2 4 --sizes 96 224 448 --ranks 1 2

Decoding and training apart, one after the other. Writes growth-<device>.json.
"""

import argparse
import random
import statistics
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing
import training_run

from pcpad.data.loaders import default_workers

HERE = Path(__file__).resolve().parent


def reading(options: argparse.Namespace, threads: int, size: int) -> float:
    """Images/s that the training loader makes."""
    wanted = ["--one", "pcpad, DALI", "--data", options.data, "--device", options.device.type]
    wanted += ["--workers", str(threads), "--size", str(size), "--images", str(options.images)]
    return timing.apart(str(HERE / "loaders.py"), wanted)


def training(options: argparse.Namespace, ranks: int) -> float:
    """Images/s of `pcpad train` in so many processes: the median of what it logged after the first entry."""
    wanted = ["--model", options.model, "--recipe", "smoke", "--size", str(options.train_size), "--epochs", "1"]
    wanted += ["--gpus", str(ranks), "--device", options.device.type, "--batch_size", str(options.batch)]
    return statistics.median(training_run.logged(wanted)["images_per_second"][1:])


def ranks_here(device: torch.device) -> list[int]:
    """1, 2, 4, ... as far as there are GPUs; 1 and 2 on a CPU."""
    if device.type != "cuda":
        return [1, 2]
    return [2**i for i in range(torch.cuda.device_count().bit_length())]


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, help="folder of a folder for each class, to read from")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--sizes", type=int, nargs="*", default=[96, 160, 224, 320, 448])
    parser.add_argument(
        "--ranks", type=int, nargs="*", help="of processes; if not given, powers of two up to the number of GPUs"
    )
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--model", default="timm/test_resnet")
    parser.add_argument("--batch", type=int, default=64, help="of all ranks together")
    parser.add_argument("--train_size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    options.device = timing.device_here(parser, options.device)
    timing.check_data(parser, options.data)
    options.ranks = ranks_here(options.device) if options.ranks is None else options.ranks
    ways = {f"{n} threads at 224": lambda n=n: reading(options, n, 224) for n in options.threads}
    ways |= {
        f"{default_workers()} threads at {s}": lambda s=s: reading(options, default_workers(), s) for s in options.sizes
    }
    ways |= {f"training, {n} ranks": lambda n=n: training(options, n) for n in options.ranks}
    found: dict[str, list[float]] = {name: [] for name in ways}
    order, rng = list(ways), random.Random(0)
    for _ in range(options.repeats):
        rng.shuffle(order)
        for name in order:
            found[name].append(ways[name]())
            print(f"{name:24} {found[name][-1]:8.1f} images/s", flush=True)
            write(options, {name: rates for name, rates in found.items() if rates})
    return 0


def write(options: argparse.Namespace, found: dict[str, list[float]]) -> None:
    """What was measured so far."""
    result = {
        "rates": {name: round(statistics.median(rates), 1) for name, rates in found.items()},
        "repetitions": {name: [round(rate, 1) for rate in rates] for name, rates in found.items()},
        "model": options.model,
        "batch": options.batch,
        "train_size": options.train_size,
    }
    timing.write(options.out or HERE / f"growth-{options.device.type}.json", result | timing.about(options.device))


if __name__ == "__main__":
    sys.exit(main())
