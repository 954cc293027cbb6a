"""Fill irregular holes in photographs: a small U-Net of PartialConv2d against the same net of plain convolutions.

    python experiments/inpainting/inpaint.py --images /path/to/photographs

Writes results.json and examples.png beside this file (``--out``). Source: Liu et al., "Image Inpainting for Irregular
Holes Using Partial Convolutions", arXiv:1804.07723: the U-Net with a mask for each channel, nearest upsampling, and the
loss's pixel terms (6 in the holes, 1 elsewhere); without its perceptual terms, which need a pretrained network.
"""

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn
from torch.nn import functional as F

from pcpad import PartialConv2d
from pcpad.data.damage import open_rgb
from pcpad.data.manifest import EXTENSIONS
from pcpad.environment import hardware, pick_device, versions

HERE = Path(__file__).resolve().parent
WIDTHS = (24, 48, 96, 96)
KERNELS = (7, 5, 3, 3)
HOLE_WEIGHT = 6.0


class Block(nn.Module):
    """Convolution, batch norm, activation; a partial one takes and gives a mask for each channel."""

    def __init__(self, partial: bool, inputs: int, outputs: int, kernel: int, stride: int, last: bool = False):
        super().__init__()
        kind = PartialConv2d if partial else nn.Conv2d
        self.conv = kind(inputs, outputs, kernel, stride, kernel // 2, bias=last)
        self.norm = nn.Identity() if last else nn.BatchNorm2d(outputs)
        self.activation = nn.Identity() if last else nn.LeakyReLU(0.2)
        self.partial = partial

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        x, mask = self.conv(x, mask) if self.partial else (self.conv(x), mask)
        return self.activation(self.norm(x)), mask


class UNet(nn.Module):
    """An encoder of strided convolutions and a decoder of nearest upsampling with skips.

    Both forms get the image with 0 in its holes; the plain one also gets the mask, as a fourth channel.

    Args:
        partial: of PartialConv2d that carry a mask for each channel, else of nn.Conv2d.
    """

    def __init__(self, partial: bool):
        super().__init__()
        first = 3 if partial else 4
        channels = [first, *WIDTHS]
        self.partial = partial
        self.down = nn.ModuleList(
            Block(partial, channels[i], channels[i + 1], kernel, 2) for i, kernel in enumerate(KERNELS)
        )
        steps = range(len(WIDTHS) - 1, -1, -1)
        self.up = nn.ModuleList(
            Block(partial, channels[i + 1] + channels[i], channels[i] if i else 3, 3, 1, last=i == 0) for i in steps
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Image ``(N, 3, H, W)`` in -1..1 and mask ``(N, 1, H, W)``, True = known, to an image ``(N, 3, H, W)``."""
        x = torch.where(mask, x, 0)
        if not self.partial:
            x = torch.cat([x, mask.to(x.dtype)], 1)
        mask = mask.expand(-1, x.shape[1], -1, -1)
        kept = []
        for block in self.down:
            kept.append((x, mask))
            x, mask = block(x, mask)
        for block in self.up:
            skip, skip_mask = kept.pop()
            x = torch.cat([F.interpolate(x, scale_factor=2), skip], 1)
            if self.partial:
                mask = torch.cat([mask.repeat_interleave(2, 2).repeat_interleave(2, 3), skip_mask], 1)
            x, mask = block(x, mask)
        return x


def holes(count: int, side: int, rng: np.random.Generator) -> Tensor:
    """Irregular masks of brush strokes: bool ``(count, 1, side, side)``, False in 10 to 50% of each."""
    masks = []
    while len(masks) < count:
        sheet = Image.new("L", (side, side), 1)
        pen = ImageDraw.Draw(sheet)
        for _ in range(rng.integers(1, 6)):
            point, angle = rng.uniform(0, side, 2), rng.uniform(0, 2 * math.pi)
            width = int(rng.integers(side // 16, side // 5))
            for _ in range(rng.integers(2, 8)):
                angle += rng.uniform(-1, 1)
                end = point + rng.uniform(side / 10, side / 3) * np.array([math.cos(angle), math.sin(angle)])
                pen.line([*point, *end], fill=0, width=width)
                pen.ellipse([*(end - width / 2), *(end + width / 2)], fill=0)
                point = end
        mask = np.asarray(sheet, dtype=bool)
        if 0.1 <= 1 - mask.mean() <= 0.5:
            masks.append(mask)
    return torch.from_numpy(np.stack(masks))[:, None]


def find_images(folder: Path) -> list[Path]:
    """All images below a folder, sorted; raises ValueError if there are fewer than 20."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in EXTENSIONS)
    if len(found) < 20:
        raise ValueError(f"--images {folder}: {len(found)} images found, at least 20 are needed")
    return found


def load(paths: list[Path], side: int) -> Tensor:
    """Centre squares of images, resized: uint8 ``(n, 3, side, side)``."""
    images = []
    for path in paths:
        image = open_rgb(str(path))
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        image = image.crop((left, top, left + short, top + short)).resize((side, side), Image.Resampling.BICUBIC)
        images.append(np.asarray(image).transpose(2, 0, 1))
    return torch.from_numpy(np.stack(images))


def scaled(images: Tensor) -> Tensor:
    """uint8 to float32 in -1..1."""
    return images.float() / 127.5 - 1


def train(partial: bool, images: Tensor, steps: int, batch: int, seed: int, device: torch.device) -> UNet:
    """Train one net with Adam under a cosine; images, crops, flips and holes are the same for both nets."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = UNet(partial).to(device).train()
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(steps):
        truth = scaled(images[rng.integers(len(images), size=batch)])
        truth = (truth.flip(3) if rng.random() < 0.5 else truth).to(device)
        mask = holes(batch, truth.shape[-1], rng).to(device)
        error = (net(truth, mask) - truth).abs()
        weights = torch.where(mask, 1.0, HOLE_WEIGHT)
        loss = (error * weights).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(steps // 5, 1) == 0:
            name = "partial" if partial else "plain"
            print(f"{name}, seed {seed}: step {step + 1}/{steps}, loss {float(loss.detach()):.4f}", flush=True)
    return net.eval()


@torch.no_grad()
def fill(net: UNet, truth: Tensor, mask: Tensor) -> Tensor:
    """The image with its holes filled, known pixels kept."""
    return torch.where(mask, truth, net(truth, mask).clamp(-1, 1))


def errors(filled: Tensor, truth: Tensor, mask: Tensor) -> dict[str, float]:
    """Mean absolute error inside the holes, of 255, and the PSNR there, in dB."""
    off = ((filled - truth) * 127.5)[~mask.expand_as(truth)]
    return {"l1": float(off.abs().mean()), "psnr": float(10 * torch.log10(255**2 / (off**2).mean()))}


def mean_colour(truth: Tensor, mask: Tensor) -> Tensor:
    """Each image's mean known colour in its holes: what a net must beat."""
    known = torch.where(mask, truth, 0).sum((2, 3), True) / mask.sum((2, 3), True)
    return torch.where(mask, truth, known)


def picture(rows: list[list[Tensor]], path: Path) -> None:
    """A sheet of images: each row the input, the results and the truth."""
    side = rows[0][0].shape[-1]
    zoom, gap = 2, 4
    sheet = Image.new(
        "RGB", (len(rows[0]) * (side * zoom + gap) - gap, len(rows) * (side * zoom + gap) - gap), (255, 255, 255)
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            pixels = ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
            tile = Image.fromarray(pixels).resize((side * zoom, side * zoom), Image.Resampling.NEAREST)
            sheet.paste(tile, (j * (side * zoom + gap), i * (side * zoom + gap)))
    sheet.save(path)


def main(argv: list[str] | None = None) -> int:
    """Train both nets for each seed, evaluate on held-out images, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--images", type=Path, required=True, help="a folder of photographs, at any depth")
    parser.add_argument("--out", type=Path, default=HERE, help="where results.json and examples.png go")
    parser.add_argument("--side", type=int, default=64, help="of the square images, in pixels; a multiple of 16")
    parser.add_argument("--steps", type=int, default=1500, help="training steps of each net")
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each net")
    parser.add_argument("--device", default="auto", help="auto, cuda or cpu")
    options = parser.parse_args(argv)
    if options.side < 32 or options.side % 16:
        parser.error(f"--side {options.side}: give a multiple of 16 from 32 up")
    for name in ("steps", "batch", "seeds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} {getattr(options, name)}: at least 1")
    try:
        device = pick_device(options.device)
        paths = find_images(options.images)
        held_out = paths[::10]
        images = load([path for i, path in enumerate(paths) if i % 10], options.side)
        truth = scaled(load(held_out, options.side)).to(device)
        options.out.mkdir(parents=True, exist_ok=True)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    mask = holes(len(truth), options.side, np.random.default_rng(1234)).to(device)
    runs, shown, start = [], {}, time.perf_counter()
    for seed in range(options.seeds):
        for partial in (False, True):
            net = train(partial, images, options.steps, options.batch, seed, device)
            filled = torch.cat([fill(net, t, m) for t, m in zip(truth.split(50), mask.split(50), strict=True)])
            name = "partial" if partial else "plain"
            runs.append({"net": name, "seed": seed, **errors(filled, truth, mask)})
            shown.setdefault(name, filled)
            print(
                f"{name}, seed {seed}: {runs[-1]['l1']:.2f} of 255 in the holes, {runs[-1]['psnr']:.2f} dB", flush=True
            )
    baseline = errors(mean_colour(truth, mask), truth, mask)
    summary = {}
    for name in ("plain", "partial"):
        values = np.array([run["l1"] for run in runs if run["net"] == name])
        deviation = round(float(values.std(ddof=1)), 3) if len(values) > 1 else None
        summary[name] = {"l1": round(float(values.mean()), 3), "deviation": deviation, "n": len(values)}
    results = {
        "summary": summary,
        "mean_colour": baseline,
        "runs": runs,
        "settings": {k: getattr(options, k) for k in ("side", "steps", "batch", "seeds")},
        "images": {"train": len(images), "held_out": len(truth), "hole_share": round(float((~mask).float().mean()), 3)},
        "parameters": {n: sum(p.numel() for p in UNet(n == "partial").parameters()) for n in ("plain", "partial")},
        "minutes": round((time.perf_counter() - start) / 60, 1),
        "hardware": hardware(device),
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    (options.out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    rows = [
        [torch.where(mask[i], truth[i], 1), shown["plain"][i], shown["partial"][i], truth[i]]
        for i in range(0, len(truth), max(len(truth) // 6, 1))
    ][:6]
    picture(rows, options.out / "examples.png")
    print(f"mean colour: {baseline['l1']:.2f} of 255; results: {options.out / 'results.json'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
