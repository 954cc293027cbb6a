"""Tables of evaluations: weights trained with one padding, evaluated with others and at other sizes."""

import json

from pcpad.statistics import (
    Comparison,
    compare,
    decimals,
    deviation,
    holm,
    mcnemar,
    mean,
    mean_interval,
    paired,
    rounded,
    rounded_p,
    wilson,
)
from pcpad.study.entries import NOT_APPLICABLE
from pcpad.study.grid import Run, pattern_of
from pcpad.study.markdown import table
from pcpad.study.plan import Plan
from pcpad.study.states import is_evaluated
from pcpad.study.training_table import half_of, loaders_of, same_images


def cells_of(plan: Plan, entries: list[dict], status: str = "done") -> dict[tuple, list[dict]]:
    """Evaluations by (model, padding trained, padding evaluated, size); those of other settings are left out.

    Args:
        status: of the entries: ``done``, or ``not applicable``.

    Raises:
        ValueError: two of them are of other images.
    """
    runs = {run.name: run for run in plan.runs}
    cells: dict[tuple, list[dict]] = {}
    for entry in entries:
        run = runs.get(entry["name"])
        if entry["kind"] != "evaluation" or run is None or entry["status"] != status:
            continue
        cell = entry["padding_evaluated"], entry["size"]
        if cell in plan.cells(run) and is_evaluated(run, entry):
            cells.setdefault((plan.label(run), run.padding, *cell), []).append(entry)
    if status == "done":
        same_images([entry for found in cells.values() for entry in found])
    return cells


def percents(entries: list[dict]) -> list[float]:
    """Top-1 in percent of each evaluation."""
    return [100 * entry["top1"] / entry["n"] for entry in entries]


def interval_of(entries: list[dict]) -> tuple[float, float]:
    """95% interval of a cell in percent: of the mean over runs, or of one run over images."""
    between = mean_interval(percents(entries))
    if between is not None and between[0] < between[1]:
        return between
    low, high = wilson(entries[0]["top1"], entries[0]["n"])
    return 100 * low, 100 * high


def number(entries: list[dict]) -> str:
    """A cell as text: mean and half its interval."""
    half = half_of(interval_of(entries))
    places = decimals(half, 100 / entries[0]["n"])
    return f"{rounded(mean(percents(entries)), places)} ± {rounded(half, places)}"


def cross_table(plan: Plan, entries: list[dict]) -> tuple[str, list[dict]]:
    """For each network and size: trained with (rows) against evaluated with (columns)."""
    cells, impossible = cells_of(plan, entries), cells_of(plan, entries, NOT_APPLICABLE)
    models = dict.fromkeys(plan.label(run) for run in plan.runs)
    trained = dict.fromkeys(run.padding for run in plan.runs)
    rows = []
    for model in models:
        for size in plan.sizes:
            for own in trained:
                keys = [(model, own, padding, size) for padding in plan.paddings]
                if any(key in cells for key in keys):
                    texts = [cell_text(cells.get(key), key[2] == own, key in impossible) for key in keys]
                    rows.append([model, size, own, *texts])
    told = (
        f"Top-1 in percent{images_of(cells)} of the last epoch's weights; bold: evaluated with the padding of the "
        f"training. ± is half the 95% interval: of the mean over {runs_of(cells)}, or of one run over its images."
    )
    told += loaders_of([entry for found in cells.values() for entry in found])
    parts = [told]
    if rows:
        head = ["network", "size", "trained with", *(f"evaluated with {padding}" for padding in plan.paddings)]
        parts.append(table(head, rows, numbers_from=3))
        parts += [*difference_text(plan, cells), *paired_text(cells)]
    parts += [*impossible_text(impossible), *missing_text(plan, cells | impossible)]
    return "\n\n".join(parts), numbers_of(plan, cells, differences(plan, cells))


def impossible_text(cells: dict[tuple, list[dict]]) -> list[str]:
    """Why some cells cannot be, a sentence for each reason."""
    reasons = dict.fromkeys(entry["reason"] for entries in cells.values() for entry in entries)
    return ["n/a, not applicable:\n\n" + "\n".join(f"- {reason}" for reason in reasons)] if reasons else []


def cell_text(entries: list[dict] | None, own: bool, impossible: bool = False) -> str:
    """A cell of the cross table."""
    if not entries:
        return "n/a" if impossible else "missing"
    return f"**{number(entries)}**" if own else number(entries)


