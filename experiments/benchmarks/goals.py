"""The goals of speed, and which of them the records of this folder meet: a table of `tables.py`.

A figure meets a goal by its median; of one that does not, but whose interval reaches the goal, that is said.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median

from intervals import median_interval

NETWORKS = ("resnet50", "vgg16_bn", "mobilenet_v2", "convnext_tiny", "efficientnet_b0")
TWO = ("resnet50", "mobilenet_v2")
FILLING = ("reflect", "replicate", "circular")
EAGER = {
    "cpu": [*product(NETWORKS, ["fp32"], ["channels_last"]), *product(TWO, ["bf16"], ["channels_last"])],
    "cuda": [*product(NETWORKS, ["bf16", "fp32"], ["channels_last", "NCHW"])],
}
COMPILED = {
    "cpu": [*product(TWO, ["fp32"], ["channels_last"])],
    "cuda": [*product(NETWORKS, ["bf16"], ["channels_last"])],
}
"""Networks, numbers and layouts that a goal is about, on each device."""


@dataclass(frozen=True)
class Figure:
    """One measured figure: what of, its value, and its interval or, without one, the value twice."""

    name: str
    value: float
    low: float
    high: float


Found = tuple[list[Figure], list]
"""Figures, and what is wanted and was not measured: a name, or network, numbers, layout and what else."""


@dataclass(frozen=True)
class Goal:
    """A limit, and where its figures are read.

    Attributes:
        program: whose records it is about.
        limit: by device; a device that is not there has no such goal.
        figures: function of the device's records, by the name of their program, and the device to what it found.
        least: whether the figures are to be at least the limit; at most it otherwise.
        unit: behind each number.
    """

    what: str
    program: str
    limit: dict[str, float]
    figures: Callable[[dict, str], Found]
    least: bool = False
    unit: str = ""


def spread(name: str, over: list[float], under: list[float]) -> Figure:
    """Ratios of neighbours in one run, as their median and its interval."""
    ratios = [a / b for a, b in zip(over, under, strict=True)]
    return Figure(name, median(ratios), *median_interval(ratios))


def padding(ways: Iterable[str], works: Iterable[str], compiled: bool) -> Callable:
    """Figures of some ways of padding, in times of zero padding."""
    about = COMPILED if compiled else EAGER

    def figures(records: dict, device: str) -> Found:
        found, there = [], set()
        for row in rows_of(records, compiled):
            name, numbers, layout, work = named = key_of(row)
            if work not in works or named[:3] not in about[device]:
                continue
            for way in filter(row["ratios"].__contains__, ways):
                there.add((*named, way))
                told = f"{name} {work}, {numbers}{' NCHW' if layout == 'NCHW' else ''}"
                told += f", {way}" if way in FILLING else ""
                told += f" ({row['hardware'].split()[1]})" if device == "cuda" else ""
                found.append(spread(told, row["seconds"][way], row["seconds"]["zeros"]))
        wanted = [(*of, work, way) for of, work, way in product(about[device], works, ways)]
        return found, [of for of in wanted if of not in there]

    return figures


def rows_of(records: dict, compiled: bool) -> list[dict]:
    """Records of whole networks; one image at a time is no goal."""
    return [row for row in records["padding"]["results"] if row["compile"] == compiled and row["batch"] > 1]


def key_of(row: dict) -> tuple[str, str, str, str]:
    """Network, numbers, layout and work of a record."""
    numbers, layout = "fp32" if row["amp"] == "off" else row["amp"], "channels_last" if row["channels_last"] else "NCHW"
    return row["network"].partition("/")[2], numbers, layout, row["work"]


def peaks(records: dict, device: str) -> Found:
    """Peak memory of a training step with partial padding, in times of zero padding's."""
    rows = [row for row in rows_of(records, False) if row["work"] == "training" and "partial" in row["peak_mib"]]
    found = []
    for row in rows:
        ratio = row["peak_mib"]["partial"] / row["peak_mib"]["zeros"]
        found.append(Figure(" ".join(key_of(row)[:3]), ratio, ratio, ratio))
    there = {key_of(row)[:3] for row in rows}
    return found, [of for of in EAGER[device] if of not in there]


def loaders(peer: str) -> Callable:
    """Images/s of DALI in times of a peer's."""

    def figures(records: dict, device: str) -> Found:
        told = records["loaders"]["repetitions"]
        if not {"pcpad, DALI", peer} <= set(told):
            return [], ["all"]
        return [spread("training images", told["pcpad, DALI"], told[peer])], []

    return figures


def loops(records: dict, device: str) -> Found:
    """Images/s of a training in times of the peers', made beforehand and from files."""
    found, missing = [], []
    for source in ("synthetic", "files"):
        if source not in records["training"]:
            missing.append(source)
            continue
        told = records["training"][source]["repetitions"]
        found += [spread(f"{source}, {peer}", told["pcpad"], told[peer]) for peer in told if peer != "pcpad"]
    return found, missing


