"""What a run shows and writes while it trains: a progress bar or plain lines, TensorBoard, JSON lines."""

import json
import sys
import time
import warnings
from pathlib import Path


class Progress:
    """Progress of one epoch: a bar on a terminal, a plain line every `seconds` elsewhere."""

    def __init__(self, title: str, total: int, seconds: float):
        self.title, self.total, self.seconds = title, total, seconds
        self.done, self.last = 0, time.monotonic()
        self.bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(total=total, desc=title, unit="step", leave=False, dynamic_ncols=True)

    def step(self, text) -> None:
        """Count one step; ``text()`` is called only when something is shown."""
        self.done += 1
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


def say(text: str) -> None:
    """Print one line at once, so that a log file is never behind."""
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
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)
        self.file = folder / "metrics.jsonl"
        if self.file.exists():
            lines = [line for line in self.file.read_text().splitlines() if json.loads(line)["step"] <= step]
            self.file.write_text("".join(line + "\n" for line in lines if step))

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


def flatten(settings: dict, prefix: str = "") -> dict:
    """Nested settings as one dict with dotted names."""
    out = {}
    for key, value in settings.items():
        out |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out
