"""What a command shows while it works: a progress bar on a terminal, plain lines elsewhere."""

import os
import sys
import time


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
