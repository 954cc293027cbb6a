"""The table of trained networks: every run, the mean of each padding, its difference to the baseline, tests of it."""

import json
from collections import Counter
from dataclasses import dataclass

from pcpad.statistics import (
    Comparison,
    compare,
    decimals,
    deviation,
    holm,
    mean,
    mean_interval,
    rounded,
    rounded_p,
    wilson,
)
from pcpad.study.grid import Run, pattern_of
from pcpad.study.markdown import table
from pcpad.study.plan import Plan
from pcpad.study.published import Published, read_published
from pcpad.study.states import is_recorded

LAST_FEW = 5
BASES = {"last": "last epoch", "last five": f"mean of the last {LAST_FEW} epochs", "best": "best epoch"}


@dataclass(frozen=True)
class Cell:
    """One network with one padding.

    Attributes:
        group: model and what else is varied, as JSON; comparisons are within it.
        runs: planned. entries: those of them that are done, in the same order.
        label: the network as tables name it (`Plan.label`).
    """

    group: tuple[str, str]
    padding: str
    runs: tuple[Run, ...]
    entries: tuple[dict, ...]
    label: str = ""

    @property
    def key(self) -> tuple:
        """Says which cell it is."""
        return self.group, self.padding

    def values(self, basis: str) -> list[float]:
        """Top-1 in percent of each run that is done."""
        pick = {"last": lambda top1: top1[-1], "best": max, "last five": lambda top1: mean(top1[-LAST_FEW:])}[basis]
        return [100 * pick(entry["top1"]) / entry["n"] for entry in self.entries]


def cells_of(plan: Plan, entries: list[dict]) -> list[Cell]:
    """The cells of a study in the order of its grid; results of other settings than the plan's are left out.

    Raises:
        ValueError: two runs were trained or evaluated on other images; names both.
    """
    done = {entry["name"]: entry for entry in entries if entry["kind"] == "run"}
    cells: dict[tuple, list[Run]] = {}
    for run in plan.runs:
        cells.setdefault(((run.model, json.dumps(run.varied)), run.padding), []).append(run)
    found = [
        Cell(group, padding, tuple(runs), tuple(found_of(runs, done)), plan.label(runs[0]))
        for (group, padding), runs in cells.items()
    ]
    entries = [entry for cell in found for entry in cell.entries]
    same_images(entries)
    trained: dict[str, str] = {}
    for entry in entries:
        if entry.get("train_digest"):
            trained.setdefault(entry["train_digest"], entry["name"])
    if len(trained) > 1:
        (one, name), (two, other) = list(trained.items())[:2]
        raise ValueError(
            f"{name} and {other} were trained on other images ({one}, {two}): a table of both would compare nothing; "
            "run one of them again"
        )
    return found


def found_of(runs: list[Run], done: dict[str, dict]) -> list[dict]:
    """The entries of those runs that are finished with the settings of the plan."""
    return [done[run.name] for run in runs if is_recorded(run, done.get(run.name))]


def same_images(entries: list[dict]) -> None:
    """Raise ValueError unless all entries are of the same validation images."""
    for entry in entries[1:]:
        first, other = (e["record"]["manifest_digest"] for e in (entries[0], entry))
        if (first, entries[0]["n"]) != (other, entry["n"]):
            raise ValueError(
                f"{entries[0]['name']} was evaluated on {entries[0]['n']} images ({first}), {entry['name']} on "
                f"{entry['n']} ({other}): a table of both would compare nothing; run one of them again"
            )


def loaders_of(entries: list[dict]) -> str:
    """A sentence where images were not read by one loader: a plan may leave that to the machine; else nothing."""
    counts = Counter(entry["record"].get("loader") for entry in entries)
    if len(counts) < 2:
        return ""
    told = " and ".join(f"{loader} ({number} of {len(entries)})" for loader, number in counts.most_common())
    return f" Not all is alike: images were read by {told}, whose pixels differ a little."


def comparisons(plan: Plan, cells: list[Cell], basis: str) -> dict[tuple, tuple[Comparison, float | None]]:
    """Each cell that is no baseline against its baseline, by the cell's key; p adjusted over all that are planned."""
    baselines = {cell.group: cell.values(basis) for cell in cells if cell.padding == plan.baseline}
    others = [cell for cell in cells if cell.padding != plan.baseline]
    found = {cell.key: compare(cell.values(basis), baselines[cell.group]) for cell in others}
    found = {key: comparison for key, comparison in found.items() if comparison is not None}
    adjusted = holm([comparison.p for comparison in found.values()], len(others))
    return {key: (found[key], p) for key, p in zip(found, adjusted, strict=True)}


