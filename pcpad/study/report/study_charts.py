"""The figures of a study: differences to the baseline, accuracy against size, training curves."""

import json

from pcpad.statistics import compare, mean, mean_interval, wilson
from pcpad.study import cross_table, training_table
from pcpad.study.plan import Plan
from pcpad.study.published import read_published
from pcpad.study.report.charts import TOP1, Chart, Panel, Point, Series

TELLING = (
    "checkpoint",
    "data",
    "manifest_digest",
    "weights_digest",
    "step",
    "power",
    "amp",
    "ema",
    "on_small",
    "loader",
)
"""What two records of one network, padding and size may differ in."""
OWN, PUBLISHED = "own, best epoch", "published"


def difference_chart(plan: Plan, entries: list[dict]) -> Chart | None:
    """Differences to the baseline with 95% intervals: the published runs beside own best epochs, else the last epoch.

    None where there is nothing to compare.
    """
    cells = training_table.cells_of(plan, entries)
    basis = "best" if plan.published else "last"
    own = training_table.comparisons(plan, cells, basis)
    held: dict[tuple[str, str], list[Point]] = {}
    lines = read_published(plan.published, plan.baseline) if plan.published else []
    for line in lines:
        if line.padding != plan.baseline:
            comparison = compare(line.values, [float(run) for run in line.baseline])
            point = Point(line.network, float(line.exact_diff), comparison.low, comparison.high)
            held.setdefault((line.padding, PUBLISHED), []).append(point)
    for cell in cells:
        if cell.key in own and own[cell.key][0].low is not None:
            comparison = own[cell.key][0]
            point = Point(cell.label, comparison.difference, comparison.low, comparison.high)
            held.setdefault((cell.padding, OWN if lines else ""), []).append(point)
    if not held:
        return None
    series = tuple(
        Series(padding, tuple(points), of if lines else "", "hollow" if of == OWN else "plain")
        for (padding, of), points in sorted(held.items(), key=lambda item: item[0][1] == OWN)
    )
    told = f"Difference of the mean top-1 to {plan.baseline} padding, with its 95% interval by Welch's t-test"
    told += ": the published runs, recomputed" if lines else " at the last epoch"
    if any(of == OWN for _, of in held):
        told += "; hollow, the runs of this study at their best epoch, as the published ones"
    return Chart(
        name="differences",
        title=f"Difference to {plan.baseline}",
        told=f"{told}. An interval that holds 0 is compatible with no difference.",
        x="network",
        y=f"difference to {plan.baseline}, points of top-1",
        columns=("network", "difference"),
        finest=0.001 if lines else finest_of(entries),
        panels=(Panel("", series),),
        kind="rows",
        signed=True,
    )


def finest_of(entries: list[dict]) -> float:
    """One image in percent."""
    return min((100 / entry["n"] for entry in entries if entry.get("n")), default=0.01)


def training_charts(plan: Plan, entries: list[dict]) -> list[Chart]:
    """Top-1 by epoch, a figure for each network: a thin line for each seed and their mean."""
    groups: dict[str, list[training_table.Cell]] = {}
    for cell in training_table.cells_of(plan, entries):
        if cell.entries:
            groups.setdefault(cell.label, []).append(cell)
    charts = []
    for label, cells in groups.items():
        thin, thick = [], []
        for cell in cells:
            curves = [[100 * top1 / entry["n"] for top1 in entry["top1"]] for entry in cell.entries]
            for entry, curve in zip(cell.entries, curves, strict=True):
                points = tuple(Point(epoch, value) for epoch, value in enumerate(curve, 1))
                thin.append(Series(cell.padding, points, f"seed {entry['settings']['seed']}", "thin"))
            points = []
            for epoch, values in enumerate(zip(*curves, strict=True), 1):
                points.append(Point(epoch, mean(values), *(mean_interval(values) or ())))
            thick.append(Series(cell.padding, tuple(points), f"mean of {len(curves)}"))
        if any(len(series.points) > 1 for series in thick):
            told = "Top-1 on the validation images after each epoch: thin, each seed; thick, their mean."
            charts.append(curves_chart(f"training-{label}", label, told, finest_of(entries), [*thin, *thick]))
    return charts


def curves_chart(name: str, label: str, told: str, finest: float, series: list[Series]) -> Chart:
    """A figure of training curves."""
    return Chart(
        name=name,
        title=f"Training of {label}",
        told=told,
        x="epoch",
        y=TOP1,
        columns=("epoch", "top1_percent"),
        finest=finest,
        panels=(Panel("", tuple(series)),),
    )


def size_charts(plan: Plan, entries: list[dict]) -> list[Chart]:
    """Accuracy against size from a study's evaluations, with the intervals of its tables; one figure a network.

    A panel for each padding of the training where others are evaluated too, else one for all.
    """
    cells = cross_table.cells_of(plan, entries)
    crossed = any(trained != evaluated for _, trained, evaluated, _ in cells)
    held: dict[str, dict[str, dict[str, dict[str, Point]]]] = {}
    for (label, trained, evaluated, size), found in cells.items():
        point = Point(size, mean(cross_table.percents(found)), *cross_table.interval_of(found))
        panels = held.setdefault(label, {})
        panels.setdefault(f"trained with {trained}" if crossed else "", {}).setdefault(evaluated, {})[size] = point
    told = "Top-1 against the side of the image in pixels; bars are 95% intervals, of the mean over runs or of one run "
    told += "over its images. Paddings of one size stand side by side."
    finest = finest_of([entry for found in cells.values() for entry in found])
    return [chart for label, panels in held.items() for chart in size_chart(label, panels, told, finest)]


