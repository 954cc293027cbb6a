"""Word of how a training ended, for what started it: a marker in the run's folder, and a line for the launcher."""

import json
import os
import time
from pathlib import Path

from pcpad.training.distributed import World
from pcpad.training.signals import Stopped

MARKER = "requeue.json"
"""In a run's folder: it was stopped by a signal, has saved, and is to be started again."""
STATUS = "PCPAD_STATUS"
"""Environment variable: the file in which the launcher looks for the outcome."""


class Requeue:
    """The marker of one run."""

    def __init__(self, folder: Path, world: World):
        self.path, self.world = folder / MARKER, world

    def clear(self) -> None:
        """Training goes on: remove the marker."""
        self.world.on_main(lambda: self.path.unlink(missing_ok=True))

    def write(self, stop: Stopped) -> None:
        """Training has stopped and saved."""
        about = {"signal": stop.signal, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
        self.world.on_main(lambda: self.path.write_text(json.dumps(about) + "\n") and None)


def tell_launcher(world: World, folder: Path, stop: Stopped | None = None) -> None:
    """Tell the launcher which run this is, and whether a signal has stopped it."""
    path = os.environ.get(STATUS)
    if path and world.is_main:
        status = {"folder": str(folder), "signal": stop and stop.signal, "text": stop and str(stop)}
        temporary = Path(f"{path}.tmp")
        temporary.write_text(json.dumps(status))
        temporary.replace(path)
