"""The pictures of the documentation, drawn with pcpad's own functions."""

from pathlib import Path

import matplotlib as mpl
import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pcpad
from pcpad.padding.coverage import coverage
from pcpad.padding.fillers import FILLERS

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.patches import Rectangle

STYLE = {
    "svg.hashsalt": "pcpad",  # the same file each time
    "svg.fonttype": "none",
    "font.size": 9,
    "figure.facecolor": "white",
    "axes.spines.top": False,
    "axes.spines.right": False,
}
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
"""Okabe and Ito's, told apart by colour-blind readers; lines differ in their markers too."""


def draw(folder: Path) -> None:
    """Write every picture as SVG into a folder."""
    with mpl.rc_context(STYLE):
        for make in (fillings, flat, ratios, shares):
            figure = make()
            figure.savefig(folder / f"{make.__name__}.svg", metadata={"Date": None}, bbox_inches="tight")
            plt.close(figure)


def board(axes, values: np.ndarray, numbers: str | None = None, **shown) -> None:
    """A map as coloured squares, with its numbers in them where a format is given."""
    axes.imshow(values, **shown)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if numbers:
        middle = (shown["vmin"] + shown["vmax"]) / 2
        for (i, j), value in np.ndenumerate(values):
            colour = "white" if value < middle else "black"
            axes.text(j, i, format(value, numbers), ha="center", va="center", color=colour, fontsize=7)


def small_map() -> Tensor:
    """A map of 6 x 6 with a slope and a bright spot, ``(1, 1, 6, 6)``."""
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    return ((x + 2 * y) / 18 + 0.4 * torch.exp(-((x - 1) ** 2 + (y - 4) ** 2)))[None, None]


def fillings() -> plt.Figure:
    """What each mode puts around a map of 6 x 6, two pixels wide."""
    x, pads = small_map(), (2, 2, 2, 2)
    figure, axes = plt.subplots(2, 4, figsize=(7.4, 4))
    modes = ["zeros", "partial", "reflect", "symmetric", "replicate", "circular", "mean"]
    for axis, mode in zip(axes.flat, modes, strict=False):
        filled = FILLERS[mode].pad(x, pads) if mode in FILLERS else F.pad(x, (2, 2, 2, 2))
        values = filled[0, 0].numpy()
        if mode == "partial":
            values = np.where(F.pad(torch.ones_like(x), (2, 2, 2, 2))[0, 0] > 0, values, np.nan)
            axis.add_patch(
                Rectangle((-0.5, -0.5), 10, 10, facecolor="white", edgecolor="#999999", hatch="////", lw=0, zorder=-1)
            )
        board(axis, values, vmin=0, vmax=1.4, cmap="viridis")
        axis.add_patch(Rectangle((1.5, 1.5), 6, 6, fill=False, edgecolor="black", lw=1.5))
        axis.set_title(mode)
    axes.flat[-1].axis("off")
    figure.tight_layout(h_pad=2)
    return figure


def flat() -> plt.Figure:
    """A 3x3 mean over a map of ones: what is left of the ones at the border."""
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.6))
    for axis, mode in zip(axes, ("zeros", "partial_sqrt", "partial"), strict=True):
        conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.constant_(conv.weight, 1 / 9)
        net = nn.Sequential(conv)
        pcpad.convert(net, mode)
        with torch.no_grad():
            y = net(torch.ones(1, 1, 6, 6))[0, 0].numpy()
        board(axis, y, ".2f", vmin=0, vmax=1, cmap="viridis")
        axis.set_title(mode)
    figure.tight_layout()
    return figure


def ratios() -> plt.Figure:
    """K / n at each output of three convolutions."""
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.7))
    cases = [("3x3 on 7x7", 7, 3, 1, 1), ("5x5 on 7x7", 7, 5, 1, 2), ("7x7, stride 2, on 14x14", 14, 7, 2, 3)]
    for axis, (title, size, kernel, stride, pad) in zip(axes, cases, strict=True):
        n = coverage((size, size), (kernel, kernel), (stride, stride), (1, 1), (pad, pad, pad, pad))
        ratio = (kernel * kernel / torch.as_tensor(n, dtype=torch.float64)).numpy()
        board(axis, ratio, ".2f", vmin=1, vmax=3, cmap="viridis")
        axis.set_title(title)
    figure.tight_layout()
    return figure


def shares() -> plt.Figure:
    """How much of each layer of ResNet-50 lies at the border, by the size of the image."""
    figure, axis = plt.subplots(figsize=(7.4, 2.9))
    with torch.device("meta"):
        net = timm.create_model("resnet50").eval()
    for size, colour, marker in zip((64, 128, 224, 320), COLOURS, "os^D", strict=True):
        found = pcpad.inspect(net, "partial", size, search=False)
        share = [100 * layer.border_share for layer in found.geometry]
        axis.plot(range(1, len(share) + 1), share, marker=marker, ms=4, lw=1.2, color=colour, label=f"{size} pixels")
    axis.set(xlabel="padded convolution of ResNet-50, from the first to the last", ylabel="outputs at the border, %")
    axis.set_ylim(0, 105)
    axis.legend(frameon=False, ncol=4, loc="upper left")
    figure.tight_layout()
    return figure