def differences(plan: Plan, cells: dict[tuple, list[dict]]) -> dict[tuple, tuple[Comparison, float | None]]:
    """Each cell against the one of the training's own padding, the same weights on the same images, run by run.

    p is adjusted over all comparisons that the study plans. Nothing of a single run: see `paired_text`.
    """
    found = {}
    for (model, own, padding, size), entries in cells.items():
        base = {entry["name"]: entry for entry in cells.get((model, own, own, size), ())}
        pairs = [(entry, base[entry["name"]]) for entry in entries if entry["name"] in base]
        if padding != own and len(pairs) > 1:
            found[model, own, padding, size] = paired(*(percents(group) for group in zip(*pairs, strict=True)))
    adjusted = holm([comparison.p for comparison in found.values()], planned(plan))
    return {key: (found[key], p) for key, p in zip(found, adjusted, strict=True)}


def planned(plan: Plan) -> int:
    """How many comparisons to the padding of the training a study plans: of the runs that are evaluated with it."""
    groups = {(plan.label(run), run.padding): plan.cells(run) for run in plan.runs}
    return sum(p != own and (own, size) in cells for (_, own), cells in groups.items() for p, size in cells)


def difference_text(plan: Plan, cells: dict[tuple, list[dict]]) -> list[str]:
    """What another padding than the training's changes, as a table in the form of the cross table."""
    found = differences(plan, cells)
    if not found:
        return []
    finest, rows = min(100 / entry["n"] for entries in cells.values() for entry in entries), []
    for model, own, size in dict.fromkeys((model, own, size) for model, own, _, size in found):
        texts = []
        for padding in plan.paddings:
            texts.append(difference_cell(found.get((model, own, padding, size)), finest))
        rows.append([model, size, own, *texts])
    told = (
        "Difference to the padding of the training in points of top-1, on the same weights and images: mean over the "
        "runs ± half its 95% interval by Student's t of the differences, in brackets p adjusted by Holm over the "
        f"{planned(plan)} comparisons of the study."
    )
    head = ["network", "size", "trained with", *(f"evaluated with {padding}" for padding in plan.paddings)]
    return [told, table(head, rows, numbers_from=3)]


def difference_cell(found: tuple[Comparison, float | None] | None, finest: float) -> str:
    """``-17.4 ± 4.8 (0.013)``: a difference, half its interval, its adjusted p; empty where nothing is compared."""
    if found is None:
        return ""
    comparison, p = found
    places = decimals(comparison.half_width, finest)
    half = "" if comparison.half_width is None else f" ± {rounded(comparison.half_width, places)}"
    return f"{rounded(comparison.difference, places, True)}{half} ({rounded_p(p)})"


def paired_text(cells: dict[tuple, list[dict]]) -> list[str]:
    """McNemar's tests, a sentence for each cell that is of one run: there is no spread of seeds to judge by."""
    lines = []
    for (model, own, padding, size), entries in cells.items():
        pair = entries[0].get("paired")
        if len(entries) == 1 and pair:
            p = mcnemar(pair["only_this"], pair["only_other"])
            lines.append(
                f"- {model} at {size}, trained with {own}: images right with {padding} only: {pair['only_this']}, "
                f"with {own} only: {pair['only_other']}; p {rounded_p(p)}"
            )
    told = "One run each, so on the same images (McNemar's exact test, p not adjusted for their number):"
    return [f"{told}\n\n" + "\n".join(lines)] if lines else []


def resolution_table(plan: Plan, entries: list[dict]) -> tuple[str, list[dict]]:
    """Accuracy against size, each network evaluated with the padding it was trained with."""
    cells, impossible = cells_of(plan, entries), cells_of(plan, entries, NOT_APPLICABLE)
    rows = []
    for model in dict.fromkeys(plan.label(run) for run in plan.runs):
        for own in dict.fromkeys(run.padding for run in plan.runs):
            keys = [(model, own, own, size) for size in plan.sizes]
            if any(key in cells for key in keys):
                rows.append([model, own, *(cell_text(cells.get(key), False, key in impossible) for key in keys)])
    told = (
        f"Top-1 in percent{images_of(cells)} by the side of the image in pixels, evaluated with the padding of the "
        f"training. ± is half the 95% interval: of the mean over {runs_of(cells)}, or of one run over its images."
    )
    told += loaders_of([entry for found in cells.values() for entry in found])
    parts = [told]
    if rows:
        parts.append(table(["network", "padding", *plan.sizes], rows, numbers_from=2))
    own = {key: found for key, found in cells.items() if key[1] == key[2]}
    compared = size_differences(plan, own)
    parts += size_difference_text(plan, own, compared)
    parts += [*impossible_text(impossible), *missing_text(plan, cells | impossible)]
    return "\n\n".join(parts), numbers_of(plan, own, compared)


