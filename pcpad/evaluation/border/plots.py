"""The border study's plots, as SVG and PNG, from its records.

Colours are those of Okabe and Ito, which people with any kind of colour vision tell apart; each padding has its own
marker and dash besides.
"""

from itertools import groupby
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from pcpad.evaluation.border.report import bias, directions, fidelity, layers, paddings, shift_records, shown_layers

STYLES = {
    "zeros": ("#000000", "o"),
    "partial": ("#D55E00", "s"),
    "reflect": ("#0072B2", "^"),
    "replicate": ("#009E73", "D"),
    "circular": ("#CC79A7", "v"),
    "symmetric": ("#56B4E9", "X"),
    "mean": ("#E69F00", "P"),
    "partial_sqrt": ("#8C6D00", "*"),
}
SPARE = [("#5E5E5E", "h"), ("#332288", "<"), ("#882255", ">")]
"""Colours and markers of padding modes that are not named above, in order."""
TRUE = {"color": "#6E6E6E", "linestyle": (0, (4, 2)), "linewidth": 1.4}
LOOK = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "svg.hashsalt": "pcpad",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
}


def plots(records: list[dict], folder: Path) -> list[Path]:
    """Draw every figure into a folder, as SVG and PNG; returns the files."""
    drawers = {
        "fidelity": draw_fidelity,
        "depth": draw_depth,
        "bias": draw_bias,
        "maps": draw_maps,
        "shifts": draw_shifts,
    }
    files = []
    with matplotlib.rc_context(LOOK):
        for name, draw in drawers.items():
            figure = draw(records)
            for kind in ("svg", "png") if figure else ():
                files.append(folder / f"{name}.{kind}")
                figure.savefig(files[-1], dpi=160, metadata={"Date": None} if kind == "svg" else {"Software": None})
                figure.set_layout_engine("none")  # it has done its work, and would take the same time again
    return files


def style(padding: str, known: list[str]) -> dict:
    """Colour and marker of a padding mode."""
    others = [name for name in known if name not in STYLES]
    color, marker = STYLES.get(padding) or SPARE[others.index(padding) % len(SPARE)]
    return {"color": color, "marker": marker, "markersize": 4, "linewidth": 1.5, "markeredgewidth": 0, "clip_on": False}


def new_figure(width: float, height: float, rows: int, cols: int, **kwargs):
    """A figure and its axes as a flat list."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, list(figure.subplots(rows, cols, squeeze=False, **kwargs).flat)


def name_of(record: dict) -> str:
    """A layer's name with its map, for the title of a panel."""
    star = "" if record["exact"] else " *"
    return f"{record['layer']}{star}\n{record['height']}x{record['width']}, stride {record['stride']}"


def footnote(shown: list[dict[str, dict]]) -> str:
    """What a star at a layer's name means, where there is one."""
    starred = any(not record["exact"] for layer in shown for record in layer.values())
    return "\n* its true features still hold some of the larger image's own padding" if starred else ""


def legend(figure, axes, columns: int) -> None:
    """One legend for the whole figure, below its panels."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)


def profile(records: list[dict], title: str, label: str, values, true=None, factor: float = 1.0):
    """One panel for each shown layer: a value by distance from the border, one line for each padding.

    Layers without a value are left out; None where there is none with one.

    Args:
        values, true: function of a record to the value of each ring, the outermost first; `true` that of the features
            with true context.
        factor: of the values as they are shown.
    """
    modes = paddings(records)
    shown = [layer for layer in shown_layers(records) if any(values(layer[mode])[0] is not None for mode in modes)]
    if not shown:
        return None
    figure, panels = new_figure(max(2.1 * len(shown), 4.5), 3.4, 1, len(shown), sharey=True)
    for axes, layer in zip(panels, shown, strict=True):
        rings = rings_shown(layer)
        if true is not None:
            axes.plot(*points(true(layer[modes[0]]), factor, rings), label="true context", **TRUE)
        for mode in modes:
            axes.plot(*points(values(layer[mode]), factor, rings), label=mode, **style(mode, modes))
        axes.set_title(name_of(layer[modes[0]]))
        axes.set_xticks(range(0, rings, 1 if rings <= 7 else 2))
        axes.set_xlim(-0.25, max(rings - 1, 1) + 0.25)
    panels[0].set_ylim(bottom=0)  # of all panels; before the last line it would hold the upper end too
    panels[0].set_ylabel(label)
    panels[len(shown) // 2].set_xlabel("distance from the border, in feature positions" + footnote(shown))
    figure.suptitle(title, fontsize=10)
    legend(figure, panels[0], len(modes) + 1)
    return figure


def rings_shown(layer: dict[str, dict], most: int = 9) -> int:
    """How many rings of a layer are worth showing: up to where every padding's error has fallen below 0.1%."""
    errors = [[value or 0.0 for value in fidelity(record)] for record in layer.values()]
    last = max((i for one in errors for i, value in enumerate(one) if value >= 1e-3), default=0)
    return min(max(last + 2, 4), most, len(errors[0]))


def points(values: list[float | None], factor: float, rings: int) -> tuple[list[int], list[float]]:
    """Positions and values of a line, of the outermost rings."""
    kept = [(i, factor * value) for i, value in enumerate(values[:rings]) if value is not None]
    return [i for i, _ in kept], [value for _, value in kept]


