"""A DALI graph run to the end of its images: batches as tensors, and a failure as the error of the damaged file."""

import gc
import os
import queue
import re
import threading
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import Pipeline, pipeline_def
from nvidia.dali.plugin.base_iterator import LastBatchPolicy
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from pcpad.data.batch import Batch
from pcpad.data.contract import Progress
from pcpad.data.damage import DamagedImageError, first_damaged
from pcpad.ragged import RaggedBatch

_running: set[DALIGenericIterator] = set()  # held here, so that Python's garbage collector never ends a pipeline
_left: queue.SimpleQueue[tuple] = queue.SimpleQueue()  # iterators to be ended, with their copies and their process
_collector = threading.local()  # `runs` in the thread where it does
_FORMATS = ("JPEG", "MPO", "JPEG2000", "PNG", "BMP", "TIFF", "WEBP", "PPM")  # in PIL's words


class Copies:
    """Copies of what lies in DALI's memory on a GPU, which is held until they are made.

    DALI takes its memory back, to write the next images there, when Python has dropped the last tensor of it. What
    torch's stream has still to do with it by then is not waited for.
    """

    def __init__(self):
        self._held: deque[tuple[torch.cuda.Event, list[torch.Tensor]]] = deque()

    def of(self, output: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same tensors, those on a GPU in torch's own memory, as soon as its stream comes to it."""
        while self._held and self._held[0][0].query():
            self._held.popleft()
        lent = [one for one in output.values() if one.is_cuda]
        made = {name: one.clone() if one.is_cuda else one for name, one in output.items()}
        if lent:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(lent[0].device))
            self._held.append((event, lent))
        return made

    def end(self) -> None:
        """Wait for the copies that are under way."""
        for event, _ in self._held:
            event.synchronize()
        self._held.clear()


class GraphRun:
    """A DALI graph that runs: its outputs batch by batch. The pipeline ends with the last reference to this.

    Ending a pipeline waits for its threads, and on a CPU these call Python (pcpad.data.dali_resize). So it must not be
    ended by Python's garbage collector, which may run in one of them, or in a thread whose locks they need: DALI would
    fail, wait forever or crash. What the collector finds is ended by the next use of any graph, or with the process.
    """

    def __init__(self, iterator: DALIGenericIterator):
        self._iterator, self._copies = iterator, Copies()
        _running.add(iterator)
        self._end = weakref.finalize(self, _leave, iterator, self._copies, os.getpid())
        self._end.atexit = False  # then DALI ends it

    def __next__(self) -> list[dict[str, torch.Tensor]]:
        end_left()
        return [self._copies.of(output) for output in next(self._iterator)]

    def checkpoints(self) -> list[bytes]:
        return self._iterator.checkpoints()

    def end(self) -> None:
        """Ends the pipeline now. An exception meanwhile, as a signal raises, gets through; else Python ignores it."""
        self._end()


def _leave(iterator: DALIGenericIterator, copies: Copies, process: int) -> None:
    _left.put((iterator, copies, process))  # of this queue's kind the collector may use one
    end_left()


def end_left() -> None:
    """Ends the pipelines of the graphs that nothing refers to, but for those of the process that forked this one."""
    while not getattr(_collector, "runs", False):
        try:
            iterator, copies, process = _left.get_nowait()
        except queue.Empty:
            return
        if process == os.getpid():
            copies.end()
            for pipeline in iterator._pipes:
                pipeline._shutdown()
            _running.discard(iterator)


def _note_collector(phase: str, _: dict[str, int]) -> None:
    _collector.runs = phase == "start"


gc.callbacks.append(_note_collector)


def run_graph(
    graph: Callable[[], dict[str, DataNode]],
    batch_size: int,
    workers: int,
    device: torch.device,
    conditionals: bool = False,
    **settings,
) -> GraphRun:
    end_left()
    device_id = None if device.type == "cpu" else torch.empty(0, device=device).get_device()
    names: list[str] = []

    def build() -> tuple[DataNode, ...]:
        outputs = graph()
        names[:] = outputs
        return tuple(outputs.values())

    settings |= {"batch_size": batch_size, "num_threads": max(workers, 1), "device_id": device_id}
    if conditionals:
        # DALI's augmentations call its own old names, and it says so past all filters.
        with warnings.catch_warnings(record=True):
            pipeline = pipeline_def(build, enable_conditionals=True, **settings)()
            pipeline.build()
    else:
        pipeline = Pipeline(**settings)
        with pipeline:
            pipeline.set_outputs(*build())
    iterator = DALIGenericIterator(
        pipeline,
        names,
        reader_name="reader",
        auto_reset=True,
        # With the reader's padding the only policy that neither repeats nor loses a file.
        last_batch_policy=LastBatchPolicy.PARTIAL,
        prepare_first_batch=False,
    )
    return GraphRun(iterator)


def read_batches(
    outputs: GraphRun,
    files: Sequence[str],
    own: Sequence[int],
    labels: torch.Tensor,
    device: torch.device,
    progress: Progress,
    number: np.ndarray | None = None,
) -> Iterator[Batch]:
    """Yields batches to the epoch's end, their images by name; a failure of DALI becomes the error of the file.

    Args:
        number: of DALI's index, the position in `files`, where the two differ.
    """
    number = None if number is None else torch.from_numpy(number)
    seen = np.zeros(len(files), dtype=bool)
    while True:
        try:
            (output,) = next(outputs)
        except StopIteration:
            return
        except Exception as error:  # whatever it is, the pipeline is no longer valid
            damage = find_damage(str(error), [files[index] for index in own if not seen[index]])
            progress.stop(str(damage or "DALI has failed"))
            if damage is None:
                raise
            try:
                raise damage from error
            finally:
                del damage  # with its traceback it would hold this frame, and so the pipeline
        index = output["index"].flatten().to(torch.int64)
        index = index if number is None else number[index]
        seen[index.numpy()] = True
        images = {name: made for name, made in output.items() if name != "index" and not name.startswith("sides ")}
        for name in images:
            if f"sides {name}" in output:
                images[name] = RaggedBatch(images[name], output[f"sides {name}"].cpu().to(torch.int64))
        yield Batch(images, labels[index].to(device, non_blocking=True), index)


def find_damage(text: str, suspects: Sequence[str]) -> DamagedImageError | None:
    """Finds the damaged file behind the text of DALI's error, which may name it; None where there is none."""
    named = max((file for file in suspects if file in text), key=len, default=None)
    reading = re.search(r"operator `nvidia\.dali\.fn\.(readers|decoders|peek)", text)
    if named is None and (not reading or re.search(r"out of memory|alloc", text)):
        return None  # a search through all the files would only delay the news
    found = first_damaged(suspects if named is None else [named], _FORMATS)
    return None if found is None else DamagedImageError.of(*found)