def waiting(records: dict, device: str) -> Found:
    """Share of a training's time in which it waits for images, in percent."""
    found = []
    for name, record in records.items():
        if name.startswith("training_run"):
            share = record["whole"]["data_wait_percent"]
            found.append(Figure(record["loader"].partition(",")[0], share, share, share))
    return found, []


def repetitions(record: dict) -> dict[str, list[float]]:
    """Seconds of a grid, and of its forward passes, in every repetition; older records have one."""
    once = {"grid": [record["grid_seconds"]], "forward": [record["forward_seconds"]]}
    return record.get("repetitions", once)


def grid(records: dict, device: str) -> Found:
    """Seconds of a grid in times of its forward passes."""
    found = []
    for name, record in records.items():
        if name.partition("-")[0] == "grid":
            told = repetitions(record)
            found.append(spread(f"{record['images']} images", told["grid"], told["forward"]))
    return found, []


def start(call: str) -> Callable:
    """Seconds of a call of the command line, or what importing pcpad adds."""

    def figures(records: dict, device: str) -> Found:
        told = records["startup"]["seconds"] | {"import pcpad": records["startup"]["added_seconds"]}
        named = [name for name in told if name.startswith(call)]
        return [Figure(name, median(told[name]), *median_interval(told[name])) for name in named], []

    return figures


INFERENCE, TRAINING = ("inference",), ("training",)
GOALS = [
    Goal("partial, inference, eager", "padding", {"cuda": 1.03, "cpu": 1.02}, padding(["partial"], INFERENCE, False)),
    Goal(
        "partial, training step, eager", "padding", {"cuda": 1.06, "cpu": 1.03}, padding(["partial"], TRAINING, False)
    ),
    Goal("partial, compiled", "padding", {"cuda": 1.02, "cpu": 1.02}, padding(["partial"], INFERENCE + TRAINING, True)),
    Goal(
        "reflect, replicate, circular, eager",
        "padding",
        {"cuda": 1.1, "cpu": 1.1},
        padding(FILLING, INFERENCE + TRAINING, False),
    ),
    Goal("peak memory of a training step, partial", "padding", {"cuda": 1.01}, peaks),
    Goal(
        "DALI and torchvision's loader (PIL), images/s",
        "loaders",
        {"cpu": 1.5},
        loaders("torchvision, PIL"),
        least=True,
    ),
    Goal("DALI and timm's loader, images/s", "loaders", {"cpu": 1.9}, loaders("timm"), least=True),
    Goal("waiting for images in a training", "training_run", {"cuda": 2.0}, waiting, unit="%"),
    Goal("the loop and timm's and torchvision's, images/s", "training", {"cuda": 1.0, "cpu": 1.0}, loops, least=True),
    Goal("a grid and its forward passes", "grid", {"cpu": 1.15}, grid),
    Goal("`pcpad --help`", "startup", {"cpu": 0.5}, start("pcpad --help"), unit=" s"),
    Goal("`pcpad study table`", "startup", {"cpu": 4.0}, start("pcpad study table"), unit=" s"),
    Goal("`import pcpad` over `import torch`", "startup", {"cpu": 0.1}, start("import pcpad"), unit=" s"),
]


def row_of(goal: Goal, records: dict, device: str) -> list[str]:
    """A goal's row: its limit, how many figures meet it, their range, those that do not, and what was not measured."""
    limit, sign = goal.limit[device], -1 if goal.least else 1
    here = any(name.partition("-")[0] == goal.program for name in records)
    figures, missing = goal.figures(records, device) if here else ([], ["all"])

    def show(value: float) -> str:
        return f"{value:.3g}" if goal.unit else f"{value:.3f}"

    failed = []
    for figure in sorted(figures, key=lambda f: -sign * f.value):
        if sign * figure.value > sign * limit:
            near = sign * (figure.low if sign > 0 else figure.high) <= sign * limit
            span = f", {show(figure.low)} to {show(figure.high)}" if figure.low < figure.high else ""
            failed.append(f"{figure.name}: {show(figure.value)}{span}{' (within its error)' if near else ''}")
    ends = sorted(figure.value for figure in figures)
    span = "" if not ends else show(ends[0]) + (f" to {show(ends[-1])}" if len(ends) > 1 else "")
    told = f"{'at least' if goal.least else 'at most'} {limit:g}{goal.unit}"
    counted = Counter(of if isinstance(of, str) else " ".join(of[1:3]) for of in missing)
    left = ", ".join(f"{of}: {n}" if n > 1 else of for of, n in counted.items())
    return [goal.what, told, f"{len(figures) - len(failed)} of {len(figures)}", span, "<br>".join(failed), left]


def goals(folder: Path, device: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of one device, of the records in a folder."""
    records = {
        path.stem.removesuffix(f"-{device}"): json.loads(path.read_text()) for path in folder.glob(f"*-{device}.json")
    }
    head = ["", "goal", "met", "measured", "not met (95% interval of the median)", "not measured"]
    return head, [row_of(goal, records, device) for goal in GOALS if device in goal.limit]
