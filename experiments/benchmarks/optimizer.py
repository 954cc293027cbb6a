"""A training step with each way to make its last part: the optimizer, and the look for numbers that are not finite.

    python experiments/benchmarks/optimizer.py --device cpu

Forward and backward pass and the step, fp32 on a CPU and bf16 on a GPU, channels_last, a batch made beforehand: with
torch's optimizer as it is by default and no look, as peers do; with a look before the step; and as pcpad does it, fused
and left out on the device where a number is not finite. Every way has a network of its own, all in turn in one process.
Writes optimizer-<device>.json.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pcpad import models
from pcpad.config import OptimSettings
from pcpad.environment import keep_freed_memory
from pcpad.training.fused import is_fused
from pcpad.training.guard import all_finite, gradients, only_if
from pcpad.training.optimizer import make_optimizer

HERE = Path(__file__).resolve().parent
WAYS = ["default", "default, looked at before", "fused"]
# network, optimizer, images of a batch, pixels
CASES = {
    "cpu": [
        ("torchvision/resnet18", "sgd", 64, 128),
        ("torchvision/resnet18", "sgd", 64, 32),
        ("torchvision/resnet50", "sgd", 16, 64),
        ("torchvision/mobilenet_v2", "sgd", 64, 32),
        ("torchvision/resnet18", "adamw", 64, 32),
        ("torchvision/resnet50", "adamw", 16, 64),
        ("timm/convnext_tiny", "adamw", 16, 64),
    ],
    "cuda": [
        ("torchvision/resnet50", "sgd", 256, 224),
        ("torchvision/resnet50", "adamw", 256, 224),
        ("timm/convnext_tiny", "adamw", 256, 224),
    ],
}


def torch_optimizer(net: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    """The same, as torch makes it where nothing is said of how."""
    if settings.name == "sgd":
        how = {"momentum": settings.momentum, "nesterov": settings.nesterov, "weight_decay": settings.weight_decay}
        return torch.optim.SGD(net.parameters(), settings.lr, **how)
    return torch.optim.AdamW(net.parameters(), settings.lr, weight_decay=settings.weight_decay)


def a_step(way: str, name: str, kind: str, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A training step of a network of its own."""
    torch.manual_seed(0)
    net = models.build(models.resolve(name), 1000).to(x.device, memory_format=torch.channels_last).train()
    settings = OptimSettings(name=kind, lr=0.01 if kind == "sgd" else 1e-3, decay="all")
    optimizer = make_optimizer(net, settings) if way == "fused" else torch_optimizer(net, settings)
    if is_fused(optimizer) != (way == "fused"):
        raise SystemExit(f"{name}, {kind}: the optimizer of {way!r} is fused, or is not, where it should")

    def step() -> None:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=x.device.type == "cuda"):
            loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        loss = loss.detach()
        if way == "default":
            optimizer.step()
            loss.item()
            return
        fine = all_finite(loss, gradients(optimizer))
        if way == "fused":
            with only_if(fine, optimizer):
                optimizer.step()
            bool(fine)
        elif bool(fine):
            optimizer.step()

    return step


def measure(case: tuple[str, str, int, int], repeats: int, device: torch.device) -> dict:
    """Seconds of a step of each way, and their ratios to torch's default."""
    name, kind, batch, size = case
    torch.manual_seed(0)
    x = torch.randn(batch, 3, size, size, device=device).to(memory_format=torch.channels_last)
    y = torch.randint(1000, (batch,), device=device)
    seconds = timing.in_turn({way: a_step(way, name, kind, x, y) for way in WAYS}, repeats, device, warm=3)
    return {
        **{"model": name, "optimizer": kind, "batch": batch, "size": size},
        "ratios": timing.ratios(seconds, "default"),
        "seconds": {way: [round(s, 5) for s in times] for way, times in seconds.items()},
    }


def main(argv: list[str] | None = None) -> int:
    """Measure all cases of the device, print, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    device = timing.device_here(parser, options.device)
    keep_freed_memory(device)
    torch.backends.cudnn.benchmark = True  # as in a training
    results = []
    for case in CASES[device.type]:
        results.append(measure(case, options.repeats, device))
        name, kind, batch, size = case
        middle = statistics.median(results[-1]["seconds"]["default"])
        said = ", ".join(f"{way} {found['ratio']:.3f}" for way, found in results[-1]["ratios"].items())
        print(f"{name}, {kind}, {batch} of {size}: {1e3 * middle:.1f} ms; {said}", flush=True)
    amp = "bf16" if device.type == "cuda" else "off"
    path = options.out or HERE / f"optimizer-{device.type}.json"
    timing.write(path, {"results": results, "amp": amp} | timing.about(device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
