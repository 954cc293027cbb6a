"""Weights of zero padding brought to every other padding, on one half of some photographs, and evaluated on the other.

Runs what is missing, keeps the records, and writes the table into the README beside this file.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pcpad.statistics import wilson

HERE = Path(__file__).resolve().parent
RECORDS = HERE / "records.jsonl"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
PADDINGS = ["zeros", "partial", "replicate", "reflect", "circular"]
WAYS = {"at once": [], "ramp": ["--adapt.ramp_epochs", "2", "--adapt.recalibrate", "0"]}
STAGES = ["unconverted", "converted", "recalibrated", "epoch"]
FINE_TUNING = {
    "epochs": "3",
    "batch_size": "50",
    "eval_batch_size": "50",
    "adapt.recalibrate": "500",
    "adapt.distill": "1",
    "optim.lr": "0.005",
    "schedule.warmup_epochs": "0",
    "augment.scale": "[0.35,1.0]",
    "save.keep": "1",
    "data.check": "none",
}
"""All of the loss is the difference to the unconverted network: the halves have no class in common."""


def halves(photographs: Path, folder: Path) -> Path:
    """``train/`` and ``val/`` with every other class each, as links."""
    for i, source in enumerate(sorted(path for path in photographs.iterdir() if path.is_dir())):
        target = folder / ("train", "val")[i % 2] / source.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(source)
    return folder


def read() -> list[dict]:
    """The records that are there."""
    return [json.loads(line) for line in RECORDS.read_text().splitlines()] if RECORDS.is_file() else []


def run(options: argparse.Namespace, data: Path, padding: str, way: str) -> None:
    """Adapt once, and add its records to those that are there."""
    out = data.parent / f"{padding}-{way.replace(' ', '-')}"
    shutil.rmtree(out, ignore_errors=True)
    settings = FINE_TUNING | {"model": options.model, "weights": options.weights, "padding": padding}
    settings |= {"data": str(data), "out": str(out), "device": options.device}
    command = [sys.executable, "-m", "pcpad", "adapt", *(f"--{name}={value}" for name, value in settings.items())]
    subprocess.run([*command, *WAYS[way]], check=True)
    lines = map(json.loads, (out / "records.jsonl").read_text().splitlines())
    kept = [line | {"way": way, "adapted_to": padding} for line in lines]
    with RECORDS.open("a") as file:
        file.write("".join(json.dumps(line) + "\n" for line in kept))


def table(records: list[dict]) -> str:
    """Top-1 of each padding at each stage, with 95% intervals."""
    rows = ["| padding | way | " + " | ".join(["unconverted", "converted", "recalibrated", "last epoch"]) + " |"]
    rows.append("|---|---|---:|---:|---:|---:|")
    for padding in PADDINGS:
        for way in WAYS:
            own = {r["checkpoint"]: r for r in records if (r["adapted_to"], r["way"]) == (padding, way)}
            if own:
                rows.append(f"| {padding} | {way} | {' | '.join(cell(own.get(stage)) for stage in STAGES)} |")
    return "\n".join(rows)


def cell(record: dict | None) -> str:
    """``"88.2 (85.1 to 90.7)"``, in percent."""
    if record is None:
        return ""
    low, high = (100 * bound for bound in wilson(record["top1"], record["n"]))
    return f"{100 * record['top1'] / record['n']:.1f} ({low:.1f} to {high:.1f})"


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photographs", type=Path, help="folder of ImageNet class folders; without it only the table")
    parser.add_argument("--model", default="timm/tf_efficientnet_lite0")
    parser.add_argument("--weights", default="pretrained", help="file, or the library's")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    if options.photographs:
        done = {(r["adapted_to"], r["way"]) for r in read() if r["checkpoint"] == "epoch"}
        with tempfile.TemporaryDirectory() as folder:
            data = halves(options.photographs.resolve(), Path(folder) / "halves")
            for padding in PADDINGS:
                for way in WAYS if padding == "partial" else ["at once"]:
                    if (padding, way) not in done:
                        run(options, data, padding, way)
    page = HERE / "README.md"
    text = page.read_text()
    head, tail = text.partition(BEGIN)[0], text.partition(END)[2]
    page.write_text(f"{head}{BEGIN}\n\n{table(read())}\n\n{END}{tail}")


if __name__ == "__main__":
    main()