def size_differences(plan: Plan, cells: dict[tuple, list[dict]]) -> dict[tuple, tuple[Comparison, float | None]]:
    """Each padding against the baseline at the same size, by Welch's test between their runs.

    p is adjusted over all comparisons that the study plans. Nothing where either has a single run.
    """
    found = {}
    for (model, own, padding, size), entries in cells.items():
        base = cells.get((model, plan.baseline, plan.baseline, size), [])
        if own != plan.baseline and min(len(entries), len(base)) > 1:
            found[model, own, padding, size] = compare(percents(entries), percents(base))
    adjusted = holm([comparison.p for comparison in found.values()], planned_sizes(plan))
    return {key: (found[key], p) for key, p in zip(found, adjusted, strict=True)}


def planned_sizes(plan: Plan) -> int:
    """How many comparisons to the baseline a study plans, one for each network, padding and size."""
    groups = {(plan.label(run), run.padding) for run in plan.runs if (run.padding, plan.sizes[0]) in plan.cells(run)}
    others = [label for label, padding in groups if padding != plan.baseline and (label, plan.baseline) in groups]
    return len(others) * len(plan.sizes)


def size_difference_text(plan: Plan, cells: dict[tuple, list[dict]], found: dict) -> list[str]:
    """The differences to the baseline, as a table in the form of that of the accuracies."""
    if not found:
        return []
    finest = min(100 / entry["n"] for entries in cells.values() for entry in entries)
    rows = [
        [model, own, *(difference_cell(found.get((model, own, own, size)), finest) for size in plan.sizes)]
        for model, own in dict.fromkeys((model, own) for model, own, _, _ in found)
    ]
    told = (
        f"Difference to {plan.baseline} at the same size, in points of top-1 ± half its 95% interval by Welch's t-test "
        f"between the runs, in brackets p adjusted by Holm over the {planned_sizes(plan)} comparisons of the study."
    )
    return [told, table(["network", "padding", *plan.sizes], rows, numbers_from=2)]


def numbers_of(plan: Plan, cells: dict[tuple, list[dict]], compared: dict | None = None) -> list[dict]:
    """Rows of table.csv: unrounded; p is McNemar's where a cell is of one run.

    Args:
        compared: `differences`, or `size_differences`.
    """
    rows, runs = [], {run.name: run for run in plan.runs}
    for (model, own, padding, size), entries in cells.items():
        values, (low, high) = percents(entries), interval_of(entries)
        pair = entries[0].get("paired") if len(entries) == 1 else None
        rows.append(
            {
                "model": runs[entries[0]["name"]].model,
                "varied": json.dumps(runs[entries[0]["name"]].varied),
                "padding": own,
                "padding_evaluated": padding,
                "size": size,
                "basis": "last",
                "runs": len(values),
                "images": entries[0]["n"],
                "values": " ".join(map(repr, values)),
                "mean": mean(values),
                "deviation": deviation(values),
                "low": low,
                "high": high,
                "p": mcnemar(pair["only_this"], pair["only_other"]) if pair else None,
            }
        )
        if (model, own, padding, size) in (compared or {}):
            comparison, p_holm = compared[model, own, padding, size]
            rows[-1] |= {"difference": comparison.difference, "p": comparison.p, "p_holm": p_holm}
            rows[-1] |= {"difference_low": comparison.low, "difference_high": comparison.high}
    return rows


def images_of(cells: dict[tuple, list[dict]]) -> str:
    """`` of 10,000 images``."""
    return next((f" of {entries[0]['n']:,} images" for entries in cells.values()), "")


def runs_of(cells: dict[tuple, list[dict]]) -> str:
    """``5 runs``, ``1 to 5 runs`` or ``the runs``."""
    counts = sorted({len(entries) for entries in cells.values()})
    if counts in ([], [1]):
        return "the runs"
    return f"{counts[0]} runs" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} runs"


def missing_text(plan: Plan, cells: dict[tuple, list[dict]]) -> list[str]:
    """How to fill the cells that lack a run."""
    there = {(entry["name"], key[2], key[3]) for key, entries in cells.items() for entry in entries}
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in plan.runs:
        groups.setdefault((plan.label(run), run.padding), []).append(run)
    lines = []
    for (model, padding), runs in groups.items():
        missing = len([1 for run in runs for cell in plan.cells(run) if (run.name, *cell) not in there])
        if missing:
            own = "" if plan.source else plan.data_option
            command = f"pcpad study run {plan.call} --only '{pattern_of(runs)}'{own}"
            lines.append(f"- {model}, {padding}: {missing} evaluations: `{command}`")
    if not lines:
        return []
    before = []
    if plan.source:
        trains = f"pcpad study run {plan.source_call}{plan.data_option}"
        before = [f"What is to be evaluated is trained by `{trains}`."]
    return ["\n\n".join(["Missing:", *before, "\n".join(lines)])]
