"""Stands in for ``python -m pcpad``: writes what a training writes, at once, or fails as told.

It imports nothing of pcpad, to be quick: settings and digests of the runs lie in plan.json, where the fixture `fake`
puts them. What it is to do lies in fake.json in the current folder: a run's name to ``{"fail": text}``, ``{"wait":
true}`` (until SIGTERM, then a checkpoint is saved and 75 returned), ``{"die": true}`` (before the first checkpoint) or
``{"half": true}`` (one epoch, no error, not complete); ``evaluation`` to the message of its failure; or ``impossible``
to paddings that cannot be evaluated.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path


def record(run_id: str, settings: dict, step: int, top1: int) -> dict:
    return {
        "schema": 1,
        "run": run_id,
        "checkpoint": "epoch",
        "model": settings["model"],
        "settings_digest": "d",
        "step": step,
        "n": 100,
        "top1": top1,
        "top5": None,
        "loss": 1.0,
        "padding": settings["padding"],
        "size": str(settings["size"]),
        "loader": settings["data"]["loader"],
        "manifest_digest": "abc",
    }


def train(argv: list[str]) -> int:
    out = Path(argv[argv.index("--resume" if "--resume" in argv else "--out") + 1])
    settings, digest = json.loads(Path("plan.json").read_text())[out.name]
    told = json.loads(Path("fake.json").read_text() if Path("fake.json").is_file() else "{}").get(out.name, {})
    with open("calls.jsonl", "a") as file:
        seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
        file.write(json.dumps({"name": out.name, "argv": argv, "seen": seen}) + "\n")
    if "lock" in told:
        (out / ".lock").write_text(json.dumps(told["lock"]))
    if "fail" in told:
        print("a warning\n" + told["fail"], file=sys.stderr)
        return 1
    out.mkdir(parents=True, exist_ok=True)
    about = {"id": f"{out.name}-1", "settings_digest": digest, "settings": settings, "hardware": "a machine"}
    (out / "run.json").write_text(json.dumps(about | {"versions": {"torch": "2"}, "commit": None, "processes": 1}))
    if told.get("die"):
        os.kill(os.getpid(), signal.SIGKILL)
    (out / "checkpoints").mkdir(exist_ok=True)
    if told.get("wait"):
        asked = []
        signal.signal(signal.SIGTERM, lambda *_: asked.append(True))
        Path(f"{out.name}.waits").touch()
        while not asked:
            time.sleep(0.01)
        (out / "checkpoints/step-00000003.pt").touch()
        return 75
    with open(out / "records.jsonl", "a") as file:
        for epoch in range(1 if told.get("half") else settings["epochs"]):
            hits = 50 + 10 * epoch + settings["seed"] + (5 if settings["padding"] == "partial" else 0)
            file.write(json.dumps(record(about["id"], settings, 7 * (epoch + 1), hits)) + "\n")
            (out / f"checkpoints/step-{7 * (epoch + 1):08d}-epoch.pt").touch()
    (out / "checkpoints/last.pt").touch()
    return 0


def evaluate(argv: list[str]) -> int:
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    run = Path(options["--run"])
    about = json.loads((run / "run.json").read_text())
    told = json.loads(Path("fake.json").read_text() if Path("fake.json").is_file() else "{}")
    if "evaluation" in told:
        print(told["evaluation"], file=sys.stderr)
        return 1
    reasons, filled = [], 0
    last = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()][-1]
    with open(run / "records.jsonl", "a") as file:
        for padding in options["--paddings"].split(","):
            for size in options["--sizes"].split(","):
                if padding in told.get("impossible", []):
                    reason = {"model": "m", "padding": padding, "size": size, "reason": f"{padding}: too small"}
                    reasons.append(reason)
                    with open(run / "not_applicable.jsonl", "a") as other:
                        other.write(json.dumps(reason) + "\n")
                    continue
                filled += 1
                hits = 80 - 9 * (padding != about["settings"]["padding"]) - int(size.split(":")[-1]) // 16
                more = {"padding": padding, "size": size, "checkpoint": "last", "predictions": "x"}
                more["run_digest"] = about["settings_digest"]
                line = record(about["id"], about["settings"], last["step"], hits) | more
                file.write(json.dumps(line) + "\n")
    if not filled:
        print(reasons[0]["reason"], file=sys.stderr)
    return 0 if filled else 1


if __name__ == "__main__":
    sys.exit({"train": train, "eval": evaluate}[sys.argv[1]](sys.argv[2:]))
