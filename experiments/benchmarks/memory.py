"""What a CPU gains by keeping the memory of feature maps (`pcpad.environment.keep_freed_memory`).

    python experiments/benchmarks/memory.py

Each form runs in three processes of its own, in turn, since what is set stays: median seconds of a step (the first of a
process does not count), and the peak of the resident memory. Writes memory-cpu.json.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing
import torch

from pcpad import models
from pcpad.environment import keep_freed_memory, memory_mb

HERE = Path(__file__).resolve().parent
CPU = torch.device("cpu")
# network, work, images of a batch, pixels
CASES = {
    "lite0-training": ("timm/tf_efficientnet_lite0", "training", 25, 224),
    "lite0-inference": ("timm/tf_efficientnet_lite0", "inference", 64, 224),
    "resnet50-training": ("torchvision/resnet50", "training", 16, 224),
    "resnet50-small": ("torchvision/resnet50", "training", 32, 64),
}


def measure(case: str, kept: bool, steps: int) -> dict:
    """Seconds of each step, and peak MiB, of this process."""
    name, work, batch, size = CASES[case]
    if kept:
        keep_freed_memory(CPU)
    torch.manual_seed(0)
    model = models.build(models.resolve(name), 1000).train(work == "training").to(memory_format=torch.channels_last)
    x = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    seconds = []
    for _ in range(steps):
        start = time.perf_counter()
        with torch.inference_mode(work == "inference"):
            y = model(x)
        if work == "training":
            y.sum().backward()
        seconds.append(time.perf_counter() - start)
    return {"seconds": [round(s, 4) for s in seconds], "peak_mib": round(memory_mb(CPU))}


def compare(case: str, steps: int, processes: int) -> dict:
    """Both forms of one case, in turn."""
    name, work, batch, size = CASES[case]
    found: dict[str, list[dict]] = {"given_back": [], "kept": []}
    for _ in range(processes):
        for form, runs in found.items():
            runs.append(timing.apart(__file__, ["--alone", case, form, "--steps", str(steps)]))
    middle = {form: statistics.median(s for run in runs for s in run["seconds"][1:]) for form, runs in found.items()}
    peak = {form: max(run["peak_mib"] for run in runs) for form, runs in found.items()}
    faster = middle["given_back"] / middle["kept"]
    return {
        **{"model": name, "work": work, "batch": batch, "size": size},
        **{"medians": {form: round(s, 3) for form, s in middle.items()}, "kept_is_times_as_fast": round(faster, 2)},
        **{"peak_mib": peak, "processes": found},
    }


def main(argv: list[str] | None = None) -> int:
    """Compare both forms of each case, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--processes", type=int, default=3, help="of each form")
    parser.add_argument("--alone", nargs=2, metavar=("CASE", "FORM"), help="measure one form in this process")
    parser.add_argument("--out", type=Path, default=HERE / "memory-cpu.json")
    options = parser.parse_args(argv)
    if options.alone:
        case, form = options.alone
        print(json.dumps(measure(case, form == "kept", options.steps)))
        return 0
    results = []
    for case in options.cases:
        result = compare(case, options.steps, options.processes)
        results.append(result)
        given, kept = result["medians"].values()
        times = result["kept_is_times_as_fast"]
        print(f"{case:18} given back {given:.3f} s, kept {kept:.3f} s: {times:.2f} times as fast")
    timing.write(options.out, {"results": results} | timing.about(CPU))
    return 0


if __name__ == "__main__":
    sys.exit(main())
