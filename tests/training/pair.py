"""Two processes that do what a test asks of them, together: started once, since starting torch takes seconds."""

import contextlib
import faulthandler
import importlib
import io
import os
import socket
import traceback
from multiprocessing import get_context, set_start_method

PATIENCE = 60
"""Seconds until a pair that does not answer has failed."""


class Pair:
    """Two processes, ranks 0 and 1. Each call is one world of its own."""

    def __init__(self):
        context = get_context("spawn")
        self.tasks = [context.Queue() for _ in range(2)]
        self.answers = [context.Queue() for _ in range(2)]
        self.processes = [
            context.Process(target=serve, args=(rank, self.tasks[rank], self.answers[rank]), daemon=False)
            for rank in range(2)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, task: str, *args, together: bool = True, **kwargs) -> list:
        """What ``tests.training.tasks.TASK(*args, **kwargs)`` gives in each process; its exceptions are raised here.

        Args:
            together: in one world of two; else each in a world of its own.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for queue in self.tasks:
            queue.put((task, args, kwargs, port if together else None))
        answers = [queue.get(timeout=PATIENCE) for queue in self.answers]
        for value, failure in answers:
            if failure:
                raise AssertionError(f"a process of the pair has failed:\n{failure}\n{value}")
        return [value for value, _ in answers]

    def close(self) -> None:
        """End the processes."""
        for queue in self.tasks:
            queue.put(None)
        for process in self.processes:
            process.join(20)
            if process.is_alive():
                process.kill()


def serve(rank: int, tasks, answers) -> None:
    """Do tasks until there are no more."""
    import torch

    set_start_method("fork", force=True)  # of a single process's loader: as in a process that was not spawned
    torch.set_num_threads(1)
    module = importlib.import_module("tests.training.tasks")
    for name, args, kwargs, port in iter(tasks.get, None):
        world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for key, value in world.items():
            os.environ.pop(key, None)
            if port is not None:
                os.environ[key] = str(value)
        faulthandler.dump_traceback_later(PATIENCE / 2)  # where it hangs, if it does
        try:
            answers.put((getattr(module, name)(*args, **kwargs), None))
        except BaseException:
            answers.put((None, traceback.format_exc()))
        faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def captured():
    """What is printed, as two streams."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        yield out, err
