"""From which size on the Triton kernels are faster than torch's operations: microseconds of one call, forward and back.

    python experiments/benchmarks/kernels.py

On a GPU. Partial padding: the kernel, the product, and two slices changed in place; padding filled: the kernel,
F.pad and the blocks that pcpad uses without it. Depthwise convolutions with filled padding, in inference: of a padded
image, and with the taps outside the image added after. Writes kernels-cuda.json.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing

from pcpad.padding import border, gpu, gpu_depthwise
from pcpad.padding.blocks import assemble
from pcpad.padding.coverage import cached_ratio

HERE = Path(__file__).resolve().parent
SHAPES = [(1, 64, 56, 56), (4, 64, 56, 56), (16, 64, 56, 56), (64, 64, 56, 56), (256, 64, 56, 56)]
SHAPES += [(64, 512, 7, 7), (256, 512, 7, 7), (64, 960, 14, 14), (64, 96, 112, 112)]
PADS = (1, 1, 1, 1)
# images, channels, size, kernel, stride: of mobilenet_v2, efficientnet_b0 and convnext_tiny
DEPTHWISE = [(512, 32, 112, 3, 1), (512, 96, 112, 3, 2), (512, 144, 56, 3, 1), (512, 192, 28, 3, 1)]
DEPTHWISE += [(512, 384, 14, 3, 1), (512, 576, 14, 3, 2), (512, 960, 7, 3, 1), (512, 144, 56, 5, 2)]
DEPTHWISE += [(512, 240, 28, 5, 1), (512, 480, 14, 5, 1), (512, 1152, 7, 5, 1), (256, 96, 56, 7, 1)]
DEPTHWISE += [(256, 192, 28, 7, 1), (256, 384, 14, 7, 1), (256, 768, 7, 7, 1)]


def microseconds(run, device: torch.device, calls: int = 20) -> float:
    """Of one call, by the wall clock: starts of kernels count where the GPU waits for them."""
    return 1e6 * statistics.median(timing.in_turn({"": run}, 7, device, calls=calls)[""])


def ways(x: torch.Tensor) -> dict:
    """What is timed, on one map."""
    geometry = (tuple(x.shape[-2:]), (3, 3), (1, 1), (1, 1), PADS, 1.0)
    r = cached_ratio(*geometry, x.dtype, x.device)

    def slices() -> None:
        for strip in border.strips(x.shape, x.stride(), False, *geometry, x.dtype, x.device):
            strip.view.of(x).mul_(strip.ratio)

    found = {"border, kernel": lambda: gpu.rescale(x, None, geometry), "border, product": lambda: x * r}
    found |= {"border, slices": slices}
    pads = {"kernel": lambda v: gpu.fill(v, PADS, "reflect"), "F.pad": lambda v: F.pad(v, (1,) * 4, mode="reflect")}
    pads |= {"F.pad, replicate": lambda v: F.pad(v, (1,) * 4, mode="replicate")}
    pads |= {"F.pad, circular": lambda v: F.pad(v, (1,) * 4, mode="circular")}
    pads |= {"blocks, circular": lambda v: assemble(v, PADS, "circular")}
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    for name, pad in pads.items():
        found[f"pad, {name}"] = lambda pad=pad: pad(x)
        y = pad(leaf)
        upstream = torch.randn_like(y)
        found[f"gradient, {name}"] = lambda y=y, g=upstream: torch.autograd.grad(y, leaf, g, retain_graph=True)
    return found


def depthwise_ways(x: torch.Tensor, weight: torch.Tensor, stride: int) -> dict:
    """What is timed of a depthwise convolution: with zero padding, and with reflect padding in two ways."""
    channels, _, kernel, _ = weight.shape
    pad, step = kernel // 2, (stride, stride)
    geometry = ((kernel, kernel), step, (1, 1), (pad,) * 4, "reflect")
    return {
        "zeros": lambda: F.conv2d(x, weight, None, step, pad, 1, channels),
        "added": lambda: gpu_depthwise.convolve(x, weight, None, geometry),
        "padded": lambda: F.conv2d(gpu.fill(x, (pad,) * 4, "reflect"), weight, None, step, 0, 1, channels),
    }


def depthwise(device: torch.device) -> list[dict]:
    """All depthwise convolutions, bf16 in channels_last, without a gradient."""
    rows = []
    for images, channels, size, kernel, stride in DEPTHWISE:
        torch.manual_seed(0)
        x = torch.randn(images, channels, size, size, device=device, dtype=torch.bfloat16)
        weight = torch.randn(channels, 1, kernel, kernel, device=device, dtype=torch.bfloat16)
        x, weight = (t.contiguous(memory_format=torch.channels_last) for t in (x, weight))
        with torch.inference_mode():
            found = depthwise_ways(x, weight, stride)
            times = {name: round(microseconds(run, device, calls=5), 1) for name, run in found.items()}
        taps = gpu_depthwise.number((size, size), (kernel,) * 2, (stride,) * 2, (1, 1), (kernel // 2,) * 4, "reflect")
        rows.append({"shape": [images, channels, size, size], "kernel": kernel, "stride": stride})
        rows[-1] |= {"outside_per_pixel": round(taps / size**2, 2), "microseconds": times}
        print(rows[-1], flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=HERE / "kernels-cuda.json")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("the kernels run on a GPU, and torch finds none here")
    device, rows = torch.device("cuda"), []
    gpu.kernels(device)
    torch.backends.cudnn.benchmark = True  # as in a training (an evaluation takes what cuDNN chooses without)
    of_depthwise = depthwise(device)
    for dtype, layout in ((torch.bfloat16, torch.channels_last), (torch.float32, torch.contiguous_format)):
        for shape in SHAPES:
            x = torch.ones(shape, device=device, dtype=dtype).contiguous(memory_format=layout)
            torch.manual_seed(0)
            x += torch.rand_like(x)
            row = {name: round(microseconds(run, device), 1) for name, run in ways(x).items()}
            rows.append({"shape": shape, "dtype": str(dtype), "layout": str(layout), "microseconds": row})
            print(shape, str(dtype)[6:], *(f"{name} {time:.0f};" for name, time in row.items()), flush=True)
    timing.write(options.out, {"results": rows, "depthwise": of_depthwise} | timing.about(device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
