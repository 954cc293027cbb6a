"""What a run shows and writes while it trains: a progress bar or plain lines, TensorBoard, JSON lines."""

import json
import os
import sys
import time
import warnings
from pathlib import Path


class Progress:
    """Progress of one epoch: a bar on a terminal, a plain line every `seconds` elsewhere.

    Args:
        done: steps that were done before.
        shown: False for a process that prints nothing.
    """

    def __init__(self, title: str, total: int, seconds: float, *, done: int = 0, shown: bool = True):
        self.title, self.total, self.seconds = title, total, seconds
        self.done, self.last, self.shown = done, time.monotonic(), shown
        self.bar = None
        if shown and has_terminal():
            from tqdm import tqdm

            self.bar = tqdm(total=total, initial=done, desc=title, unit="step", leave=False, dynamic_ncols=True)

    def step(self, text) -> None:
        """Count one step; ``text()`` is called only when something is shown."""
        self.done += 1
        if not self.shown:
            return
        now = time.monotonic()
        if self.bar is not None:
            self.bar.update()
            if now - self.last >= 0.5:
                self.bar.set_postfix_str(text())
                self.last = now
        elif now - self.last >= self.seconds:
            say(f"{self.title} step {self.done}/{self.total}  {text()}")
            self.last = now

    def close(self) -> None:
        """Remove the bar."""
        if self.bar is not None:
            self.bar.close()


def has_terminal() -> bool:
    """Whether stderr is a terminal with room for a bar; some launchers give one without columns."""
    return sys.stderr.isatty() and os.get_terminal_size(sys.stderr.fileno()).columns > 0


def say(text: str) -> None:
    """Print one line at once, so that a log file is never behind; of many processes the first one prints."""
    if os.environ.get("RANK", "0") == "0":
        print(text, flush=True)


class Logbook:
    """TensorBoard and ``metrics.jsonl`` of one run.

    Args:
        folder: the run's.
        step: the step that training starts from; what an earlier start wrote after it is hidden in TensorBoard and
            removed from ``metrics.jsonl``, so that curves do not overlap.
    """

    def __init__(self, folder: Path, step: int):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tensorboard's own imports of deprecated modules
            from torch.utils.tensorboard import SummaryWriter
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        self.file = folder / "metrics.jsonl"
        if self.file.exists():
            kept = [entry for entry in read_lines(self.file) if entry["step"] <= step]
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
            temporary.replace(self.file)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write numbers at a step, each under a name like ``train/loss``."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        with open(self.file, "a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")

    def hyperparameters(self, settings: dict, results: dict[str, float]) -> None:
        """Write settings against results for TensorBoard's HParams page."""
        flat = {k: v for k, v in flatten(settings).items() if isinstance(v, (bool, int, float, str))}
        self.writer.add_hparams(flat, {f"hparam/{k}": v for k, v in results.items()}, run_name=".")

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()


def read_lines(path: Path) -> list[dict]:
    """The entries of a file of JSON lines; a last line that was cut off while it was written is left out."""
    lines = path.read_text().splitlines()
    entries = []
    for number, line in enumerate(lines, 1):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ValueError(f"{path}, line {number}, is damaged ({error}); remove that line") from error
    return entries


def flatten(settings: dict, prefix: str = "") -> dict:
    """Nested settings as one dict with dotted names."""
    out = {}
    for key, value in settings.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
