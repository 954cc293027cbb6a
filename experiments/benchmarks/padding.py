"""What each padding costs in a whole network, against zero padding of the same network in the same run.

    python experiments/benchmarks/padding.py --network resnet50 --work inference training

Beside pcpad's own: the textbook form of partial padding, in which a mask of ones is convolved and the whole output
multiplied, and torch's padding_mode, which pads by F.pad before each convolution; on a GPU also partial padding without
the Triton kernels. Writes padding-<device>.json.
"""

import argparse
import contextlib
import copy
import json
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing

import pcpad
from pcpad import models
from pcpad.environment import hardware, keep_freed_memory
from pcpad.padding import gpu

HERE = Path(__file__).resolve().parent
NETWORKS = {
    "resnet50": "torchvision/resnet50",
    "vgg16_bn": "torchvision/vgg16_bn",
    "mobilenet_v2": "torchvision/mobilenet_v2",
    "convnext_tiny": "timm/convnext_tiny",
    "efficientnet_b0": "timm/efficientnet_b0",
}
OURS = ["zeros", "partial", "reflect", "replicate", "circular"]
PRODUCT = "partial, product"
OTHERS = ["partial, textbook", "reflect, F.pad", "replicate, F.pad", "circular, F.pad"]


class Textbook(nn.Conv2d):
    """Partial padding as it is usually written: the mask is convolved once for each size, then used everywhere.

    In the dtype of the output: in float32 the ratio and the bias would make what follows under autocast float32 too.
    """

    def forward(self, x: Tensor) -> Tensor:
        size = tuple(x.shape[-2:])
        if getattr(self, "size", None) != size:
            ones = x.new_ones(1, 1, *self.kernel_size)
            seen = F.conv2d(x.new_ones(1, 1, *size), ones, None, self.stride, self.padding, self.dilation)
            self.size, self.ratio = size, ones.numel() / seen
        y = super().forward(x)
        self.ratio = self.ratio.to(y.dtype)
        if self.bias is None:
            return y * self.ratio
        bias = self.bias.to(y.dtype).view(-1, 1, 1)
        return (y - bias) * self.ratio + bias


def network(name: str, way: str, base: nn.Module) -> nn.Module:
    """A copy of the network in one of the ways."""
    net = copy.deepcopy(base)
    mode, _, form = way.partition(", ")
    if form in ("", "product"):
        pcpad.convert(net, mode)
        return net
    for module in net.modules():
        if type(module) is nn.Conv2d and module.padding not in ("valid", 0, (0, 0)):
            if form == "textbook":
                module.__class__ = Textbook
            else:
                module.padding_mode = mode
                top, left = module.padding
                module._reversed_padding_repeated_twice = [left, left, top, top]
    return net


