"""make test-zoo: prove the surgery on every model of timm and torchvision, in parallel, resumable.

One row of the table for each model; a row whose code digest is today's is not computed again. With --families one
model of each family, the one with the fewest parameters.
"""

import argparse
import ast
import csv
import hashlib
import json
import os
import platform
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "experiments" / "zoo" / "table.csv"
MODES = ["zeros", "partial", "reflect", "replicate", "circular"]
"""Of each of the others there is a mode here that takes the same way through the surgery."""
PROOF = ("models", "oracle", "proof", "redraw", "sizes", "structure")
"""The files of the proof."""
COLUMNS = ["model", "family", "kind", "parameters", "convs", "converted", "classes", "status"]
COLUMNS += [f"size_{mode}" for mode in MODES] + ["wide"]
COLUMNS += [f"refused_{mode}" for mode in ("reflect", "circular")]
COLUMNS += [f"layer_error_{mode}" for mode in MODES] + [f"result_error_{mode}" for mode in MODES]
COLUMNS += ["ill_conditioned", "weight_scale", "idle", "dtype", "seconds", "code"]
LARGE = 600_000_000
"""Parameters from which on models run one at a time: 8 bytes each, and as much again for one layer's work."""
PROVED = "proved"
NOTHING = "no convolution pads"


def code_digest() -> str:
    """Digest of the surgery and of the proof, without comments and docstrings, and of the libraries' versions."""
    files = [ROOT / "pcpad" / "padding" / f"{name}.py" for name in surgery_files()]
    files += [ROOT / "tests" / "zoo" / f"{name}.py" for name in PROOF]
    parts = [f"{name} {version(name).partition('+')[0]}" for name in ("torch", "torchvision", "timm")] + MODES
    for path in files:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                node.body = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
        parts.append(ast.dump(tree))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def surgery_files() -> list[str]:
    """The files of pcpad.padding that convert and the proof need, by their imports, but for the report's words.

    Not `gpu`, `gpu_depthwise` and `kernels`, which are imported as modules: nothing on a CPU goes through them.
    """
    needed, new = set(), {"surgery", "sizes", "depthwise"}
    while new:
        needed |= new
        imports = set()
        for name in new:
            for node in ast.walk(ast.parse((ROOT / "pcpad" / "padding" / f"{name}.py").read_text())):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pcpad.padding."):
                    imports.add(node.module.removeprefix("pcpad.padding."))
        new = imports - needed - {"report"}
    return sorted(needed)


def survey(name: str) -> dict:
    """What a model holds, without weights: family, parameters, convolutions."""
    from torch import nn

    from tests.zoo import models, oracle

    entry = next(e for e in models.all_models() if e.name == name)
    model = models.build_on_meta(entry)
    padded = oracle.padded_convs(model)
    return {
        "model": name,
        "family": models.family(entry),
        "kind": entry.kind,
        "parameters": sum(p.numel() for p in model.parameters()),
        "convs": sum(isinstance(m, nn.Conv2d) for m in model.modules()),
        "converted": len(padded),
        "classes": " ".join(sorted({type(m).__name__ for m in padded})),
    }


def work(name: str, code: str) -> dict:
    """One row of the table. Runs in a process of its own."""
    import torch

    from tests.zoo import models, proof

    torch.set_num_threads(1)
    start = time.perf_counter()
    row = dict.fromkeys(COLUMNS, "") | survey(name) | {"code": code, "status": NOTHING}
    if row["converted"]:
        entry = next(e for e in models.all_models() if e.name == name)
        try:
            found = proof.prove(entry, MODES)
        except proof.ProofFailed as error:
            row["status"] = f"FAILED: {error}"
        except Exception as error:
            first = (str(error).splitlines() or [""])[0]
            row["status"] = f"ERROR: {type(error).__name__}: {first}"
        else:
            row["status"] = PROVED
            row["dtype"] = str(models.dtype_of(entry)).removeprefix("torch.")
            row |= {f"size_{mode}": size or f"{models.own_size(entry)} on_small" for mode, size in found.sizes.items()}
            row["wide"] = "x".join(map(str, found.wide or ()))
            row |= {f"refused_{mode}": found.refused.get(mode) or "" for mode in ("reflect", "circular")}
            row |= {f"layer_error_{mode}": f"{error:.1e}" for mode, error in found.layer_error.items()}
            row |= {f"result_error_{mode}": f"{error:.1e}" for mode, error in found.result_error.items()}
            row["ill_conditioned"] = " ".join(found.noise)
            row["weight_scale"] = found.scale
            row["idle"] = " ".join(found.idle)
    row["seconds"] = f"{time.perf_counter() - start:.1f}"
    return row


def read_table(path: Path) -> dict[str, dict]:
    """Model to row; empty where there is no table yet."""
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        return {row["model"]: row for row in csv.DictReader(file)}


