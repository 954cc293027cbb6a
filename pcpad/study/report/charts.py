"""The numbers of a figure: lines of points with intervals, in panels; drawn, written as CSV and told in words."""

import csv
import io
from dataclasses import dataclass

from pcpad.statistics import decimals, rounded

TOP1 = "top-1, %"
"""The axis of a share of images, which ends at 0 and 100."""
MOST_TOLD = 12
"""Points of a line that its description lists; of more, the first, the last and the highest."""


@dataclass(frozen=True)
class Point:
    """One value, unrounded, with its 95% interval where it has one.

    Attributes:
        x: a number, or the name of a category.
    """

    x: float | str
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """The points of one padding mode.

    Attributes:
        label: the padding, which decides colour and marker.
        of: what else tells it from others of the same padding: a seed, ``published``.
        look: ``plain``; ``thin``: one of many behind the line that counts; ``hollow``: markers that are not filled.
    """

    label: str
    points: tuple[Point, ...]
    of: str = ""
    look: str = "plain"


@dataclass(frozen=True)
class Panel:
    """One pair of axes; the title may be empty."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        name: of its files, unique on a page.
        told: what it shows and how to read it.
        x, y: labels of the axes. columns: the same as names of columns.
        finest: the smallest step of y worth showing.
        kind: ``lines``: numbers from left to right; ``rows``: categories from top to bottom, y along them.
        signed: whether y is a difference, which is shown with its sign and against 0.
    """

    name: str
    title: str
    told: str
    x: str
    y: str
    columns: tuple[str, str]
    finest: float
    panels: tuple[Panel, ...]
    kind: str = "lines"
    signed: bool = False

    @property
    def labels(self) -> list[str]:
        """The paddings, each once."""
        return list(dict.fromkeys(series.label for panel in self.panels for series in panel.series))


def csv_of(chart: Chart) -> str:
    """All points, unrounded: panel, padding, of, x, y, low, high."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["panel", "padding", "of", *chart.columns, "low", "high"])
    for panel in chart.panels:
        for series in panel.series:
            for point in series.points:
                writer.writerow([panel.title, series.label, series.of, point.x, point.y, point.low, point.high])
    return text.getvalue()


def value_text(chart: Chart, point: Point, interval: bool = True) -> str:
    """A point's y, rounded once, with its interval in brackets."""
    half = None if point.low is None else (point.high - point.low) / 2
    places = decimals(half, chart.finest)
    text = rounded(point.y, places, chart.signed)
    if half is None or not interval:
        return text
    low, high = (rounded(end, places, chart.signed) for end in (point.low, point.high))
    return f"{text} ({low} to {high})"


def description(chart: Chart) -> str:
    """The figure in words, for who does not see it: every line that counts with its values."""
    parts = [f"{chart.told} {chart.y[0].upper()}{chart.y[1:]}, by {chart.x}."]
    for panel in chart.panels:
        lines = [f"{name_of(series)}: {points_text(chart, series)}" for series in panel.series if counts(series)]
        title = f"{panel.title}: " if panel.title else ""
        parts.append(f"{title}{'; '.join(lines)}.")
    return " ".join(parts)


def counts(series: Series) -> bool:
    """Whether a line is more than the background of another."""
    return series.look != "thin" and bool(series.points)


def name_of(series: Series) -> str:
    """The padding, and what else tells the line."""
    return f"{series.label} ({series.of})" if series.of else series.label


def points_text(chart: Chart, series: Series) -> str:
    """Values in their order."""
    points = series.points
    if len(points) > MOST_TOLD:
        highest = max(points, key=lambda point: point.y)
        points = tuple(dict.fromkeys([points[0], highest, points[-1]]))
    return ", ".join(f"{value_text(chart, point)} at {x_text(point.x)}" for point in points)


def x_text(x: float | str) -> str:
    """A place on the axis."""
    return x if isinstance(x, str) else f"{x:g}"


def rows_of(chart: Chart) -> tuple[list[str], list[list[str]], int]:
    """The figure's numbers as a table: head, rows, and the first column of numbers.

    A row for each x of each panel, a column for each line that counts.
    """
    columns = list(dict.fromkeys(name_of(s) for panel in chart.panels for s in panel.series if counts(s)))
    titled = any(panel.title for panel in chart.panels)
    rows = []
    for panel in chart.panels:
        lines = {name_of(s): {point.x: point for point in s.points} for s in panel.series if counts(s)}
        for x in dict.fromkeys(x for points in lines.values() for x in points):
            values = [lines[c][x] if c in lines and x in lines[c] else None for c in columns]
            texts = ["" if value is None else value_text(chart, value) for value in values]
            rows.append([*([panel.title] if titled else []), x_text(x), *texts])
    head = [*(["panel"] if titled else []), chart.x, *columns]
    return head, rows, 1 + titled
