"""The curves that a run writes while it trains: TensorBoard and JSON lines."""

import json
import warnings
from contextlib import nullcontext, suppress
from pathlib import Path

from pcpad.config.plain import flatten
from pcpad.lines import COUNT, append_line, read_lines, wrong_field


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
        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self.file = folder / "metrics.jsonl"
        if self.file.exists():
            kept = [entry for entry in read_lines(self.file, wrong_in_metrics) if entry["step"] <= step]
            temporary = self.file.with_suffix(".tmp")
            temporary.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
            temporary.replace(self.file)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Write numbers at a step, each under a name like ``train/loss``."""
        append_line(self.file, {"step": step, **values})
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def hyperparameters(self, settings: dict, results: dict[str, float]) -> None:
        """Write settings against results for TensorBoard's HParams page."""
        flat = {k: v for k, v in flatten(settings).items() if isinstance(v, (bool, int, float, str))}
        self.writer.add_hparams(flat, {f"hparam/{k}": v for k, v in results.items()}, run_name=".")

    def close(self) -> None:
        """Flush and close."""
        self.writer.close()

    def __enter__(self) -> "Logbook":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_) -> None:
        """Close; after a failure what cannot be written is lost, so that this does not take the failure's place."""
        with nullcontext() if kind is None else suppress(Exception):
            self.close()


def wrong_in_metrics(entry: dict) -> str | None:
    """What is wrong with a line of ``metrics.jsonl``, in words, or None."""
    return wrong_field(entry, {"step": COUNT})
