"""Seconds until the command line answers, and what `import pcpad` takes after `import torch`.

    python experiments/benchmarks/startup.py

Each call is a new process, in turn with the others. Writes startup-cpu.json.
"""

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing
import torch

HERE = Path(__file__).resolve().parent
CALLS = {
    "python, nothing": ["-c", ""],
    "import torch": ["-c", "import torch"],
    "import torch, pcpad; pcpad.convert": ["-c", "import torch, pcpad; pcpad.convert"],
    "pcpad --help": ["-m", "pcpad", "--help"],
    "pcpad train --help": ["-m", "pcpad", "train", "--help"],
    "pcpad study table cifar10": ["-m", "pcpad", "study", "table", "cifar10"],  # 50 runs
    "pcpad study table cross": ["-m", "pcpad", "study", "table", "cross"],  # 500 evaluations
    "pcpad report, all studies": ["-m", "pcpad", "report"],
    "pcpad inspect resnet50": ["-m", "pcpad", "inspect", "--model", "resnet50"],
}


IN_PROCESS = """
import time, torch
start = time.perf_counter()
import pcpad
print(time.perf_counter() - start)
"""


def added() -> float:
    """Seconds that `import pcpad` takes in a process that has torch already."""
    done = subprocess.run([sys.executable, "-c", IN_PROCESS], check=True, cwd=HERE.parents[1], stdout=subprocess.PIPE)
    return float(done.stdout)


def call(arguments: list[str]) -> None:
    """Run one of them to its end, in the project's folder."""
    root = HERE.parents[1]
    subprocess.run([sys.executable, *arguments], check=True, cwd=root, stdout=subprocess.DEVNULL)


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=HERE / "startup-cpu.json")
    options = parser.parse_args(argv)
    device = torch.device("cpu")
    ways = {name: lambda arguments=arguments: call(arguments) for name, arguments in CALLS.items()}
    seconds = timing.in_turn(ways, options.repeats, device, warm=1)
    for name, times in seconds.items():
        print(f"{name:36} {statistics.median(times):.2f} s")
    adds = [added() for _ in range(options.repeats)]
    result = {
        "medians": {name: round(statistics.median(times), 3) for name, times in seconds.items()},
        "pcpad_adds_to_torch": round(statistics.median(adds), 5),
        "seconds": {name: [round(s, 3) for s in times] for name, times in seconds.items()},
        "added_seconds": [round(s, 5) for s in adds],
    }
    print(f"import pcpad adds {result['pcpad_adds_to_torch']:.4f} s to import torch")
    timing.write(options.out, result | timing.about(device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
