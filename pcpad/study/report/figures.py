"""Charts drawn as SVG that follows the page: text and axes in its colour, no background, one look in light and dark."""

import io
import re

import matplotlib
from matplotlib.figure import Figure

from pcpad.evaluation.border.plots import LOOK, TRUE, style
from pcpad.study.report.border_charts import TRUE as TRUE_CONTEXT
from pcpad.study.report.charts import TOP1, Chart, Panel, Series, description, name_of
from pcpad.study.report.page import Markup, element

# Grey that is seen on white and on black; all that is black is turned into the colour of the text around it.
OWN_LOOK = LOOK | {"grid.color": "#80808050", "legend.frameon": False, "lines.solid_capstyle": "round"}
OWN_LOOK |= {"text.parse_math": False}  # a name with two dollars is a name
WIDTH = 4.8
"""Of every figure, in inches: what a phone shows without making the text too small to read."""
LINES = ["-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5))]
"""Of lines of one padding, the first whole: they share its colour."""
FONTS = "'DejaVu Sans', Verdana, Arial, sans-serif"


def svg_of(chart: Chart) -> str:
    """The figure as a file of its own: dark on white, with title and description; the same bytes every time."""
    with matplotlib.rc_context(OWN_LOOK):
        figure = figure_of(chart)
        text = io.StringIO()
        plain = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(text, format="svg", transparent=True, metadata=plain)
    return prepared(text.getvalue(), chart)


def inline(svg: str) -> Markup:
    """The same inside a page: no prologue, no names of XML, the page's colours."""
    root, rest = re.match(r"<svg ([^>]*)>(.*)", svg, re.DOTALL).groups()
    root = re.sub(r'\s(xmlns(:\w+)?|style|version)="[^"]*"', "", f" {root}")
    return Markup(f"<svg{root}>{rest.replace('xlink:href=', 'href=')}".strip())


def prepared(svg: str, chart: Chart) -> str:
    """What matplotlib writes, made to follow the text's colour, with ids of its own and a text alternative."""
    name = chart.name
    svg = re.sub(r"^.*?(?=<svg )", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<metadata>.*?</metadata>|\s*<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    svg = svg.replace("#000000", "currentColor")
    svg = svg.replace("'DejaVu Sans'", FONTS)
    named = f' role="img" aria-labelledby="{name}-title {name}-desc" fill="currentColor" stroke-linejoin="round"'
    told = element("title", chart.title, id=f"{name}-title").text
    told += element("desc", description(chart), id=f"{name}-desc").text
    return re.sub(
        r"<svg ([^>]*)>",
        lambda m: f'<svg {m[1]}{named} style="color: #1f2328; background: #ffffff">{told}',
        svg,
        count=1,
    )


def figure_of(chart: Chart):
    """The matplotlib figure: panels two abreast, one legend above; placed by arithmetic, which is quick."""
    panels = chart.panels
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    labels = [name_of(s) for panel in panels for s in panel.series if s.look != "thin"]
    longest = max(map(len, labels), default=0)
    across = 3 if longest < 17 else 2 if longest < 29 else 1
    above = 0.12 + 0.19 * -(-len(dict.fromkeys(labels)) // across)
    gap, below = (0.48 if any(panel.title for panel in panels) else 0.2), 0.52
    if chart.kind == "rows":
        names = list(dict.fromkeys(point.x for panel in panels for s in panel.series for point in s.points))
        inside = len(names) * max(0.21, 0.12 * len(panels[0].series) + 0.08 if chart.signed else 0)
        left = 0.2 + 0.07 * max(map(len, names))
    else:
        inside, left = (2.5 if columns == 1 else 1.3 * rows + gap * (rows - 1)), 0.62
    titled = 0.25 if panels[0].title else 0.05
    height = above + titled + inside + below
    figure = Figure(figsize=(WIDTH, height))
    found = figure.subplots(rows, columns, squeeze=False, sharey=chart.kind == "lines")
    figure.subplots_adjust(
        left=left / WIDTH,
        right=0.975,
        top=1 - (above + titled) / height,
        bottom=below / height,
        hspace=gap / 1.3,
        wspace=0.12,
    )
    for axes, panel in zip(found.flat, panels, strict=False):
        draw = draw_rows if chart.kind == "rows" else draw_lines
        draw(axes, chart, panel)
        if panel.title:
            axes.set_title(panel.title, fontsize=7.5 if columns == 2 else 9)
    for axes in list(found.flat)[len(panels) :]:
        axes.remove()
    if chart.kind == "lines":
        middle = (left / WIDTH + 0.975) / 2
        figure.text(middle, 0.07 / height, chart.x, ha="center", va="bottom")
        figure.text(0.05 / WIDTH, (below + inside / 2) / height, chart.y, rotation=90, ha="left", va="center")
        from_zero(found.flat[0], panels, columns)
        if chart.y == TOP1:
            within_percents(found.flat[0])
    handles = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(
            handles.values(),
            handles.keys(),
            loc="upper center",
            ncols=across,
            fontsize=8.5,
            borderpad=0,
            borderaxespad=0.3,
        )
    return figure


def from_zero(axes, panels: tuple[Panel, ...], columns: int) -> None:
    """Let the y axis of profiles begin at 0 where values come near it."""
    lowest = min((point.y for panel in panels for s in panel.series for point in s.points), default=0)
    if columns == 2 and 0 <= lowest < 0.2 * axes.get_ylim()[1]:
        axes.set_ylim(bottom=0)


def within_percents(axes) -> None:
    """Let an axis of shares end at 0 and 100%: Student's interval of two values may reach far beyond either."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0.0), min(high, 100.0))


def look_of(series: Series, chart: Chart) -> dict:
    """Colour, marker and line of a series."""
    if series.label == TRUE_CONTEXT:
        return TRUE | {"color": "#808080", "label": series.label}
    look = style(series.label, [label for label in chart.labels if label != TRUE_CONTEXT])
    if series.look == "thin":
        return look | {"linewidth": 0.8, "alpha": 0.5, "marker": "None"}
    if series.look == "hollow":
        look |= {"markerfacecolor": "none", "markeredgewidth": 1.1}
    return look | {"label": name_of(series)}


def draw_lines(axes, chart: Chart, panel: Panel) -> None:
    """Lines from left to right, with bars where there are intervals, side by side so that none hides another."""
    places = sorted({point.x for series in panel.series for point in series.points})
    step = 0.012 * (places[-1] - places[0]) if places else 0.0
    for i, series in enumerate(panel.series):
        look = look_of(series, chart)
        before = sum(s.label == series.label and s.look == "plain" for s in panel.series[:i])
        if before and series.look == "plain":
            look |= {"linestyle": LINES[before % len(LINES)]}
        xs, ys = [point.x for point in series.points], [point.y for point in series.points]
        if series.points and all(point.low is not None for point in series.points) and "epoch" not in chart.x:
            xs = [x + step * (i - (len(panel.series) - 1) / 2) for x in xs]
            axes.errorbar(xs, ys, errors_of(series), elinewidth=1, **look | {"clip_on": True})
        else:
            axes.plot(xs, ys, **look)
    if 0 < len(places) <= 7:
        axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.tick_params(labelsize=8)
    axes.margins(x=0.06)


def errors_of(series: Series) -> list[list[float]]:
    """How far each interval reaches below and above its point; none as nothing."""
    below = [point.y - point.low if point.low is not None else 0.0 for point in series.points]
    above = [point.high - point.y if point.high is not None else 0.0 for point in series.points]
    return [below, above]


def draw_rows(axes, chart: Chart, panel: Panel) -> None:
    """Categories from top to bottom, values along them; series with intervals side by side."""
    names = list(dict.fromkeys(point.x for series in panel.series for point in series.points))
    many = len(panel.series)
    for i, series in enumerate(panel.series):
        look = look_of(series, chart) | {"linestyle": "none", "markersize": 5}
        move = 0.7 * ((i + 0.5) / many - 0.5) if chart.signed else 0.0
        places = [names.index(point.x) + move for point in series.points]
        values = [point.y for point in series.points]
        if chart.signed:
            axes.errorbar(values, places, xerr=errors_of(series), elinewidth=1.4, **look)
        else:
            axes.plot(values, places, **look)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(labelsize=8)
    axes.set_xlabel(chart.y)
    if chart.signed:
        axes.axvline(0, color="#000000", linewidth=0.9)
        axes.grid(False, axis="y")
        for place in range(1, len(names)):
            axes.axhline(place - 0.5, color="#80808050", linewidth=0.6)
    else:
        axes.set_xlim(left=0)
