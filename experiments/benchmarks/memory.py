"""What a CPU gains by keeping the memory of feature maps (`pcpad.environment.keep_freed_memory`).

    python experiments/benchmarks/memory.py --model timm/tf_efficientnet_lite0 --batch 25 --training

Each form runs in processes of its own, in turn, since what is set stays. Prints seconds of a step (median), the ratio,
and the peak of the resident memory of both.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time

import torch

from pcpad import models
from pcpad.environment import hardware, keep_freed_memory, memory_mb


def measure(options: argparse.Namespace) -> dict:
    """Seconds of each step, and peak MiB, of this process."""
    if options.kept:
        keep_freed_memory(torch.device("cpu"))
    torch.manual_seed(0)
    model = models.build(models.resolve(options.model), 1000).train(options.training)
    model.to(memory_format=torch.channels_last)
    x = torch.randn(options.batch, 3, options.size, options.size).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(options.steps):
        start = time.perf_counter()
        with torch.inference_mode(not options.training):
            y = model(x)
        if options.training:
            y.sum().backward()
        seconds.append(time.perf_counter() - start)
    return {"seconds": seconds, "peak_mib": memory_mb(torch.device("cpu"))}


def main() -> int:
    """Compare both forms, each in three processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--training", action="store_true")
    parser.add_argument("--kept", action="store_true", help="measure this process alone, with the memory kept")
    parser.add_argument("--given", action="store_true", help="measure this process alone, as the C library does")
    options = parser.parse_args()
    if options.kept or options.given:
        print(json.dumps(measure(options)))
        return 0
    found: dict[str, list[dict]] = {"given": [], "kept": []}
    for _ in range(3):
        for form, runs in found.items():
            done = subprocess.run([sys.executable, *sys.argv, f"--{form}"], capture_output=True, text=True, check=True)
            runs.append(json.loads(done.stdout))
    middle = {form: statistics.median(s for run in runs for s in run["seconds"][1:]) for form, runs in found.items()}
    peak = {form: max(run["peak_mib"] for run in runs) for form, runs in found.items()}
    print(
        f"{options.model}, {options.batch} images of {options.size}, {'training' if options.training else 'inference'}:"
    )
    print(
        f"given back {middle['given']:.3f} s, kept {middle['kept']:.3f} s: {middle['given'] / middle['kept']:.2f} times"
    )
    print(f"peak {peak['given'] / 1024:.2f} and {peak['kept'] / 1024:.2f} GiB; {hardware(torch.device('cpu'))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
