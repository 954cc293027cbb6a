"""Who takes part in a training: every shard, seed and sum is asked for here, for one process too."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

PATIENCE = timedelta(hours=6)
"""How long a process waits for another that checks or prepares data; a process that dies is noticed by torchrun."""


@dataclass(frozen=True)
class World:
    """This process among all that train together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process on its machine, which is that of its GPU.
        group: the processes' way to talk about values on the CPU; None for one process.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """`values` added up over all processes: a new tensor of the same shape and dtype."""
        values = values.clone()
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, values: Tensor) -> Tensor:
        """Rows of all processes, ``(n, ...)`` each with its own n, joined in the order of the ranks."""
        if self.size == 1:
            return values
        return torch.cat(self.collect(values.cpu()))

    def collect(self, value) -> list:
        """One value of each process, in the order of the ranks; anything that can be pickled."""
        parts: list = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(parts, value, group=self.group)
        return parts

    def agree(self, *flags: int) -> tuple[int, ...]:
        """The largest value of each flag over all processes, so that all decide alike; CPU only."""
        if self.size == 1:
            return flags
        values = torch.tensor(flags, dtype=torch.int64)
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return tuple(values.tolist())

    def on_main(self, work: Callable[[], Any]) -> Any:
        """The result of `work` on the main process, on every process; what it raises is raised on every process."""
        if self.size == 1:
            return work()
        result: list = [None, None]
        if self.is_main:
            try:
                result = [work(), None]
            except (ValueError, OSError) as error:
                result = [None, error]
        dist.broadcast_object_list(result, src=0, group=self.group)
        if result[1] is not None:
            raise result[1]
        return result[0]

    def share(self, error: Exception | None) -> None:
        """Raise the first error of all processes on every process; nothing where none has one."""
        if any(self.agree(error is not None)):
            known = error is None or isinstance(error, (ValueError, OSError))
            told = self.collect(error if known else RuntimeError(f"rank {self.rank}: {error!r}"))
            raise error or next(one for one in told if one is not None)

    def same(self, module: nn.Module) -> None:
        """Give every process the main process's buffers: each has seen other images."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def close(self) -> None:
        """Leave the group of processes."""
        if self.size > 1:
            dist.destroy_process_group()


def this_world(device: torch.device) -> World:
    """This process in the world that torchrun has started, or alone; the device must be this process's own.

    Over gloo on a CPU, over NCCL on GPUs.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    return World(dist.get_rank(), size, local_rank(), group)


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def parallel(model: nn.Module, device: torch.device, world: World) -> nn.Module:
    """The model as every process calls it: its gradients are the mean over all processes."""
    if world.size == 1:
        return model
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids)  # the main process's buffers before each pass
