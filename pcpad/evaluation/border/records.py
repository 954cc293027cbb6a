"""The records of one call of pcpad border: what each has to hold, and that none is missing; without torch."""

from pathlib import Path

from pcpad.lines import (
    COUNT,
    NOTHING,
    NUMBER,
    OBJECT,
    POSITIVE,
    TEXT,
    TRUTH,
    WHOLE,
    Kind,
    list_of,
    read_lines,
    wrong_field,
)

SCHEMA = 1
"""Version of the records."""
RECORDS = "border.jsonl"
"""File of the records, one JSON line for each padding and layer and one for each padding's shifts."""

ALL = {"schema": POSITIVE, "id": TEXT, "model": TEXT, "padding": TEXT, "size": POSITIVE, "margin": POSITIVE}
ALL |= {"n": POSITIVE, "seed": WHOLE, "data": TEXT, "loader": TEXT, "hardware": TEXT, "versions": OBJECT}
ALL |= {"padding_trained": TEXT | NOTHING, "settings_digest": TEXT}
SQUARES = Kind("a number from 0 on", lambda value: NUMBER.holds(value) and not value < 0)
"""Or one that is not finite."""
RINGS = list_of(SQUARES, 1)
BIAS = Kind(
    "an object with channels, and sum, a list with null or a number for each ring",
    lambda value: (
        isinstance(value, dict) and wrong_field(value, {"channels": COUNT, "sum": list_of(NUMBER | NOTHING, 1)}) is None
    ),
)
MAP = list_of(list_of(NUMBER, 1), 1)
LAYER = {"layer": TEXT, "stride": POSITIVE, "height": POSITIVE, "width": POSITIVE, "reach": COUNT | NOTHING}
LAYER |= {"exact": TRUTH, "error": RINGS, "true": RINGS, "bias": BIAS, "bias_true": BIAS}
LAYER |= {"picture": MAP | NOTHING, "picture_true": MAP | NOTHING}
SHIFT = {"dx": COUNT, "dy": COUNT, "changed": COUNT, "top1": COUNT | NOTHING}
SHIFTS = {
    "labelled": COUNT,
    "shifts": list_of(
        Kind("an object with dx, dy, changed and top1", lambda v: isinstance(v, dict) and not wrong_field(v, SHIFT)), 1
    ),
}


def read_border(folder: Path) -> list[dict]:
    """The records of one call of ``pcpad border``, whole.

    Raises:
        ValueError: there are none, or records of another schema or of more than one call, or a line is damaged or
            missing; says what, and the way out.
    """
    path = folder / RECORDS
    if not path.is_file():
        raise ValueError(f"no records at {path}: pcpad border --out {folder} makes them")
    remedy = "measure anew: pcpad border with another --out"
    records = read_lines(path, wrong_in_record, remedy)
    others = sorted({str(record["schema"]) for record in records} - {str(SCHEMA)})
    if others:
        raise ValueError(f"{path} holds records of schema {', '.join(others)}; this pcpad reads {SCHEMA}: {remedy}")
    calls = {record["id"] for record in records}
    if len(calls) != 1:
        raise ValueError(f"{path} holds records of {len(calls)} calls and has to hold those of one: {remedy}")
    if lacks := missing(records):
        raise ValueError(f"{path} is not whole ({lacks}): {remedy}")
    return records


def wrong_in_record(record: dict) -> str | None:
    """What is wrong with a record, in words, or None."""
    if record.get("schema") != SCHEMA:  # whose fields are not known here; `read_border` tells
        return wrong_field(record, {"schema": POSITIVE, "id": TEXT})
    kinds = {"features": LAYER, "shifts": SHIFTS}
    if str(record.get("kind")) not in kinds:
        return f"its kind is {record.get('kind')!r}, not features or shifts"
    if wrong := wrong_field(record, ALL | kinds[record["kind"]]):
        return wrong
    if record["kind"] == "features":
        rings = {len(ring) for ring in (record["error"], record["true"], record["bias"]["sum"])}
        rings.add(len(record["bias_true"]["sum"]))
        uneven = [key for key in ("picture", "picture_true") if len({len(row) for row in record[key] or [[]]}) > 1]
        if len(rings) > 1:
            return "its lists of rings differ in length"
        return f"its {uneven[0]} is uneven" if uneven else None
    n, labelled = record["n"], record["labelled"]
    if labelled > n or any(one["changed"] > n or (one["top1"] or 0) > labelled for one in record["shifts"]):
        return "it counts more images than there are"
    return None


def missing(records: list[dict]) -> str | None:
    """What the records of a call lack, in words: each padding has every layer, and its shifts."""
    paddings = list(dict.fromkeys(record["padding"] for record in records))
    layers = list(dict.fromkeys(record["layer"] for record in records if record["kind"] == "features"))
    held: dict[tuple, int] = {}
    for record in records:
        held[record["padding"], record.get("layer")] = held.get((record["padding"], record.get("layer")), 0) + 1
    if not layers:
        return "it holds no layer"
    for padding in paddings:
        for layer in (*layers, None):
            what = f"layer {layer}" if layer is not None else "shifts"
            if (found := held.get((padding, layer), 0)) != 1:
                return f"{what} of {padding}: {found or 'no'} records"
    shifts = {tuple((one["dx"], one["dy"]) for one in r["shifts"]) for r in records if r["kind"] == "shifts"}
    if len(shifts) > 1 or (0, 0) not in next(iter(shifts)):
        return "the paddings were not shifted alike"
    return None
