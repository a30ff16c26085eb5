"""The processes that train one model together, and what they tell each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vecap_tasks.core.models import open_device
from vecap_tasks.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process among those that train together: `rank` of `world`, from 0, on its `device`."""

    device: torch.device
    rank: int = 0
    world: int = 1

    def gather(self, own: torch.Tensor) -> torch.Tensor:
        """Return the rows of all ranks, [world * n, d], in their order; gradients find back to where they belong.

        Every rank must give as many rows.
        """
        gathered: torch.Tensor = _Gathered.apply(own, self) if self.world > 1 else own
        return gathered

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over all ranks; no gradient passes. *values* may be changed."""
        if self.world > 1:
            dist.all_reduce(values)
            values /= self.world
        return values

    def broadcast_object(self, value: int) -> int:
        """Return what the first rank says."""
        if self.world == 1:
            return value
        said = torch.tensor([value], device=self.device)
        dist.broadcast(said, 0)
        return int(said)

    def wait(self) -> None:
        """Return when all ranks have come here."""
        self.broadcast_object(0)


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, own: torch.Tensor, ranks: Ranks) -> torch.Tensor:
        context.rows = own.shape
        everyone = own.new_empty(ranks.world * own.shape[0], *own.shape[1:])
        dist.all_gather_into_tensor(everyone, own.contiguous())
        return everyone

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        own = gradient.new_empty(context.rows)
        dist.reduce_scatter_tensor(own, gradient.contiguous())
        return own, None


@contextmanager
def join_process_group(wanted: str, patience: float) -> Iterator[Ranks]:
    """Meet the other processes that torchrun started, which says by the environment who is who; leave at the end.

    Raises ConfigError for a device that is not there.
    """
    if _of_cuda(wanted):
        local, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if 0 < there <= local:
            raise ConfigError(f"train.launch.processes: there are {there} GPUs here, none for process {local}")
        wanted = f"cuda:{local}"
    device = training_device(wanted)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=patience))
    try:
        yield Ranks(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def training_device(wanted: str) -> torch.device:
    """Return the torch device *wanted*; cuBLAS is reproducible then. Raises ConfigError for one that is not there."""
    if _of_cuda(wanted):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is reproducible with it alone
    return open_device("train.device", wanted)


def _of_cuda(device: str) -> bool:
    return device.partition(":")[0] == "cuda"
