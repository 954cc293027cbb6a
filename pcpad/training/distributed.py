"""Who takes part in a training: every shard, seed and sum is asked for here, for one process too."""

import os
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist


@dataclass(frozen=True)
class World:
    """This process among all that train together.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

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
            dist.all_gather_object(parts, value)
        return parts


def this_world() -> World:
    """One process; raises ValueError where a launcher has started several."""
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != 1:
        raise ValueError(
            f"{launched} processes were launched (WORLD_SIZE): training in several processes is not supported yet; "
            "start one process without a launcher"
        )
    return World()
