"""Where the time of a training step and of an evaluation goes: the first operations by their own time.

    python experiments/benchmarks/hotspots.py --data /path/to/photographs --model torchvision/resnet18

Training is pcpad's loop on one batch made beforehand, evaluation `pcpad eval` of three paddings at two sizes on the
photographs, both under torch's profiler, which sees torch's operations; what is between them is Python, autograd's
walk and waiting for images. An evaluation draws random weights too, before it reads its own.
Writes hotspots-<device>.json.
"""

import argparse
import contextlib
import io
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing
import training

from pcpad import models
from pcpad.config import EvalSettings
from pcpad.config.images import DataSettings
from pcpad.evaluation.run import evaluate

HERE = Path(__file__).resolve().parent


def device_of(event) -> bool:
    """Whether an event is of a GPU."""
    return event.device_type == DeviceType.CUDA


def profiled(work) -> dict:
    """Seconds of a piece of work, and the share of each of the first operations."""
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        work()
    seconds = time.perf_counter() - start
    events = [event for event in found.key_averages() if event.key.startswith("aten::") or device_of(event)]

    def own(event) -> float:
        return event.self_device_time_total or event.self_cpu_time_total

    # On a GPU its kernels are what counts: an operation's device time is that of its kernels once more.
    on_gpu = [event for event in events if device_of(event)]
    events = [event for event in on_gpu if not event.is_user_annotation] or events  # which span kernels of their own
    first = sorted(events, key=own, reverse=True)[:8]
    total = sum(own(event) for event in events) / 1e6
    return {
        "seconds": round(seconds, 3),
        "in_operations": round(total / seconds, 3),
        "operations": [
            {"name": e.key, "calls": e.count, "share": round(own(e) / 1e6 / seconds, 4)} for e in first if own(e)
        ],
    }


def train(options: argparse.Namespace) -> dict:
    """Some steps of pcpad's loop."""
    torch.manual_seed(0)
    net = models.build(models.resolve(options.model), 1000).to(options.device)
    options.images_from = "synthetic"
    training.run_pcpad(options, net, training.Stamps(options))
    return profiled(lambda: training.run_pcpad(options, net, training.Stamps(options)))


def evaluation(options: argparse.Namespace, folder: Path) -> dict:
    """One grid."""
    weights, images = folder / "weights.pth", timing.some_images(options.data, folder / "images", options.images)
    torch.save(models.build(models.resolve(options.model), timing.num_classes(images)).state_dict(), weights)

    def work(out: str) -> None:
        settings = EvalSettings(
            model=options.model,
            weights=str(weights),
            paddings="zeros,partial,reflect",
            sizes="160,224",
            data=DataSettings(name=str(images)),
            batch_size=options.batch,
            device=options.device.type,
            out=str(folder / out),
        )
        with contextlib.redirect_stdout(io.StringIO()):
            evaluate(settings)

    work("warm")
    return profiled(lambda: work("profiled"))


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", required=True, help="folder of a folder for each class")
    parser.add_argument("--images", type=int, default=100, help="of them, for the evaluation: its profile is large")
    parser.add_argument("--model", default="torchvision/resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--amp", default="off", choices=["off", "bf16"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    options.device = timing.device_here(parser, options.device)
    timing.check_data(parser, options.data)
    with tempfile.TemporaryDirectory(prefix="pcpad-bench-") as folder:
        result = {"training step": train(options), "evaluation": evaluation(options, Path(folder))}
    for name, found in result.items():
        print(f"{name}: {found['seconds']} s, {found['in_operations']:.0%} of it in torch's operations")
        for operation in found["operations"]:
            print(f"  {operation['share']:6.1%}  {operation['name']} ({operation['calls']} calls)")
    stated = {key: getattr(options, key) for key in ("model", "batch", "size", "steps", "amp")}
    path = options.out or HERE / f"hotspots-{options.device.type}.json"
    timing.write(path, result | stated | timing.about(options.device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
