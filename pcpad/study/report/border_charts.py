"""The figures of the border study's records, from the data functions that its own plots are made with."""

from pcpad.evaluation.border.plots import footnote, name_of, points, rings_shown
from pcpad.evaluation.border.report import bias, directions, fidelity, layers, paddings, shift_records, shown_layers
from pcpad.study.report.charts import Chart, Panel, Point, Series

TRUE = "true context"


def border_charts(records: list[dict]) -> list[Chart]:
    """Border fidelity and spatial bias by distance from the border, fidelity through the depth, and shifts."""
    return [fidelity_chart(records), depth_chart(records), *bias_charts(records), shift_chart(records)]


def profile_panels(records: list[dict], values, true=None, factor: float = 1.0) -> tuple[Panel, ...]:
    """A panel for each shown layer: the values of each ring, the outermost first; layers without any are left out."""
    modes, panels = paddings(records), []
    for layer in shown_layers(records):
        if any(values(layer[mode])[0] is not None for mode in modes):
            rings = rings_shown(layer)
            lines = {TRUE: true(layer[modes[0]])} if true else {}
            lines |= {mode: values(layer[mode]) for mode in modes}
            series = tuple(Series(name, pairs(*points(line, factor, rings))) for name, line in lines.items())
            panels.append(Panel(name_of(layer[modes[0]]).replace("\n", ", "), series))
    return tuple(panels)


def pairs(xs: list, ys: list[float]) -> tuple[Point, ...]:
    """Points of two lists."""
    return tuple(Point(x, y) for x, y in zip(xs, ys, strict=True))


def note(shown: list[dict[str, dict]]) -> str:
    """What a star at a layer's name means, where there is one, as a sentence."""
    text = footnote(shown).strip()
    return f" {text}." if text else ""


def fidelity_chart(records: list[dict]) -> Chart:
    """Relative error by ring."""
    return Chart(
        name="fidelity",
        title="Border fidelity",
        told="Relative difference of a layer's features to those with true context, by distance from the border."
        + note(shown_layers(records)),
        x="distance from the border, feature positions",
        y="relative error, %",
        columns=("distance", "relative_error_percent"),
        finest=0.1,
        panels=profile_panels(records, fidelity, factor=100),
    )


def bias_charts(records: list[dict]) -> list[Chart]:
    """Spatial bias by ring; none where no layer has a centre to compare with."""
    panels = profile_panels(records, bias, true=lambda record: bias(record, "bias_true"))
    chart = Chart(
        name="bias",
        title="Spatial bias",
        told="Mean over channels of the distance between the mean in a ring and in the centre, in standard deviations "
        "of the centre; dashed, the features with true context." + note(shown_layers(records)),
        x="distance from the border, feature positions",
        y="bias, standard deviations",
        columns=("distance", "bias"),
        finest=0.01,
        panels=panels,
    )
    return [chart] if panels else []


def depth_chart(records: list[dict]) -> Chart:
    """Relative error of the outermost ring, through the depth of the network."""
    found, series = layers(records), []
    for mode in paddings(records):
        names = [f"{layer[mode]['layer']}{'' if layer[mode]['exact'] else ' *'}" for layer in found]
        places, heights = points([fidelity(layer[mode])[0] for layer in found], 100, len(found))
        series.append(Series(mode, pairs([names[i] for i in places], heights)))
    return Chart(
        name="depth",
        title="Border fidelity through the depth",
        told="Relative difference of the outermost ring to the features with true context, each padded layer."
        + note(found),
        x="layer",
        y="relative error of the outermost ring, %",
        columns=("layer", "relative_error_percent"),
        finest=0.1,
        panels=(Panel("", tuple(series)),),
        kind="rows",
    )


def shift_chart(records: list[dict]) -> Chart:
    """Share of changed predictions by shift, a panel for each direction."""
    held, modes, panels = shift_records(records), paddings(records), []
    for name in directions(held[modes[0]]["shifts"]):
        series = []
        for mode in modes:
            shifts = directions(held[mode]["shifts"])[name]
            ys = [100 * shift["changed"] / held[mode]["n"] for shift in shifts]
            series.append(Series(mode, pairs([max(shift["dx"], shift["dy"]) for shift in shifts], ys)))
        panels.append(Panel(f"moved {name}", tuple(series)))
    n = records[0]["n"]
    return Chart(
        name="shifts",
        title="Predictions under shifts",
        told=f"Share of {n} images whose top-1 class changes when the crop window moves.",
        x="shift of the crop window, pixels",
        y="top-1 changed, % of images",
        columns=("shift", "changed_percent"),
        finest=0.1,
        panels=tuple(panels),
    )
