"""From which size on the Triton kernels are faster than torch's operations: microseconds of one call, forward and back.

    python experiments/benchmarks/kernels.py

On a GPU. Partial padding: the kernel, the product, and four slices changed in place; padding filled: the kernel,
F.pad and the blocks that pcpad uses without it. Writes kernels-cuda.json.
"""

import argparse
import statistics
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent))

import timing

from pcpad.padding import border, gpu
from pcpad.padding.blocks import assemble
from pcpad.padding.coverage import cached_ratio

HERE = Path(__file__).resolve().parent
SHAPES = [(1, 64, 56, 56), (4, 64, 56, 56), (16, 64, 56, 56), (64, 64, 56, 56), (256, 64, 56, 56)]
SHAPES += [(64, 512, 7, 7), (256, 512, 7, 7), (64, 960, 14, 14), (64, 96, 112, 112)]
PADS = (1, 1, 1, 1)


def microseconds(run, device: torch.device, calls: int = 20) -> float:
    """Of one call, by the wall clock: starts of kernels count where the GPU waits for them."""
    return 1e6 * statistics.median(timing.in_turn({"": run}, 7, device, calls=calls)[""])


def ways(x: torch.Tensor) -> dict:
    """What is timed, on one map."""
    geometry = (tuple(x.shape[-2:]), (3, 3), (1, 1), (1, 1), PADS, 1.0)
    r = cached_ratio(*geometry, x.dtype, x.device)

    def slices() -> None:
        for rows, cols, ratio, _ in border.strips(*geometry, x.dtype, x.device):
            x[..., rows, cols].mul_(ratio)

    found = {"border, kernel": lambda: gpu.rescale(x, None, geometry), "border, product": lambda: x * r}
    found |= {"border, slices": slices}
    pads = {"kernel": lambda v: gpu.fill(v, PADS, "reflect"), "F.pad": lambda v: F.pad(v, (1,) * 4, mode="reflect")}
    pads |= {"F.pad, replicate": lambda v: F.pad(v, (1,) * 4, mode="replicate")}
    pads |= {"F.pad, circular": lambda v: F.pad(v, (1,) * 4, mode="circular")}
    pads |= {"blocks, circular": lambda v: assemble(v, PADS, mirrored=False)}
    leaf = x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    for name, pad in pads.items():
        found[f"pad, {name}"] = lambda pad=pad: pad(x)
        y = pad(leaf)
        upstream = torch.randn_like(y)
        found[f"gradient, {name}"] = lambda y=y, g=upstream: torch.autograd.grad(y, leaf, g, retain_graph=True)
    return found


def main(argv: list[str] | None = None) -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=HERE / "kernels-cuda.json")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        parser.error("the kernels run on a GPU, and torch finds none here")
    device, rows = torch.device("cuda"), []
    gpu.kernels(device)
    for dtype, layout in ((torch.bfloat16, torch.channels_last), (torch.float32, torch.contiguous_format)):
        for shape in SHAPES:
            x = torch.ones(shape, device=device, dtype=dtype).contiguous(memory_format=layout)
            torch.manual_seed(0)
            x += torch.rand_like(x)
            row = {name: round(microseconds(run, device), 1) for name, run in ways(x).items()}
            rows.append({"shape": shape, "dtype": str(dtype), "layout": str(layout), "microseconds": row})
            print(shape, str(dtype)[6:], *(f"{name} {time:.0f};" for name, time in row.items()), flush=True)
    timing.write(options.out, {"results": rows} | timing.about(device))
    return 0


if __name__ == "__main__":
    sys.exit(main())
