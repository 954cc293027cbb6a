"""How the numbers of a page came to be: settings, versions and hardware of every run, and what its surgery did."""

import json
from collections import Counter
from pathlib import Path

from pcpad.study.report.page import Markup, element, folded, joined, table
from pcpad.study.results import counts_of
from pcpad.training.logbook import flatten

OF_RUN = ("name", "recipe", "settings", "settings_digest", "seconds", "processes", "hardware", "versions", "commit")
OF_RECORD = ("model", "padding", "padding_trained", "size", "checkpoint", "run", "step", "power", "on_small")
OF_RECORD += ("preprocess", "ema", "loader", "amp", "data", "device", "hardware", "versions", "commit", "excluded")
OF_RECORD += ("settings_digest", "run_digest", "manifest_digest", "weights_digest", "time", "images_per_second")
OF_BORDER = ("model", "size", "margin", "n", "seed", "seed_trained", "run")
OF_BORDER += tuple(key for key in OF_RECORD if key not in ("model", "padding", "size", "run", "images_per_second"))
ACTIONS = ("converted", "kept", "left")


def facts_of(entry: dict, keys: tuple[str, ...]) -> dict[str, str]:
    """Dotted name to text of what an entry holds under these keys."""
    flat = flatten({key: entry[key] for key in keys if key in entry})
    return {key: text_of(value) for key, value in flat.items()}


def text_of(value) -> str:
    """A value as text; ``-`` for None."""
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value)


def facts(rows: list[dict[str, str]], what: str, alike: str = "all") -> Markup:
    """What all rows share as one table, and what differs as another with a row for each.

    Rows that are the same are shown once, with their number.

    Args:
        what: the rows are of: ``runs``, ``evaluations``.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    filled = [tuple(row.get(key, "-") for key in keys) for row in rows]
    differing = [i for i in range(len(keys)) if len({row[i] for row in filled}) > 1]
    shared = [[keys[i], filled[0][i]] for i in range(len(keys)) if i not in differing]
    parts = []
    if differing:
        counted = Counter(tuple(row[i] for i in differing) for row in filled)
        repeated = any(count > 1 for count in counted.values())
        head = [*(keys[i] for i in differing), *([what] if repeated else [])]
        lines = [[*row, *([str(count)] if repeated else [])] for row, count in counted.items()]
        parts.append(table(head, lines, len(head), f"What differs between {what}"))
    if shared:
        told = f"The same in {alike} {len(rows)} {what}:" if len(rows) > 1 else ""
        parts += [element("p", told)] if told else []
        parts.append(table(["setting", "value"], shared, 2, f"What {what} share", sortable=False))
    return folded(f"Settings, versions and hardware of {len(rows)} {what}", *parts, printed=True)


def run_facts(entries: list[dict]) -> Markup | None:
    """Of the finished runs of a study; None without any."""
    rows = [facts_of(entry, OF_RUN) for entry in entries if entry["kind"] == "run" and entry["status"] == "done"]
    return facts(rows, "runs") if rows else None


def evaluation_facts(entries: list[dict]) -> Markup | None:
    """Of a study's evaluations, without what names the single one; None without any."""
    done = [e["record"] for e in entries if e["kind"] == "evaluation" and e["status"] == "done"]
    single = ("padding", "size", "run", "settings_digest", "time", "images_per_second", "padding_trained", "run_digest")
    keys = tuple(key for key in OF_RECORD if key not in single)
    return facts([facts_of(record, keys) for record in done], "evaluations") if done else None


def border_facts(records: list[dict]) -> Markup:
    """Of a call of ``pcpad border``; the power is that of partial padding, where that was looked at."""
    one = next((record for record in records if record["padding"] == "partial"), records[0])
    return facts([facts_of(one, OF_BORDER)], "call")


def record_facts(records: list[dict]) -> Markup:
    """Of plain records."""
    return facts([facts_of(record, OF_RECORD) for record in records], "evaluations")


def surgery(folders: dict[str, Path], entries: list[dict] = ()) -> Markup | None:
    """What convert did; None where nothing says so.

    Args:
        folders: name of each run to its folder: the layers are those of its surgery.json, if it is at hand.
        entries: results that hold the counts of their runs' surgery (`pcpad.study.results`), which go before.

    Raises:
        ValueError: a surgery.json is damaged; names it.
    """
    held: dict[str, tuple[dict, list[str]]] = {}
    counted: Counter[tuple[str, ...]] = Counter()
    for entry in entries:
        if entry.get("surgery"):
            counted[tuple(cells_of(entry["model"], entry["padding"], entry["surgery"]))] += 1
    for name, folder in folders.items():
        path = folder / "surgery.json"
        if path.is_file():
            try:
                text = path.read_text()
                held.setdefault(text, (json.loads(text), []))[1].append(name)
                row = tuple(cells_of(*(held[text][0][key] for key in ("model", "mode")), counts_of(held[text][0])))
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path} is damaged ({error}): remove it, or train the run again") from None
            if not any(entry.get("surgery") for entry in entries):
                counted[row] += 1
    if not counted:
        return None
    head = ["network", "padding", "convolutions", *ACTIONS, "runs"]
    whole = table(head, [[*row, str(runs)] for row, runs in counted.items()], 2, "What the surgery did")
    lists = [layers_of(report, names) for report, names in held.values()]
    told = (
        "Convolutions by what was done to their padding: converted, put into the mode; kept, had it already; left, it "
    )
    told += "pads nothing, was not selected, or stays with zeros by choice."
    return joined([element("p", told), whole, *lists], "\n")


def cells_of(network: str, padding: str, counts: dict[str, int]) -> list[str]:
    """Counts of convolutions by what was done, as the cells of a row."""
    known = [str(counts.get(action, 0)) for action in ACTIONS]
    return [network, padding, str(sum(counts.values())), *known]


def layers_of(report: dict, names: list[str]) -> Markup:
    """Every layer of a report, behind a heading."""

    def by(value) -> str:
        return value if isinstance(value, str) else "x".join(map(str, value or ()))

    rows = []
    for layer in report["layers"]:
        sizes = [by(layer[key]) for key in ("kernel_size", "stride", "padding")]
        rows.append([layer["name"] or "(model)", layer["kind"], *sizes, layer["action"], layer["reason"]])
    head = ["layer", "class", "kernel", "stride", "padding", "action", "reason"]
    caption = f"Layers of {report['model']} with {report['mode']} padding"
    others = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return folded(f"{caption}: {names[0]}{others}", table(head, rows, len(head), caption))


def run_about(folder: Path) -> Markup | None:
    """Settings, versions and hardware from the run.json of one run; None where there is none.

    Raises:
        ValueError: the file is damaged; names it.
    """
    path = folder / "run.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        about = {key: value for key, value in content.items() if key != "classes"}
        return facts([facts_of(about, tuple(about))], "run")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error})") from None
