"""make test-soak: a run of two processes that is killed and damaged again and again still ends as an undisturbed one.

python -m tests.training.soak --times 30 --seed 0 --out soak.json
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch

from pcpad.environment import hardware, versions
from tests.training.conftest import difference, make_stripes
from tests.training.test_launch import alive, family, options, start

ROOT = Path(__file__).resolve().parents[2]
MOST_STEPS = 4
"""Steps that a start is left to do before it is disturbed, at most."""


def signal_launcher(name: str):
    """A way to end a training: a signal to the launcher."""
    return lambda process, below: process.send_signal(getattr(signal, name))


def signal_rank(name: str, which: int):
    """A way to end a training: a signal to one of its processes."""

    def send(process, below: list[int]) -> None:
        ranks = [pid for pid in below if b"\0train\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(ranks[which], getattr(signal, name))

    return send


def kill_all(process, below: list[int]) -> None:
    """A way to end a training: as when a node fails."""
    for pid in [process.pid, *below]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


WAYS = {f"{name} to the launcher": signal_launcher(name) for name in ("SIGTERM", "SIGUSR1", "SIGINT", "SIGKILL")}
WAYS |= {f"{name} to rank {which}": signal_rank(name, which) for name in ("SIGTERM", "SIGKILL") for which in (0, 1)}
WAYS |= {"SIGKILL to all": kill_all}


def damage(path: Path, kind: str, rng: random.Random) -> None:
    """Spoil a file; its other names are left alone."""
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        content = content[: rng.randrange(1, len(content))]
    elif kind == "byte flipped":
        content[len(content) // 2] ^= 255
    elif kind == "page zeroed":
        place = len(content) // 2 // 4096 * 4096
        content[place : place + 4096] = bytes(4096)
    else:
        content.clear()
    path.unlink()
    path.write_bytes(content)


KINDS = ("truncated", "byte flipped", "page zeroed", "empty")


def wait_for_end(process: subprocess.Popen, below: list[int]) -> tuple[str, str]:
    """What the command says until its end; fails if it or a process of it stays."""
    out, err = process.communicate(timeout=180)
    until = time.monotonic() + 60
    while any(alive(pid) for pid in below):
        assert time.monotonic() < until, f"processes are left over: {[pid for pid in below if alive(pid)]}"
        time.sleep(0.1)
    return out, err


def soak(folder: Path, times: int, seed: int) -> dict:
    """Disturb a run `times` times at least; returns what happened.

    Raises:
        AssertionError: a start has failed in a way that it must not, or the result is another one.
    """
    rng, data = random.Random(seed), make_stripes(folder / "data")
    epochs = -(-times * 5 // 8)  # of 4 steps: 2.5 for each disturbance, more than a start gets done on average
    settings = options(data, "run", epochs=epochs, ema=0.9) | {"save.every_steps": 2, "save.keep": 3}
    out, err = wait_for_end(start(folder, **settings | {"out": "whole"}), [])
    assert f"epoch {epochs}/{epochs}" in out, err
    happened, damaged, starts, begin = Counter(), Counter(), 0, time.monotonic()
    while True:
        saved = sorted((folder / "run/checkpoints").glob("step-*.pt"))
        process = start(folder, **({"resume": "run", "gpus": 2} if saved else settings))
        starts += 1
        left = rng.randint(1, MOST_STEPS)
        for line in process.stdout:
            left -= " step " in line and line.startswith("epoch")
            if not left:
                break
        below = family(process.pid)
        if process.poll() is not None or left:  # the run has come to its end
            out, err = wait_for_end(process, below)
            assert process.returncode == 0, err
            break
        way = rng.choice(list(WAYS))
        WAYS[way](process, below)
        out, err = wait_for_end(process, below)
        # a worker whose process was killed may say so, through Python; nothing of pcpad's has an error of its own
        assert f'File "{ROOT}/pcpad/' not in err, err
        happened[way] += 1
        saved = sorted((folder / "run/checkpoints").glob("step-*.pt"))
        if len(saved) > 2 and rng.random() < 0.4:
            kind = rng.choice(KINDS)
            damage(saved[-1], kind, rng)
            damaged[kind] += 1
        newest = saved[-1].name if saved else "no checkpoint"
        print(f"{starts}: {way}; {newest}; {err.strip().splitlines()[-1:] or 'nothing said'}", flush=True)
    last, whole = (torch.load(folder / name / "checkpoints/last.pt") for name in ("run", "whole"))
    assert difference(last, whole) is None, difference(last, whole)
    curves = [[json.loads(line) for line in (folder / name / "metrics.jsonl").open()] for name in ("run", "whole")]
    assert [entry["step"] for entry in curves[0]] == [entry["step"] for entry in curves[1]]
    assert sum(happened.values()) >= times, f"the run was through after {sum(happened.values())} disturbances"
    return {
        "disturbances": sum(happened.values()),
        "ways": dict(sorted(happened.items())),
        "damaged checkpoints": dict(sorted(damaged.items())),
        "steps": last["step"],
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "equal to the undisturbed run": True,
    }


def main() -> int:
    """Run; 0 where the result is the undisturbed one's."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored, and would stay so
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--times", type=int, default=30, help="disturbances, at least (30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="write the figures to this file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pcpad-soak-") as folder:
        figures = soak(Path(folder), chosen.times, chosen.seed)
    figures |= {"seed": chosen.seed, "hardware": hardware(torch.device("cpu")), "versions": versions()}
    text = json.dumps(figures, indent=1)
    print(text)
    if chosen.out:
        Path(chosen.out).write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