def work(net: nn.Module, x: Tensor, labels: Tensor, training: bool, amp: bool) -> Callable[[], None]:
    """One forward pass, or one training step with SGD."""
    cast = torch.autocast(x.device.type, torch.bfloat16, enabled=amp)
    if not training:
        net.eval()

        def forward() -> None:
            with torch.inference_mode(), cast:
                net(x)

        return forward
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), 1e-4, momentum=0.9)

    def step() -> None:
        with cast:
            loss = F.cross_entropy(net(x).float(), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def without_kernels(run: Callable[[], None]) -> Callable[[], None]:
    """The same without the Triton kernels, as where Triton is not there."""

    def plain() -> None:
        kept, gpu.LARGE = gpu.LARGE, 2**62
        try:
            run()
        finally:
            gpu.LARGE = kept

    return plain


def prepare(options: argparse.Namespace, name: str, doing: str, device: torch.device) -> dict[str, Callable[[], None]]:
    """All ways of one network at one work, each as it is called."""
    torch.manual_seed(0)
    layout = {"memory_format": torch.channels_last if options.channels_last else torch.contiguous_format}
    base = models.build(models.resolve(NETWORKS[name]), 1000).to(device, **layout)
    x = torch.randn(options.batch, 3, options.size, options.size, device=device).to(**layout)
    labels = torch.randint(1000, (options.batch,), device=device)
    if options.compile:  # all ways are of one class: beyond 8 of them they would run uncompiled, without an error
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.fail_on_recompile_limit_hit = True
    ways = {}
    for way in options.ways:
        net = network(name, way, base)
        run = work(torch.compile(net) if options.compile else net, x, labels, doing == "training", options.amp)
        ways[way] = without_kernels(run) if way == PRODUCT else run
    return ways


def compiled_beside(ways: dict[str, Callable[[], None]]) -> None:
    """Call each once, which compiles it, while others compile: cuDNN's trials of algorithms are left for later.

    What cuDNN finds is kept for a shape and for whether TF32 is allowed, so that nothing found here is used again.
    """
    cudnn = torch.backends.cudnn
    kept = cudnn.benchmark, cudnn.allow_tf32
    cudnn.benchmark, cudnn.allow_tf32 = False, False
    try:
        for run in ways.values():
            run()
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = kept
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def peak_memory(ways: dict[str, Callable[[], None]], device: torch.device) -> dict[str, float]:
    """MiB that a call of each way takes at its peak beside weights and optimizer states; nothing on a CPU."""
    if device.type != "cuda":
        return {}
    for run in ways.values():  # what a first call allocates is kept
        run()
    peaks = {}
    for way, run in ways.items():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated(device)
        run()
        peaks[way] = (torch.cuda.max_memory_allocated() - before) / 2**20
    return peaks


def measure(
    options: argparse.Namespace, name: str, doing: str, device: torch.device, ways: dict[str, Callable[[], None]]
) -> dict:
    """All ways of one network at one work, in turn."""
    peaks = peak_memory(ways, device)
    seconds = timing.in_turn(ways, options.repeats, device, calls=options.calls)
    found = timing.ratios(seconds, "zeros")
    for way, ratio in found.items():
        memory = f", memory {peaks[way] / peaks['zeros']:.3f}" if peaks else ""
        print(
            f"{name:16}{doing:10}{way:18} {ratio['ratio']:.3f} ({ratio['low']:.3f} to {ratio['high']:.3f}){memory}",
            flush=True,
        )
    return stated(options, name, doing) | {
        "ratios": found,
        "seconds": {way: [round(s, 5) for s in times] for way, times in seconds.items()},
        "peak_mib": peaks,
        "peak": "beside weights and optimizer states",
    }


def stated(options: argparse.Namespace, name: str, doing: str) -> dict:
    """What was asked for of a network."""
    return {
        "network": NETWORKS[name],
        "work": doing,
        "batch": options.batch,
        "size": options.size,
        "channels_last": options.channels_last,
        "compile": options.compile,
        "amp": "bf16" if options.amp else "off",
    }


def main(argv: list[str] | None = None) -> int:
    """Measure, print each ratio, and add the results to those that are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--network", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--work", nargs="+", default=["inference", "training"], choices=["inference", "training"])
    parser.add_argument("--ways", nargs="+", choices=[*OURS, PRODUCT, *OTHERS], help="all if not given")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--channels_last", type=int, default=1)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--amp", action="store_true", help="bf16 autocast")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calls", type=int, default=1, help="of each way in a repetition")
    parser.add_argument(
        "--trials", type=int, help="of algorithms by cuDNN for a convolution; torch's number if not given"
    )
    parser.add_argument(
        "--turn", type=Path, help="lock file: programs with the same one prepare at once, and are timed one at a time"
    )
    parser.add_argument("--missing", action="store_true", help="only what the results do not have of this hardware")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(argv)
    device = timing.device_here(parser, options.device)
    options.ways = options.ways or [*OURS, *[PRODUCT] * (device.type == "cuda"), *OTHERS]
    if options.ways[0] != "zeros":
        parser.error("--ways begin with zeros, which all are compared with")
    options.channels_last = bool(options.channels_last)
    keep_freed_memory(device)  # as `pcpad train` and `pcpad eval` do
    torch.backends.cudnn.benchmark = True  # as `pcpad train` does
    if options.trials is not None:
        torch.backends.cudnn.benchmark_limit = options.trials
    path = options.out or HERE / f"padding-{device.type}.json"
    asked, failed = [], False
    for name, doing in product(options.network, options.work):
        wanted = stated(options, name, doing) | {"ratios": options.ways, "hardware": hardware(device)}
        if options.missing and any(replaced(wanted, there) for there in results(path)):
            print(f"{name:16}{doing:10}is there", flush=True)
        else:
            asked.append((name, doing))
    turn = timing.Turn(options.turn)
    prepared = {}
    for key in asked if options.turn else ():
        with contextlib.suppress(torch.OutOfMemoryError):  # where it is alone there may be enough
            prepared[key] = prepare(options, *key, device)
            if options.compile:
                compiled_beside(prepared[key])
    turn.wait()
    for key in asked:
        found = None
        try:
            ready = prepared.pop(key, None) or prepare(options, *key, device)
            found = measure(options, *key, device, ready) | timing.about(device)
        except torch.OutOfMemoryError:
            print(f"{', '.join(key)}: no memory for {options.batch} images; try a smaller --batch", file=sys.stderr)
            failed = True
        ready = None
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if found:
            others = [r for r in results(path) if not replaced(r, found)]  # read now: another may have had its turn
            timing.write(path, {"results": [*others, found]})
    turn.end()
    return int(failed)


def results(path: Path) -> list[dict]:
    """Those that are there."""
    return json.loads(path.read_text())["results"] if path.is_file() else []


def replaced(old: dict, new: dict) -> bool:
    """Whether a result is that of the same measurement as a newer one, which has all its ways."""
    keys = ("network", "work", "batch", "size", "channels_last", "compile", "amp", "hardware")
    return all(old[key] == new[key] for key in keys) and set(old["ratios"]) <= set(new["ratios"])


if __name__ == "__main__":
    sys.exit(main())
