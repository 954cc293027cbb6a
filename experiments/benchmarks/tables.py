"""The tables of the results in this folder, as Markdown; those of mixed-size batches stand in README.md.

    python experiments/benchmarks/tables.py

Reads the JSON files and writes TABLES.md beside them; says of each table when, on what and with which versions.
"""

import json
import sys
from pathlib import Path
from statistics import median

from goals import goals, key_of, repetitions
from intervals import median_interval

HERE = Path(__file__).resolve().parent


GOALS_SAID = (
    "In times of zero padding, or of the peer that is named. A figure is counted by its median, also one of code that "
    "has changed since; an interval of five repetitions or fewer is their whole range, so less sure than 95%. Reasons, "
    "and which figures are of older code, stand in [NOTES.md](NOTES.md)."
)


def table(head: list[str], rows: list[list[str]], left: tuple[int, ...] = (0,)) -> list[str]:
    """A Markdown table; all columns but those named to the right."""
    lines = [head, ["---" if i in left else "---:" for i in range(len(head))], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def about(result: dict) -> str:
    """When and on what, as one line."""
    of = result["versions"]
    wanted = [name for name in of if name in ("torch", "torchvision", "timm") or name.startswith("nvidia-dali")]
    named = ", ".join(f"{'DALI' if name.startswith('nvidia') else name} {of[name]}" for name in wanted)
    counted = {"workers": "for the images", "threads": "of torch"}
    counts = "".join(f"{key} {what}: {result[key]}, " for key, what in counted.items() if key in result)
    return f"{result['date']}, {result['hardware']}, {counts}{named}"


def padding(results: list[dict]) -> list[str]:
    """One table for each way of computing: networks and work by mode, ratios to zeros with intervals."""
    lines, groups = [], {}
    for result in results:
        key = (result["hardware"], result["compile"], result["amp"], result["channels_last"])
        groups.setdefault(key, []).append(result)
    for (_, compiled, _, _), group in groups.items():
        kind = ["compiled" if compiled else "eager", *key_of(group[0])[1:3]]
        ways = list(dict.fromkeys(way for result in group for way in result["ratios"] if way != "zeros"))
        rows = []
        for result in group:
            name = f"{result['network'].partition('/')[2]}, {result['work']}, {result['batch']} of {result['size']}"
            seconds = result["seconds"]
            row = []
            for way in ways:
                if way not in seconds:
                    row.append("")
                    continue
                low, high = median_interval([a / b for a, b in zip(seconds[way], seconds["zeros"], strict=True)])
                row.append(f"{result['ratios'][way]['ratio']:.2f} ({low:.2f} to {high:.2f})")
            rows.append([name, *row])
            peaks = result.get("peak_mib")
            if peaks:
                ratios = [f"{peaks[way] / peaks['zeros']:.3f}" if way in peaks else "" for way in ways]
                rows.append([f"{name}: peak memory", *ratios])
        lines += [f"### {', '.join(kind)}", "", *dict.fromkeys(map(about, group)), "", *table(["", *ways], rows), ""]
    return lines


def rates(result: dict, unit: str = "images/s") -> list[str]:
    """A table of rates with the lowest and the highest repetition."""
    rows = [
        [name, f"{rate:,.0f}", f"{min(result['repetitions'][name]):,.0f} to {max(result['repetitions'][name]):,.0f}"]
        for name, rate in result["rates"].items()
    ]
    return [about(result), "", *table(["", unit, "lowest to highest"], rows), ""]


def growth(result: dict) -> list[str]:
    """Rates, and of a training its steps."""
    rows = rates(result)
    steps = {name: rate / result["batch"] for name, rate in result["rates"].items() if name.startswith("training")}
    told = ", ".join(f"{rate:.1f} ({name.partition(', ')[2]})" for name, rate in steps.items())
    return [*rows, *([f"Steps/s of {result['model']}, {result['batch']} images each: {told}.", ""] if steps else [])]


def training(result: dict) -> list[str]:
    """Rates of the loops, and how many times as fast pcpad's is."""
    stated = f"{result['model']}, {result['batch']} images of {result['size']} pixels, amp {result['amp']}"
    stated += ", all loops in one process" if result.get("together") else ""
    lines = [f"{stated}; {about(result)}", ""]
    rows = []
    for source in ("synthetic", "files"):
        if source in result:
            found = result[source]
            for way, rate in found["rates"].items():
                other = found["pcpad_times_as_fast_as"].get(way)
                span = f"{other['ratio']:.2f} ({other['low']:.2f} to {other['high']:.2f})" if other else ""
                rows.append([f"{source}, {way}", f"{rate:.1f}", span])
    lines += table(["", "images/s", "pcpad is times as fast (quartiles)"], rows)
    if "files_to_synthetic" in result:
        told = ", ".join(f"{ratio:.2f} ({way})" for way, ratio in result["files_to_synthetic"].items())
        lines += ["", f"From files in times of the batch made beforehand: {told}."]
    if "share_of_product" in result:
        share, limit = result["share_of_product"], result["product_flop_per_second"] / 1e12
        lines += ["", f"pcpad computes at {share:.2f} of the rate of a large product of matrices, {limit:.0f} TFLOP/s."]
    return [*lines, ""]


def kernels(result: dict) -> list[str]:
    """Microseconds of each way on each map."""
    ways = list(result["results"][0]["microseconds"])
    rows = []
    for row in result["results"]:
        name = f"{'x'.join(map(str, row['shape']))}, {row['dtype'][6:]}, {row['layout'][6:].replace('_format', '')}"
        rows.append([name, *(f"{row['microseconds'][way]:.0f}" for way in ways)])
    lines = [f"Microseconds of one call; {about(result)}", "", *table(["", *ways], rows), ""]
    if of_depthwise := result.get("depthwise"):
        head = ["depthwise, bf16, channels_last", "taps outside for each pixel", *of_depthwise[0]["microseconds"]]
        rows = []
        for row in of_depthwise:
            name = f"{'x'.join(map(str, row['shape']))}, {row['kernel']}x{row['kernel']}, stride {row['stride']}"
            rows.append([name, f"{row['outside_per_pixel']:.2f}", *(f"{t:.0f}" for t in row["microseconds"].values())])
        lines += [*table(head, rows), ""]
    return lines


def one_run(result: dict) -> list[str]:
    """A training that was watched: its rates and how long it waited."""
    of, whole, rows = result["medians"], result["whole"], []
    shown = [("images/s", "images_per_second", 0), ("waiting for data, % of the time", "data_wait_percent", 1)]
    for name, key, digits in shown:
        low, high = min(result[key]), max(result[key])
        span = f"{low:,.{digits}f} to {high:,.{digits}f}"
        rows.append([name, f"{whole[key]:,.{digits}f}", f"{of[key]:,.{digits}f}", span])
    lines = [f"`{result['command']}`", "", f"{result['data']}; {result['loader']}; {result['note']}", ""]
    return [about(result), "", *lines, *table(["", "all entries", "median entry", "lowest to highest"], rows), ""]


def hotspots(result: dict) -> list[str]:
    """The first operations of a training step and of an evaluation, each with its share of the time."""
    lines = [f"{result['model']}, batches of {result['batch']}, amp {result['amp']}; {about(result)}", ""]
    for work in ("training step", "evaluation"):
        found = result[work]
        rows = [[f"`{o['name']}`", f"{o['calls']:,}", f"{o['share']:.1%}"] for o in found["operations"]]
        rows.append(["all of torch's operations", "", f"{found['in_operations']:.1%}"])
        lines += [*table([work, "calls", "share of the time"], rows), ""]
    return lines


def grid(result: dict) -> list[str]:
    """Seconds of a grid, of its cells one by one and of the forward passes."""
    of = f"{result['model']}, {result['images']} images, {len(result['cells'])} cells, {result['loader']}"
    told = repetitions(result)
    of += f", {len(told['grid'])} repetition{'s (the cells one)' if len(told['grid']) > 1 else ''}"
    ratios = [a / b for a, b in zip(told["grid"], told["forward"], strict=True)]
    rows = [["grid", f"{result['grid_seconds']:.1f}", ""]]
    rows.append(["its cells one by one", f"{result['cells_seconds']:.1f}", f"{result['ratio']:.2f}"])
    span = f"{median(ratios):.2f}" + (f" ({min(ratios):.2f} to {max(ratios):.2f})" if len(ratios) > 1 else "")
    rows.append(["forward passes alone", f"{result['forward_seconds']:.1f}", span])
    return [f"{of}; {about(result)}", "", *table(["", "seconds", "the grid takes times as long"], rows), ""]


def memory(result: dict) -> list[str]:
    """Seconds of a step and peak memory, with the memory of feature maps given back and kept."""
    rows = []
    for row in result["results"]:
        (given, kept), (low, high) = row["medians"].values(), (peak / 1024 for peak in row["peak_mib"].values())
        name = f"{row['model'].partition('/')[2]}, {row['work']}, {row['batch']} of {row['size']}"
        rows.append(
            [name, f"{given:.2f}", f"{kept:.2f}", f"{row['kept_is_times_as_fast']:.2f}", f"{low:.2f}, {high:.2f}"]
        )
    head = ["", "given back, s", "kept, s", "times as fast", "peaks, GiB"]
    return [about(result), "", *table(head, rows), ""]


def optimizer(result: dict) -> list[str]:
    """A training step by how its optimizer is run, in times of torch's default."""
    ways = [way for way in result["results"][0]["ratios"] if way != "default"]
    rows = []
    for row in result["results"]:
        base = row["seconds"]["default"]
        spans = [median_interval([a / b for a, b in zip(row["seconds"][way], base, strict=True)]) for way in ways]
        name = f"{row['model'].partition('/')[2]}, {row['optimizer']}, {row['batch']} of {row['size']}"
        cells = zip((row["ratios"][way]["ratio"] for way in ways), spans, strict=True)
        said = [f"{ratio:.3f} ({low:.3f} to {high:.3f})" for ratio, (low, high) in cells]
        rows.append([name, f"{1e3 * median(base):.1f}", *said])
    head = ["", "default and no look, ms", *ways]
    return [f"amp {result['amp']}; {about(result)}", "", *table(head, rows), ""]


def startup(result: dict) -> list[str]:
    """Seconds of each call."""
    rows = [[f"`{name}`", f"{seconds:.2f}"] for name, seconds in result["medians"].items()]
    adds = f"`import pcpad` adds {result['pcpad_adds_to_torch']:.4f} s to `import torch`."
    return [about(result), "", *table(["", "seconds, median"], rows), "", adds, ""]


def main() -> int:
    """Write TABLES.md."""
    lines = ["# Benchmarks", "", "Made by `tables.py` from the JSON files of this folder.", ""]
    lines += ["## The goals", "", GOALS_SAID, ""]
    for device in ("cpu", "cuda"):
        lines += [f"### {device}", "", *table(*goals(HERE, device), left=(0, 1, 4, 5)), ""]
    made = {
        "What a padding costs, in times of zero padding (95% interval of the median)": (
            "padding",
            lambda r: padding(r["results"]),
        ),
        "Loaders": ("loaders", rates),
        "Training loops": ("training", training),
        "A training from files": ("training_run", one_run),
        "Growth": ("growth", growth),
        "Kernels": ("kernels", kernels),
        "Hot spots": ("hotspots", hotspots),
        "A grid of paddings and sizes": ("grid", grid),
        "Memory of feature maps": ("memory", memory),
        "A training step by its optimizer, in times of torch's default (95% interval of the median)": (
            "optimizer",
            optimizer,
        ),
        "Start": ("startup", startup),
    }
    for title, (name, make) in made.items():
        for path in sorted(HERE.glob(f"{name}-*.json")):
            lines += [f"## {title}: {path.stem.partition('-')[2]}", "", *make(json.loads(path.read_text()))]
    (HERE / "TABLES.md").write_text("\n".join(lines).rstrip() + "\n")
    print(f"written: {HERE / 'TABLES.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
