"""What is to be seen of an epoch while it is trained: progress, speed, waiting times and the curves."""

import time
from collections.abc import Iterator

from pcpad.data.batch import Batch
from pcpad.environment import memory_mb
from pcpad.progress import Progress
from pcpad.training.distributed import World


class Watch:
    """Progress, waiting times and the log of the epoch under way."""

    def __init__(self, training):
        self.training = training
        job, state = training.job, training.state
        self.progress = Progress(
            f"epoch {state.epoch + 1}/{job.settings.epochs}",
            training.steps,
            job.settings.log_seconds,
            done=state.step_in_epoch,
            shown=job.world.is_main,
        )
        self.images, self.waited = 0, 0.0
        self.mark = (time.perf_counter(), 0, 0.0)  # where the last log entry ended

    def fetch(self, batches: Iterator[Batch], count: int) -> tuple[list[Batch], Exception | None]:
        """The next batches, or what went wrong; 0 takes the iterator to its end."""
        before = time.perf_counter()
        try:
            if count == 0:
                for _ in batches:
                    pass
            return [next(batches) for _ in range(count)], None
        except Exception as error:
            return [], error
        finally:
            self.waited += time.perf_counter() - before

    def step(self, images: int) -> None:
        """Count one step of so many images."""
        self.images += images
        self.progress.step(self.text)

    def speed(self) -> dict[str, float]:
        """Images/s of all processes and this one's share of waiting, since the last entry."""
        seconds = time.perf_counter() - self.mark[0]
        rate = self.training.job.world.size * (self.images - self.mark[1]) / seconds
        return {"images_per_second": rate, "data_wait_percent": 100 * (self.waited - self.mark[2]) / seconds}

    def text(self) -> str:
        """One line's worth, of this process's images."""
        state, now = self.training.state, self.speed()
        alone = state.sums.since_mark(World())[0]
        rate = state.optimizer.param_groups[0]["lr"]
        return (
            f"loss {alone:.3f}  lr {rate:.4g}  {now['images_per_second']:.0f} images/s  "
            f"data wait {now['data_wait_percent']:.0f}%"
        )

    def write(self) -> None:
        """An entry of the curves; all processes have to call it."""
        training, state = self.training, self.training.state
        loss, top1 = state.sums.since_mark(training.job.world, move=True)
        values = {"train/loss": loss, "train/top1": top1}
        values |= {f"train/{key}": value for key, value in self.speed().items()}
        values["train/lr"] = state.optimizer.param_groups[0]["lr"]
        values["train/memory_mb"] = memory_mb(training.job.device)
        if training.book:
            training.book.scalars(state.step, values)
        self.mark = (time.perf_counter(), self.images, self.waited)

    def close(self) -> None:
        """Remove the progress bar."""
        self.progress.close()