def training_table(plan: Plan, entries: list[dict]) -> tuple[str, list[dict]]:
    """The headline table and the one beside it as Markdown, and both as rows of numbers."""
    cells = cells_of(plan, entries)
    images = next((entry["n"] for cell in cells for entry in cell.entries), None)
    published = read_published(plan.published, plan.baseline) if plan.published else []
    compared = {basis: comparisons(plan, cells, basis) for basis in BASES}
    finest = 100 / images if images else 0.01
    parts = [headline(plan, cells, compared["last"], finest, images)]
    if any(cell.entries for cell in cells):
        parts.append(beside(plan, cells, compared, published, finest))
    rows = [
        row_of(cell, basis, cell.values(basis), compared[basis].get(cell.key)) | {"images": images}
        for cell in cells
        for basis in BASES
        if cell.entries
    ]
    return "\n\n".join(parts), rows


def headline(plan: Plan, cells: list[Cell], compared: dict, finest: float, images: int | None) -> str:
    """The table of the last epoch; a cell that lacks runs shows the command that makes them."""
    rows = []
    for cell in cells:
        values = cell.values("last")
        places = decimals(half_of_mean(cell, "last"), finest)
        comparison, p_holm = compared.get(cell.key, (None, None))
        texts = [" ".join(rounded(value, decimals(None, finest)) for value in values)] if values else []
        if len(values) < len(cell.runs):
            texts.append(f"{len(cell.runs) - len(values)} missing: `{command_for(plan, cell)}`")
        rows.append(
            [
                cell.label,
                cell.padding,
                "; ".join(texts),
                str(len(values)),
                rounded(mean(values), places),
                rounded(deviation(values), places),
                *difference_columns(comparison, p_holm, finest, half_of_mean(cell, "last")),
            ]
        )
    head = ["network", "padding", "runs", "n", "mean", "deviation", f"difference to {plan.baseline}", "95% interval"]
    tests = sum(comparison.p is not None for comparison, _ in compared.values())
    planned = sum(cell.padding != plan.baseline for cell in cells)
    told = f"Top-1 in percent{f' of {images:,} images' if images else ''} at the last epoch, one number a seed."
    told += " Deviation of the sample (n - 1); interval of the difference and p by Welch's t-test"
    told += f"; p (Holm) is adjusted over the {planned} comparisons of the study" if tests else ""
    told += f", of which {tests} can be made so far." if 0 < tests < planned else "."
    told += loaders_of([entry for cell in cells for entry in cell.entries])
    return f"{told}\n\n{table([*head, 'p', 'p (Holm)'], rows, numbers_from=3)}"


def half_of_mean(cell: Cell, basis: str) -> float | None:
    """Half the interval of a cell's mean: between its runs, or of a single run over its images."""
    values = cell.values(basis)
    if len(values) != 1:
        return half_of(mean_interval(values))
    n = cell.entries[0]["n"]
    return half_of(tuple(100 * end for end in wilson(min(n, round(values[0] * n / 100)), n)))


def difference_columns(
    comparison: Comparison | None, p_holm: float | None, finest: float, half: float | None = None
) -> list[str]:
    """Difference, interval, p and adjusted p as text.

    Args:
        half: of the interval that says how many digits a difference without one of its own has.
    """
    if comparison is None:
        return ["", "", "", ""]
    places = decimals(comparison.half_width or half, finest)
    interval = "-"
    if comparison.low is not None:
        interval = f"{rounded(comparison.low, places, True)} to {rounded(comparison.high, places, True)}"
    return [rounded(comparison.difference, places, True), interval, rounded_p(comparison.p), rounded_p(p_holm)]