def size_chart(label: str, panels: dict, told: str, finest: float) -> list[Chart]:
    """One figure; none where no line has two sizes of one kind.

    Args:
        panels: title to padding to size, as text, to the point there.
    """
    made = []
    for title, lines in panels.items():
        for kind, more in (("", ""), ("native:", "shorter side, no crop")):
            series = [Series(padding, along(points, kind)) for padding, points in lines.items()]
            series = tuple(one for one in series if one.points)
            if series:
                made.append(Panel(", ".join(part for part in (title, more) if part), series))
    if not any(len(series.points) > 1 for panel in made for series in panel.series):
        return []
    return [
        Chart(
            name=f"size-{label}",
            title=f"{label}: accuracy against size",
            told=told,
            x="size, pixels",
            y=TOP1,
            columns=("size", "top1_percent"),
            finest=finest,
            panels=tuple(made),
        )
    ]


def along(points: dict[str, Point], kind: str) -> tuple[Point, ...]:
    """The points of square sizes (`kind` empty) or of ``native:`` ones, by their pixels; variants are none."""
    own = {size: p for size, p in points.items() if size.startswith(kind) and size.removeprefix(kind).isdigit()}
    placed = [Point(int(size.removeprefix(kind)), p.y, p.low, p.high) for size, p in own.items()]
    return tuple(sorted(placed, key=lambda point: point.x))


def record_charts(records: list[dict]) -> list[Chart]:
    """The same from plain records: Wilson's intervals over the images, and a training curve of a run's epochs."""
    held: dict[str, dict[str, dict[str, Point]]] = {}
    epochs: dict[str, dict[tuple, list[dict]]] = {}
    for record, subject in zip(records, subjects_of(records), strict=True):
        if record["checkpoint"] == "epoch":
            run = record["padding"], record["run"]
            epochs.setdefault(record["model"].partition("/")[2], {}).setdefault(run, []).append(record)
            continue
        low, high = wilson(record["top1"], record["n"])
        point = Point(record["size"], 100 * record["top1"] / record["n"], 100 * low, 100 * high)
        held.setdefault(subject, {}).setdefault(record["padding"], {})[record["size"]] = point
    told = "Top-1 against the side of the image in pixels; bars are 95% intervals over the images (Wilson's)."
    told += " Paddings of one size stand side by side."
    finest = finest_of(records)
    charts = [chart for label, lines in held.items() for chart in size_chart(label, {"": lines}, told, finest)]
    for model, runs in epochs.items():
        series = []
        for (padding, run), lines in runs.items():
            lines = sorted(lines, key=lambda record: record["step"])
            points = tuple(Point(i, 100 * r["top1"] / r["n"]) for i, r in enumerate(lines, 1))
            series.append(Series(padding, points, str(run)))
        if any(len(one.points) > 1 for one in series):
            told = "Top-1 on the validation images after each epoch."
            charts.append(curves_chart(f"training-{model}", model, told, finest, series))
    return charts


def subjects_of(records: list[dict]) -> list[str]:
    """`subject_of` each record, and with it what tells the record from others of the same padding and size."""
    libraries: dict[str, set[str]] = {}
    for record in records:
        libraries.setdefault(record["model"].partition("/")[2], set()).add(record["model"])
    names, cells = [], {}
    for record in records:
        alike = len(libraries[record["model"].partition("/")[2]]) == 1
        names.append(("" if alike else f"{record['model'].partition('/')[0]}/") + subject_of(record))
    for name, record in zip(names, records, strict=True):
        if record["checkpoint"] != "epoch":
            cells.setdefault((name, record["padding"], record["size"]), []).append(record)
    telling: dict[str, dict[str, None]] = {}
    for (name, *_), found in cells.items():
        keys = [key for key in TELLING if len({json.dumps(record.get(key)) for record in found}) > 1]
        keys = keys or (["settings_digest"] if len(found) > 1 else [])  # its preprocessing
        telling.setdefault(name, {}).update(dict.fromkeys(keys))

    def text(name: str, record: dict) -> str:
        keys = [key for key in telling.get(name, ()) if key != "power" or record["padding"] == "partial"]
        more = ", ".join(f"{key}={record.get(key)}" for key in keys)
        return f"{name}, {more}" if more else name

    return [text(*pair) for pair in zip(names, records, strict=True)]


def subject_of(record: dict) -> str:
    """What was evaluated: the network, its weights, and the padding they were trained with where that is known."""
    name = record["model"].partition("/")[2]
    of = record["run"] or record["checkpoint"]
    trained = f", trained with {record['padding_trained']}" if record.get("padding_trained") else ""
    return f"{name} ({of}{trained})" if of else f"{name}{trained}"


def same_evaluation(record: dict) -> str:
    """What two records of one evaluation have in common; the later one counts."""
    keys = ("run", "step", "checkpoint", "weights_digest", "settings_digest", "manifest_digest")
    return json.dumps([record.get(key) for key in keys])
