"""All benchmarks of this machine, one after the other, then the tables: what `make bench` and `make bench-gpu` run.

    python experiments/benchmarks/everything.py --device cpu --data /path/to/photographs --only padding loaders

Nothing else may run on the machine meanwhile. Those that read images are left out where no folder of them is named.
"""

import argparse
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing

HERE = Path(__file__).resolve().parent
BOTH = ["--work", "inference", "training"]
COMPILED = ["zeros", "partial", "partial, textbook"]
FEW = ["--network", "resnet50", "mobilenet_v2", *BOTH]
HEAVY, LIGHT = ["resnet50", "vgg16_bn", "convnext_tiny"], ["mobilenet_v2", "efficientnet_b0"]


def plan(device: str, data: str | None, batch: int, missing: bool = False) -> list[tuple[str, list[str]]]:
    """Name and arguments of each program; the batch is that of the larger networks on a GPU."""
    there = ["--device", device]
    if device == "cpu":
        heavy, light = ["--network", "resnet50", "convnext_tiny"], ["--network", "mobilenet_v2", "efficientnet_b0"]
        found = [
            ("padding", [*there, *light, *BOTH, "--repeats", "61"]),
            ("padding", [*there, *heavy, *BOTH, "--repeats", "31"]),
        ]
        found += [("padding", [*there, "--network", "vgg16_bn", "--batch", "4", *BOTH, "--repeats", "15"])]
        found += [("padding", [*there, *FEW, "--compile", "--ways", *COMPILED, "--repeats", "31"])]
        found += [("padding", [*there, *FEW, "--amp", "--repeats", "21"])]
        sizes, threads = ["--sizes", "96", "160", "224", "320", "448"], ["--threads", "1", "2", "4", "8"]
        train: list[str] = []
    else:
        heavy = [*there, *BOTH, "--network", *HEAVY, "--batch", str(batch)]
        light = [*there, *BOTH, "--network", *LIGHT, "--batch", str(2 * batch)]
        found = [("padding", [*nets, "--amp"]) for nets in (heavy, light)]
        found += [("padding", [*nets, "--amp", "--compile", "--ways", *COMPILED]) for nets in (heavy, light)]
        found += [("padding", [*nets, "--channels_last", "1"]) for nets in (heavy, light)]
        found += [
            ("padding", [*nets, *amp, "--channels_last", "0"]) for amp in ([], ["--amp"]) for nets in (heavy, light)
        ]
        sizes, threads = ["--sizes", "224", "448"], ["--threads", "1", "2", "4", "8", "16"]
        train = ["--model", "torchvision/resnet50", "--batch", str(batch), "--size", "224"]
        train += [
            "--steps",
            "100",
            "--amp",
            "bf16",
        ]  # a log entry is waited for, and ten are written whatever the number
    found = [(name, [*arguments, *["--missing"] * missing]) for name, arguments in found]
    found += [("kernels", [])] if device == "cuda" else []
    found += [("startup", ["--out", str(HERE / f"startup-{device}.json")])]
    found += [("memory", [])] if device == "cpu" else []
    found += [("optimizer", there)]
    read = ["--data", data] if data else []
    found += [("training", [*there, *read, *train])]
    if data:
        found += [
            ("hotspots", [*there, *read]),
            ("grid", [*there, "--images", "400", *read, "--out", str(HERE / f"grid-{device}.json")]),
        ]
        if device == "cuda":
            found += [("training_run", [*there, *read, "--batch", str(batch)])]
        found += [
            ("loaders", [*there, *read]),
            ("loaders", [*there, *read, "--evaluation"]),
            ("growth", [*there, *read, *sizes, *threads]),
        ]
    return found


def main(argv: list[str] | None = None) -> int:
    """Run what was asked for; returns the number of programs that failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--data", help="folder of a folder for each class")
    names = [
        "padding",
        "kernels",
        "startup",
        "memory",
        "optimizer",
        "training",
        "hotspots",
        "grid",
        "loaders",
        "growth",
        "training_run",
    ]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument(
        "--batch", type=int, default=256, help="on a GPU, for one of 80 GB; the smaller networks take two"
    )
    parser.add_argument("--missing", action="store_true", help="of padding only what its results do not have yet")
    options = parser.parse_args(argv)
    timing.device_here(parser, options.device)
    timing.check_data(parser, options.data)
    if not options.data:
        print(
            "hotspots, grid, loaders, growth and training_run need images, and are left out: DATA=/path/of/folders",
            flush=True,
        )
    failed = []
    for name, arguments in plan(options.device, options.data, options.batch, options.missing):
        if name in options.only:
            print(f"== {name} {' '.join(arguments)}", flush=True)
            done = subprocess.run([sys.executable, "-W", "ignore", str(HERE / f"{name}.py"), *arguments])
            failed += [name] if done.returncode else []
    subprocess.run([sys.executable, str(HERE / "tables.py")], check=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