def beside(plan: Plan, cells: list[Cell], compared: dict, published: list[Published], finest: float) -> str:
    """Means and differences of the last epoch, of the last few and of the best one, published numbers beside these."""
    theirs = {(line.network, line.padding): line for line in published}
    rows = []
    for cell in cells:
        row = [cell.label, cell.padding]
        for basis in BASES:
            values = cell.values(basis)
            comparison = compared[basis].get(cell.key, (None,))[0]
            half = half_of_mean(cell, basis)
            row.append(rounded(mean(values), decimals(half, finest)))
            row.append(difference_columns(comparison, None, finest, half)[0])
        if published:
            line = theirs.get((cell.group[0].partition("/")[2], cell.padding))
            row.append(rounded(line and float(line.exact_average), 3))
            row.append("" if line is None or line.diff is None else rounded(float(line.exact_diff), 3, True))
        rows.append(row)
    head = ["network", "padding"]
    for title in [*BASES.values(), *(["published, best epoch"] if published else [])]:
        head += [title, "difference"]
    fewest = min((len(entry["top1"]) for cell in cells for entry in cell.entries), default=0)
    told = "The same runs by other measures. The best epoch is chosen on the images that it is measured on, which "
    told += "flatters it"
    told += "; the published numbers are such." if published else "."
    if fewest < LAST_FEW:
        epochs = "1 epoch" if fewest == 1 else f"{fewest} epochs"
        told += f" A run has {epochs} only: their mean stands for that of the last {LAST_FEW}."
    return f"{told}\n\n{table(head, rows, numbers_from=2)}"


def published_table(plan: Plan) -> tuple[str, list[dict]]:
    """The published runs with one formula for all, and the printed numbers beside it."""
    lines = read_published(plan.published, plan.baseline)
    others = [line for line in lines if line.padding != plan.baseline]
    compared = [compare(line.values, [float(run) for run in line.baseline]) for line in others]
    adjusted = dict(zip(others, zip(compared, holm([c.p for c in compared]), strict=True), strict=True))
    rows, numbers = [], []
    for line in lines:
        comparison, p_holm = adjusted.get(line, (None, None))
        wrong = line.misprinted()
        printed = [
            "" if value is None else f"{value}{' †' if name in wrong else ''}"
            for name, value in (("average", line.average), ("diff", line.diff))
        ]
        spread = "" if line.stdev is None else f"{line.stdev} ({line.formula() or '?'})"
        difference = difference_columns(comparison, p_holm, 0.001)
        if comparison is not None:  # to compare with what is printed; its interval supports fewer digits
            difference[0] = rounded(float(line.exact_diff), 3, True)
        rows.append(
            [
                line.network,
                line.padding,
                " ".join(f"{run:.3f}" for run in line.runs),
                str(len(line.runs)),
                rounded(float(line.exact_average), 3),
                rounded(deviation(line.values), 3),
                *difference,
                *printed,
                spread,
            ]
        )
        label = Cell((f"published/{line.network}", "{}"), line.padding, (), ())
        numbers.append(row_of(label, "published", line.values, comparison and (comparison, p_holm)))
    head = ["network", "padding", "runs", "n", "mean", "deviation", f"difference to {plan.baseline}", "95% interval"]
    head += ["p", "p (Holm)", "printed average", "printed difference", "printed deviation"]
    told = (
        "The published runs, best epoch, in percent, recomputed: deviation of the sample (n - 1) for every line, "
        f"Welch's test, Holm over the {len(others)} comparisons. Beside them what is printed: † is not the exact value "
        "rounded once; in brackets behind the deviation what its sum of squares was divided by."
    )
    return f"{told}\n\n{table(head, rows, numbers_from=3)}", numbers


def row_of(cell: Cell, basis: str, values: list[float], compared: tuple | None) -> dict:
    """A line of table.csv: unrounded numbers."""
    comparison, p_holm = compared or (None, None)
    numbers = {"model": cell.group[0], "varied": cell.group[1], "padding": cell.padding, "basis": basis}
    numbers |= {"runs": len(values), "values": " ".join(map(repr, values)), "mean": mean(values)}
    numbers["deviation"] = deviation(values)
    numbers["low"], numbers["high"] = mean_interval(values) or (None, None)
    if comparison is not None:
        numbers |= {"difference": comparison.difference, "t": comparison.t, "df": comparison.df, "p": comparison.p}
        numbers |= {"difference_low": comparison.low, "difference_high": comparison.high, "p_holm": p_holm}
    return numbers


def half_of(interval: tuple[float, float] | None) -> float | None:
    """Half the width of an interval."""
    return None if interval is None else (interval[1] - interval[0]) / 2


def command_for(plan: Plan, cell: Cell) -> str:
    """The command that makes the missing runs of a cell."""
    return f"pcpad study run {plan.call} --only '{pattern_of(list(cell.runs))}'{plan.data_option}"
