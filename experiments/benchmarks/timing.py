"""What the benchmarks share: several ways timed in turn, ratios of neighbours in time, and the facts beside them."""

import argparse
import fcntl
import json
import random
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch

from pcpad.data.manifest import EXTENSIONS
from pcpad.environment import commit, hardware, nvidia_driver, pick_device, versions


def in_turn(
    ways: dict[str, Callable[[], object]], repeats: int, device: torch.device, warm: int = 2, calls: int = 1
) -> dict[str, list[float]]:
    """Seconds of every way in every repetition.

    In a repetition all ways run one after the other, in an order drawn anew, so that a drift of the machine, and what a
    way leaves behind in the caches, falls on all of them.

    Args:
        warm: repetitions before those that count. calls: of a way in a repetition; the seconds are of one of them.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order, rng = list(ways), random.Random(0)
    for i in range(-warm, repeats):
        rng.shuffle(order)
        for name in order:
            synchronise(device)
            start = time.perf_counter()
            for _ in range(calls):
                ways[name]()
            synchronise(device)
            if i >= 0:
                seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


class Turn:
    """The turns of programs that prepare at the same time and are timed one at a time, once all are prepared.

    A program holds the lock together with the others while it prepares, and alone while it is timed.

    Args:
        path: of the lock file, which all of them name; without one nothing is waited for.
    """

    def __init__(self, path: Path | None):
        self._file = path.open("a") if path else None
        self._lock(fcntl.LOCK_SH)

    def _lock(self, kind: int) -> None:
        if self._file:
            fcntl.flock(self._file, kind)

    def wait(self) -> None:
        """Until the others are prepared, or have been timed."""
        self._lock(fcntl.LOCK_EX)

    def end(self) -> None:
        """The next one's turn."""
        self._lock(fcntl.LOCK_UN)  # closing would leave it to a child that has the file too
        if self._file:
            self._file.close()


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def apart(script: str, arguments: list[str]) -> float:
    """What a program of this folder prints last, from a process of its own."""
    done = subprocess.run([sys.executable, "-W", "ignore", script, *arguments], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{Path(script).name} {' '.join(arguments)} failed with exit code {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def device_here(parser: argparse.ArgumentParser, name: str) -> torch.device:
    """The device of that name; ends the program with the reason where it is not here."""
    if name not in ("auto", "cpu", "cuda"):
        parser.error(f"--device {name}: choose auto, cpu or cuda")
    try:
        return pick_device(name)
    except ValueError as error:
        parser.error(str(error))


def check_data(parser: argparse.ArgumentParser, data: str | Path | None) -> None:
    """End the program with the reason where a folder that was given is none of class folders with images."""
    if data is None:
        return
    classes = [path for path in sorted(Path(data).iterdir()) if path.is_dir()] if Path(data).is_dir() else []
    if not classes:
        parser.error(f"{data} is no folder of class folders: name one with --data")
    for folder in classes:
        if not any(path.suffix.lower() in EXTENSIONS for path in folder.rglob("*")):
            parser.error(f"{folder} holds no image ({', '.join(sorted(EXTENSIONS))}): each folder in {data} is a class")


def check_together(parser: argparse.ArgumentParser, device: torch.device) -> None:
    """Refuse ``--together`` on a CPU, where memory that pcpad's way keeps would be kept for those after it."""
    if device.type != "cuda":
        parser.error(f"--together is for a GPU: on {device} one way changes how the next has its memory")


def ratios(seconds: dict[str, list[float]], baseline: str) -> dict[str, dict[str, float]]:
    """Of each way: the median and the quartiles of its seconds over the baseline's in the same repetition."""
    found = {}
    for name, times in seconds.items():
        own = [a / b for a, b in zip(times, seconds[baseline], strict=True)]
        low, middle, high = statistics.quantiles(own, n=4) if len(own) > 1 else own * 3
        found[name] = {"ratio": round(middle, 4), "low": round(low, 4), "high": round(high, 4)}
    return found


def some_images(data: str, folder: Path, count: int) -> Path:
    """A class tree in `folder` with links to at most so many images of another, taken evenly over its classes."""
    found = sorted(path for path in Path(data).rglob("*") if path.suffix.lower() in EXTENSIONS)
    step = max(len(found) / count, 1)
    for i in range(min(count, len(found))):
        path = found[int(i * step)]
        link = folder / path.parent.name / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())
    return folder


def count_images(data: str | Path) -> int:
    """Images of a class tree."""
    return sum(path.suffix.lower() in EXTENSIONS for path in Path(data).rglob("*"))


def num_classes(data: str | Path) -> int:
    """Class folders of a class tree."""
    return sum(path.is_dir() for path in Path(data).iterdir())


def about(device: torch.device) -> dict:
    """Date, hardware, threads, versions, commit, and the command of this program."""
    found = versions()
    if device.type == "cuda":
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), "driver": nvidia_driver()}
        found |= {"triton": version("triton")} if find_spec("triton") else {}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "hardware": hardware(device),
        "threads": torch.get_num_threads(),
        "versions": found,
        "commit": commit(),
        "command": command(),
    }


def command() -> str:
    """How this program was called; of a folder or file that is named by its path, only its name."""
    named = [Path(a).name if Path(a).is_absolute() or a.startswith(".") else a for a in sys.argv[1:]]
    return shlex.join(["python", f"experiments/benchmarks/{Path(sys.argv[0]).name}", *named])


def write(path: Path, content: dict) -> None:
    """JSON that a person can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
