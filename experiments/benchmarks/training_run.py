"""A training from files as a user starts it: images per second, and how much of the time it waits for them.

    python experiments/benchmarks/training_run.py --device cuda --data /path/to/photographs

`pcpad train` reads a class tree in which every photograph stands under many names, so that an epoch is long enough; the
rates are the run's own, from its TensorBoard log, without the first entry. Writes training_run-<device>.json.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing

from pcpad.data.manifest import EXTENSIONS

HERE = Path(__file__).resolve().parent
SHOWN = ("images_per_second", "data_wait_percent")


def logged(arguments: list[str]) -> dict[str, list[float]]:
    """The entries that `pcpad train` with these arguments wrote into its log, in order."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory(prefix="pcpad-bench-") as folder:
        command = [sys.executable, "-m", "pcpad", "train", *arguments, "--out", folder]
        environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
        done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL)
        if done.returncode:
            raise SystemExit(f"{' '.join(command[2:])} failed with exit code {done.returncode}")
        (logs,) = {path.parent for path in Path(folder).rglob("events.out.tfevents.*")}
        log = EventAccumulator(str(logs))
        log.Reload()
        found = {name: [entry.value for entry in log.Scalars(f"train/{name}")] for name in SHOWN}
        return found | {"step": [entry.step for entry in log.Scalars(f"train/{SHOWN[0]}")]}


def over_all(found: dict[str, list[float]]) -> dict[str, float]:
    """Both rates over all entries together: each entry counts by its time, which no median of entries does."""
    steps = [b - a for a, b in zip(found["step"], found["step"][1:], strict=False)]
    times = [n / rate for n, rate in zip(steps, found["images_per_second"][1:], strict=True)]
    waited = [share * t for share, t in zip(found["data_wait_percent"][1:], times, strict=True)]
    return {"images_per_second": sum(steps) / sum(times), "data_wait_percent": sum(waited) / sum(times)}


def many_names(data: Path, folder: Path, images: int) -> int:
    """A class tree with `images` names or more to train on, links to the photographs; returns how many those are."""
    files = sorted(path for path in data.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if not files:
        raise SystemExit(f"--data {data}: no photographs there")
    for split, times in (("train", -(-images // len(files))), ("val", 1)):
        for path in files:
            (folder / split / path.parent.name).mkdir(parents=True, exist_ok=True)
            for i in range(times):
                (folder / split / path.parent.name / f"{i}-{path.name}").symlink_to(path.resolve())
    return len(files)


def main(argv: list[str] | None = None) -> int:
    """Train, print the rates, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", type=Path, required=True, help="folder of a folder for each class")
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--padding", default="partial")
    parser.add_argument("--amp", default="bf16", choices=["off", "bf16", "fp16"])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=20000, help="of an epoch, of which there are two")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    device = timing.device_here(parser, options.device)
    timing.check_data(parser, options.data)
    wanted = ["--model", options.model, "--padding", options.padding, "--amp", options.amp, "--size", str(options.size)]
    wanted += ["--batch_size", str(options.batch), "--epochs", "2", "--schedule.warmup_epochs", "0"]
    with tempfile.TemporaryDirectory(prefix="pcpad-bench-") as folder:
        count = many_names(options.data, Path(folder), options.images)
        found = logged([*wanted, "--device", device.type, "--data.name", folder])
    whole = {name: round(value, 3) for name, value in over_all(found).items()}
    found = {name: [round(value, 3) for value in values[1:]] for name, values in found.items()}
    medians = {name: round(statistics.median(found[name]), 3) for name in SHOWN}
    for what, of in (("median entry", medians), ("all entries", whole)):
        print(f"{what}: {of['images_per_second']:.0f} images/s, waiting {of['data_wait_percent']:.1f}% of the time")
    result = found | {
        "command": f"pcpad train {' '.join(wanted)} --data.name DATA",
        "data": f"{count} photographs under at least {options.images} names, links on a local disk",
        "loader": "the one that pcpad train takes of itself",
        "note": "all entries of the run's TensorBoard log after the first",
        "medians": medians,
        "whole": whole,
    }
    timing.write(options.out or HERE / f"training_run-{device.type}.json", result | timing.about(device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
