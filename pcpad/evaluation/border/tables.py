"""The border study's tables in Markdown, from its records."""

from collections.abc import Callable, Iterable

from pcpad.evaluation.border.report import (
    bias,
    directions,
    fidelity,
    layers,
    paddings,
    shift_records,
    whole_fidelity,
)


def tables(records: list[dict]) -> str:
    """All tables, with what they were measured on."""
    first = records[0]
    n, modes = first["n"], paddings(records)
    versions = ", ".join(f"{name} {first['versions'][name]}" for name in ("torch", "timm") if name in first["versions"])
    parts = [
        f"# What padding does near the border: {first['model']}",
        f"{n} images of {first['data']}, {first['size']} pixels inside {first['size'] + 2 * first['margin']}; "
        f"weights trained with {first['padding_trained'] or 'a padding that is not known'}; seed {first['seed']}; "
        f"{first['hardware']}; {versions}; loader {first['loader']}; settings {first['settings_digest']}.",
        "## Border fidelity",
        "Relative error of the outermost ring of each padded convolution's output, in percent: norm of the difference "
        "to the features with true context over the norm of those, all images together. `reach`: pixels from the "
        f"border to where padding can reach. A star: it reaches past the {first['margin']} pixels of context, so the "
        "true features still hold some of the larger image's own padding.",
        layer_table(records, modes, lambda record: percent(fidelity(record)[0])),
        "The same over all positions:",
        layer_table(records, modes, lambda record: percent(whole_fidelity(record))),
        "## Spatial bias",
        "Mean over channels of the distance between a channel's mean in the outermost ring and in the centre, in units "
        "of its standard deviation in the centre. `context`: of the features with true context at the same places "
        f"({modes[0]}), which is what the photographs' own composition and chance give.",
        layer_table(records, modes, lambda record: number(bias(record)[0]), context=True),
        "## Shifts",
        "Images whose top-1 class changes when the crop window moves, in percent of all and as a count.",
        shift_table(records, modes, "changed", "n"),
    ]
    if any(record["labelled"] for record in shift_records(records).values()):
        parts += ["Top-1 accuracy, in percent and as a count.", shift_table(records, modes, "top1", "labelled")]
    return "\n\n".join(parts) + "\n"


def layer_table(records: list[dict], modes: list[str], cell: Callable[[dict], str], context: bool = False) -> str:
    """One row for each layer, one column for each padding."""
    head = ["layer", "map", "stride", "reach", *(["context"] if context else []), *modes]
    rows = []
    for layer in layers(records):
        one = layer[modes[0]]
        reach = "all" if one["reach"] is None else str(one["reach"])
        row = [f"`{one['layer']}`", f"{one['height']}x{one['width']}", str(one["stride"])]
        row.append(reach + ("" if one["exact"] else "*"))
        if context:
            row.append(number(bias(one, "bias_true")[0]))
        rows.append([*row, *(cell(layer[mode]) for mode in modes)])
    return markdown(head, rows)


def shift_table(records: list[dict], modes: list[str], key: str, total: str) -> str:
    """One row for each shift, one column for each padding: a count as a share and as it is."""
    held = shift_records(records)
    rows = []
    for name, shifts in directions(held[modes[0]]["shifts"]).items():
        for shift in shifts:
            pixels = max(shift["dx"], shift["dy"])
            if pixels == 0 and (key == "changed" or name != "right"):
                continue  # the unshifted window once, where it says something
            cells = []
            for mode in modes:
                same = next(s for s in held[mode]["shifts"] if (s["dx"], s["dy"]) == (shift["dx"], shift["dy"]))
                cells.append(f"{percent(same[key] / held[mode][total])} ({same[key]})")
            rows.append(["none" if pixels == 0 else f"{name} {pixels}", *cells])
    return markdown(["shift in pixels", *modes], rows)


def markdown(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def percent(share: float | None) -> str:
    """A share in percent, with one digit."""
    return "-" if share is None else f"{100 * share:.1f}"


def number(value: float | None) -> str:
    """A number with two digits."""
    return "-" if value is None else f"{value:.2f}"
