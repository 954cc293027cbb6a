"""`pcpad border` on finished runs of a study, each with the padding that it was trained with; the table of all seeds.

    python experiments/border/trained/trained.py --runs runs/cifar10 --network timm_test_resnet --data /path/to/cifar10

Looks at the runs that are missing, keeps the records, and writes the table into the README beside this file. Without
`--runs` only the table is made.
"""

import argparse
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import yaml

from pcpad.evaluation.border.records import RECORDS, read_border
from pcpad.evaluation.border.report import bias, fidelity
from pcpad.lines import read_lines
from pcpad.statistics import decimals, mean, mean_interval, rounded
from pcpad.study.markdown import put_into, table
from pcpad.training.runfolder import read_run

HERE = Path(__file__).resolve().parent
IMAGES = 1000
WAYS = {
    "right without a shift, %": (0, "top1"),
    **{f"changed by a shift of {d}, %": (d, "changed") for d in (1, 4, 16)},
}


def look(run: Path, data: str) -> str:
    """The lines of one run's records."""
    padding = yaml.safe_load((run / "settings.yaml").read_text())["padding"]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "border"
        options = {"run": run, "data": data, "paddings": padding, "images": IMAGES, "out": out}
        subprocess.run(
            [sys.executable, "-m", "pcpad", "border", *(f"--{k}={v}" for k, v in options.items())], check=True
        )
        read_border(out)
        return (out / RECORDS).read_text()


def tables(records: list[dict]) -> str:
    """Mean over the runs of each padding, with half the 95% interval, for each layer and for the shifts."""
    paddings = list(dict.fromkeys(record["padding"] for record in records))
    features, shifts, layers = defaultdict(list), defaultdict(list), {}
    for record in records:
        if record["kind"] == "features":
            layers.setdefault(record["layer"], record)
            features[record["padding"], record["layer"]].append(record)
        else:
            shifts[record["padding"]].append(record)
    parts = [
        "Relative error of the outermost ring, in percent:",
        layer_table(layers, paddings, features, lambda record: percent(fidelity(record)[0])),
        "Spatial bias of the outermost ring, in standard deviations of the centre; `context` is that of the features "
        "with true context, of all runs:",
        layer_table(layers, paddings, features, lambda record: bias(record)[0], context=True),
        "Shifts, the mean of the three directions:",
        table(["", *paddings], [[way, *(cell(shifted(shifts[p], *WAYS[way])) for p in paddings)] for way in WAYS], 1),
    ]
    return "\n\n".join(parts)


def layer_table(layers: dict, paddings: list[str], features: dict, value, context: bool = False) -> str:
    """One row a layer, one column a padding."""
    rows = []
    for name, layer in layers.items():
        reach = "all" if layer["reach"] is None else str(layer["reach"])
        row = [f"`{name}`", f"{layer['height']}x{layer['width']}", reach + ("" if layer["exact"] else "*")]
        if context:
            row.append(cell([bias(r, "bias_true")[0] for p in paddings for r in features[p, name]]))
        rows.append([*row, *(cell([value(record) for record in features[p, name]]) for p in paddings)])
    return table(["layer", "map", "reach", *(["context"] if context else []), *paddings], rows, 3)


def shifted(records: list[dict], pixels: int, key: str) -> list[float]:
    """A share in percent for each run, averaged over the directions of a shift."""
    total = {"top1": "labelled", "changed": "n"}[key]
    found = []
    for record in records:
        own = [shift[key] for shift in record["shifts"] if max(shift["dx"], shift["dy"]) == pixels]
        found.append(100 * sum(own) / len(own) / record[total])
    return found


def percent(share: float | None) -> float | None:
    """A share in percent."""
    return None if share is None else 100 * share


def cell(values: list[float | None]) -> str:
    """``"57.2 ± 1.4"``: the mean and half its 95% interval, with the digits that this supports."""
    if not values or None in values:
        return "-"
    interval = mean_interval(values)
    if interval is None:
        return rounded(values[0], 2)
    half = (interval[1] - interval[0]) / 2
    places = decimals(half, 0.001)
    return f"{rounded(mean(values), places)} ± {rounded(half, places)}"


def main() -> None:
    """Look at what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--runs", type=Path, help="folder of finished runs; without it only the table")
    parser.add_argument("--network", default="", help="how the names of the runs begin")
    parser.add_argument("--data", help="the images that they were trained with")
    options = parser.parse_args()
    if options.runs and not options.data:
        parser.error("--runs needs --data: the images that the runs were trained with")
    file = HERE / "runs.jsonl"
    records = read_lines(file) if file.is_file() else []
    if options.runs:
        done = {record["run"] for record in records}
        runs = sorted(path for path in options.runs.glob(f"{options.network}*") if (path / "run.json").is_file())
        if not runs:
            parser.error(f"no run in {options.runs} has a name that begins with {options.network!r}")
        for run in runs:
            if read_run(run)["id"] not in done:
                lines = look(run, options.data)
                with file.open("a") as out:
                    out.write(lines)
        records = read_lines(file)
    put_into(HERE / "README.md", tables(records))


if __name__ == "__main__":
    main()
