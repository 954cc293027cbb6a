"""The grid of an evaluation as tables on the terminal."""

from pathlib import Path

from pcpad.evaluation.predictions import hits
from pcpad.progress import say
from pcpad.statistics import decimals, discordant, mcnemar, rounded, rounded_p, wilson


def size_key(size: str) -> tuple[str, int, int]:
    """Sorts sizes as records state them: squares by their side, then the others by kind, side and width."""
    what, _, side = size.rpartition("@")
    kind, _, number = (what or side).rpartition(":")
    return (kind, int(side), int(number)) if what else (kind, int(number), 0)


def show(records: list[dict], reasons: dict[tuple[str, str], str], trained: str | None, folder: Path) -> None:
    """Top-1 of the grid in percent, each padding against one on the same images, and where the records lie.

    Args:
        reasons: padding mode and size of cells that the model cannot do.
        trained: the padding mode that the weights were trained with, if it is known.
    """
    import pandas as pd

    if len(records) + len(reasons) > 1:
        cells = {(r["padding"], r["size"]): top1_text(r["top1"], r["n"]) for r in records}
        cells |= dict.fromkeys(reasons, "n/a")
        say(f"\ntop-1 in percent by padding and size, {records[0]['n']} images\n{table(pd, cells)}\n")
    paddings = list(dict.fromkeys(record["padding"] for record in records))
    base = trained if trained in paddings else "zeros" if "zeros" in paddings else paddings[0]
    of_base = {record["size"]: hits(folder, record) for record in records if record["padding"] == base}
    tests = {}
    for record in records:
        right, other = hits(folder, record), of_base.get(record["size"])
        if record["padding"] != base and right is not None and other is not None:
            gained, lost = discordant(right, other)
            p = rounded_p(mcnemar(gained, lost))
            points = rounded(100 * (gained - lost) / record["n"], decimals(None, 100 / record["n"]), True)
            tests[record["padding"], record["size"]] = f"{points} (p {p})"
    if tests:
        say(
            f"against {base} on the same images, in points; p by McNemar's exact test, not adjusted for their number\n"
            f"{table(pd, tests)}\n"
        )
    say(f"records: {folder / 'records.jsonl'}")


def top1_text(hits: int, n: int) -> str:
    """Top-1 in percent, with the digits that its interval over the images supports."""
    low, high = wilson(hits, n)
    return rounded(100 * hits / n, decimals(50 * (high - low), 100 / n))


def table(pd, cells: dict[tuple[str, str], str]) -> str:
    """Padding and size to a text, as a table of paddings by sizes."""
    frame = pd.DataFrame([(*key, text) for key, text in cells.items()], columns=["padding", "size", "text"])
    wide = frame.pivot(index="padding", columns="size", values="text").fillna("")
    return wide.loc[list(dict.fromkeys(frame["padding"])), sorted(set(frame["size"]), key=size_key)].to_string()