def draw_fidelity(records: list[dict]):
    """Relative error by ring."""
    title = f"Border fidelity of {records[0]['model']}: difference to the features with true context"
    return profile(records, title, "relative error, %", fidelity, factor=100)


def draw_bias(records: list[dict]):
    """Spatial bias by ring."""
    title = f"Spatial bias of {records[0]['model']}: mean activation by ring against the centre"
    return profile(records, title, "bias, standard deviations", bias, true=lambda record: bias(record, "bias_true"))


def draw_depth(records: list[dict]):
    """Relative error of the outermost ring, through the depth of the network."""
    modes, found = paddings(records), layers(records)
    figure, (axes,) = new_figure(max(0.34 * len(found) + 2.2, 5), 3.9, 1, 1)
    ends = {}
    for mode in modes:
        values = [fidelity(layer[mode])[0] for layer in found]
        places, heights = points(values, 100, len(values))
        axes.plot(places, heights, **style(mode, modes))
        ends[mode] = heights[-1] if heights else 0.0
    axes.set_ylim(bottom=0)
    heads = [next(iter(layer.values())) for layer in found]
    axes.set_xticks(range(len(found)), [f"{r['layer']}{'' if r['exact'] else ' *'}" for r in heads], rotation=90)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel(footnote(found).strip(), fontsize=8)
    top, first = axes.get_ylim()[1], 0
    for stride, group in groupby(heads, key=lambda record: record["stride"]):
        after = first + len(list(group))
        axes.text(
            (first + after - 1) / 2, top, f"stride {stride}", ha="center", va="bottom", fontsize=8, color="#444444"
        )
        if after < len(heads):
            axes.axvline(after - 0.5, color="#999999", linewidth=0.8)
        first = after
    axes.set_ylabel("relative error of the outermost ring, %")
    axes.set_title(f"Border fidelity of {records[0]['model']} through its depth", pad=16)
    label_ends(axes, len(found) - 1, ends, modes)
    return figure


def label_ends(axes, x: float, ends: dict[str, float], modes: list[str]) -> None:
    """The name of each line at its right end, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.055 * (high - low)
    placed = []
    for mode, y in sorted(ends.items(), key=lambda item: item[1]):
        placed.append((mode, max(y, placed[-1][1] + gap) if placed else y))
    over = max(placed[-1][1] - high, 0) if placed else 0
    for mode, y in placed:
        color = style(mode, modes)["color"]
        axes.annotate(
            mode, (x, y - over), (8, 0), textcoords="offset points", color=color, va="center", annotation_clip=False
        )


def draw_shifts(records: list[dict]):
    """Share of changed predictions, and accuracy, by shift; one column for each direction."""
    held, modes = shift_records(records), paddings(records)
    known = any(record["labelled"] for record in held.values())
    names = list(directions(held[modes[0]]["shifts"]))
    rows = [("changed", "n", "top-1 changed, % of images"), ("top1", "labelled", "top-1 accuracy, %")][: 1 + known]
    figure, panels = new_figure(8.6, 2.6 * len(rows) + 0.7, len(rows), len(names), sharex=True, sharey="row")
    for r, (key, total, label) in enumerate(rows):
        for c, name in enumerate(names):
            axes = panels[r * len(names) + c]
            for mode in modes:
                shifts = directions(held[mode]["shifts"])[name]
                ys = [100 * s[key] / held[mode][total] for s in shifts]
                axes.plot(range(len(ys)), ys, label=mode, **style(mode, modes))
            axes.set_xticks(range(len(shifts)), [str(max(s["dx"], s["dy"])) for s in shifts])
            if r == 0:
                axes.set_title(name)
        panels[r * len(names)].set_ylabel(label)
    panels[0].set_ylim(0, max(panels[0].get_ylim()[1], 1))
    panels[-len(names) // 2].set_xlabel("shift of the crop window, in pixels")
    figure.suptitle(f"Predictions of {records[0]['model']} under shifts, {records[0]['n']} images", fontsize=10)
    legend(figure, panels[0], len(modes))
    return figure


def draw_maps(records: list[dict]):
    """Mean activation maps against the centre, of the layers whose maps are recorded; None where there is none."""
    modes = paddings(records)
    shown = [layer for layer in shown_layers(records) if all(layer[mode]["picture"] for mode in modes)]
    if not shown:
        return None
    figure, panels = new_figure(1.5 * (len(modes) + 1) + 0.8, 1.75 * len(shown) + 0.5, len(shown), len(modes) + 1)
    for r, layer in enumerate(shown):
        pictures = {"true context": layer[modes[0]]["picture_true"]} | {m: layer[m]["picture"] for m in modes}
        highest = max(max(map(max, picture)) for picture in pictures.values())
        row = panels[r * len(pictures) : (r + 1) * len(pictures)]
        for axes, (name, picture) in zip(row, pictures.items(), strict=True):
            image = axes.imshow(picture, cmap="viridis", vmin=0, vmax=highest)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.grid(False)
            if r == 0:
                axes.set_title(name)
        row[0].set_ylabel(name_of(layer[modes[0]]), fontsize=8)
        figure.colorbar(image, ax=row, shrink=0.9, label="std. dev.")
    figure.suptitle(f"Spatial bias of {records[0]['model']}\n|mean map - centre|, mean over channels", fontsize=10)
    return figure