def write_table(path: Path, rows: dict[str, dict]) -> None:
    """The table, in the order of the models' names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[name] for name in sorted(rows))
    os.replace(partial, path)


def summarise(rows: dict[str, dict]) -> dict:
    """Counts over a table, for the README."""
    proved = [row for row in rows.values() if row["status"] == PROVED]
    failed = {row["model"]: row["status"] for row in rows.values() if row["status"] not in (PROVED, NOTHING)}
    classes: dict[str, int] = {}
    for row in proved:
        for kind in row["classes"].split():
            classes[kind] = classes.get(kind, 0) + 1
    return {
        "models": len(rows),
        "with_padded_convolutions": sum(int(row["converted"]) > 0 for row in rows.values()),
        "proved": len(proved),
        "failed": failed,
        "families": len({row["family"] for row in rows.values()}),
        "families_proved": len({row["family"] for row in proved}),
        "convolutions": sum(int(row["convs"]) for row in rows.values()),
        "converted": sum(int(row["converted"]) for row in proved),
        "models_by_class": dict(sorted(classes.items())),
        "worst_layer_error": {
            m: max((float(r[f"layer_error_{m}"]) for r in proved if r["dtype"] == "float64"), default=None)
            for m in MODES
        },
        "worst_result_error": {
            m: max(
                (
                    float(r[f"result_error_{m}"])
                    for r in proved
                    if r["dtype"] == "float64" and m not in r["ill_conditioned"].split()
                ),
                default=None,
            )
            for m in MODES
        },
        "ill_conditioned": sum(bool(row["ill_conditioned"]) for row in proved),
        "cpu_hours": round(sum(float(row["seconds"]) for row in rows.values()) / 3600, 2),
    }


def main(argv: list[str] | None = None) -> int:
    """Prove what is missing; returns 0 if every model with a padded convolution is proved."""
    parser = argparse.ArgumentParser(prog="make test-zoo", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes, each of one thread")
    parser.add_argument("--shard", default="0/1", help="i/n: this machine's part of the models, i from 0")
    parser.add_argument("--only", default="", help="only models whose name contains this")
    parser.add_argument("--table", type=Path, default=TABLE, help="CSV to continue")
    parser.add_argument("--families", action="store_true", help="one model of each family, the smallest")
    options = parser.parse_args(argv)
    index, _, shards = options.shard.partition("/")
    if not (index.isdigit() and shards.isdigit() and int(index) < int(shards)):
        parser.error(f"--shard {options.shard}: give i/n with i from 0 to n-1")
    if options.workers < 1:
        parser.error(f"--workers {options.workers}: at least 1")
    os.environ["OMP_NUM_THREADS"] = "1"  # processes that spin for each other's cores are ten times slower
    os.environ.setdefault("PYTHONWARNINGS", "ignore")

    from tests.zoo import models

    code = code_digest()
    names = [entry.name for entry in models.all_models() if options.only in entry.name]
    mine = names[int(index) :: int(shards)]
    rows = read_table(options.table)
    known = set(names) if not options.only else None
    rows = {name: row for name, row in rows.items() if known is None or name in known}
    todo = [m for m in mine if rows.get(m, {}).get("code") != code or rows[m]["status"].startswith("ERROR")]
    print(
        f"{len(names)} models, {len(names) - len(todo)} done or not in this shard, {len(todo)} to do; code {code}",
        flush=True,
    )
    facts = {}
    for row in spread(survey, [(name,) for name in todo], options.workers, 400):
        if isinstance(row, Killed):
            print(f"{row.call[0]}: {row.status}", file=sys.stderr, flush=True)
        else:
            facts[row["model"]] = row
    lost, todo = len(todo) - len(facts), [name for name in todo if name in facts]
    if options.families:
        smallest: dict[str, str] = {}
        all_facts = {name: row for name, row in rows.items() if row["code"] == code} | facts
        for name, row in sorted(all_facts.items(), key=lambda item: int(item[1]["parameters"])):
            if int(row["converted"]):
                smallest.setdefault(row["family"], name)
        todo = [name for name in smallest.values() if name in facts]
    todo.sort(key=lambda name: facts[name]["parameters"])
    small = [name for name in todo if facts[name]["parameters"] < LARGE]
    start, done = time.perf_counter(), 0
    for workers, part in ((options.workers, small), (1, [name for name in todo if name not in small])):
        for row in spread(work, [(name, code) for name in part], workers, 60):
            if isinstance(row, Killed):
                name = row.call[0]
                row = dict.fromkeys(COLUMNS, "") | facts[name] | {"code": code, "seconds": "0", "status": row.status}
            rows[row["model"]] = row
            write_table(options.table, rows)
            done += 1
            print(f"{done}/{len(todo)} {row['model']}: {row['status']} ({row['seconds']} s)", flush=True)
    summary = summarise({name: row for name, row in rows.items() if row["code"] == code})
    if (
        not options.only
        and not options.families
        and {name for name, row in rows.items() if row["code"] == code} == set(names)
    ):
        facts = {"code": code, "python": platform.python_version(), "date": time.strftime("%Y-%m-%d")}
        facts |= {name: version(name) for name in ("torch", "torchvision", "timm")}
        path = options.table.with_name("summary.json")
        path.write_text(
            json.dumps(summary | facts | {"wall_seconds": round(time.perf_counter() - start)}, indent=1) + "\n"
        )
    print(json.dumps(summary, indent=1))
    return 1 if summary["failed"] or lost else 0


@dataclass(frozen=True)
class Killed:
    """In place of the result of a call whose process was killed."""

    call: tuple
    status = "ERROR: its process was killed; is there enough memory?"


def spread(function, calls: list[tuple], workers: int, batch: int):
    """Yield the results of calls as they come, from processes of one thread each that are renewed after each batch.

    A process that is killed takes its batch down: what was not finished is called again, one at a time. In place of the
    result of a call that is killed again stands a `Killed`.
    """
    for i in range(0, len(calls), batch):
        left = dict.fromkeys(calls[i : i + batch])
        try:
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as executor:
                futures = {executor.submit(function, *call): call for call in left}
                for future in as_completed(futures):
                    result = future.result()
                    del left[futures[future]]
                    yield result
        except BrokenProcessPool:
            if len(calls) == 1:
                yield Killed(calls[0])
                return
            for call in left:
                yield from spread(function, [call], 1, 1)


if __name__ == "__main__":
    sys.exit(main())
