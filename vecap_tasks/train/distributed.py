"""The process group that trains one model, and its collective operations."""

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
class ProcessGroup:
    """This process in the group that trains one model: its `rank` (from 0), the `world_size` and its `device`."""

    device: torch.device
    rank: int = 0
    world_size: int = 1

    def all_gather(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the rows [n, d] of all ranks as [world_size * n, d], in rank order; differentiable.

        Every rank must pass the same number of rows.
        """
        gathered: torch.Tensor = _AllGather.apply(rows, self) if self.world_size > 1 else rows
        return gathered

    def all_reduce_mean(self, values: torch.Tensor) -> torch.Tensor:
        """Return the mean over all ranks, without gradient. May change *values* in place."""
        if self.world_size > 1:
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def broadcast(self, value: int) -> int:
        """Return the *value* of rank 0."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], device=self.device)
        dist.broadcast(tensor, 0)
        return int(tensor)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.broadcast(0)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: torch.Tensor, process_group: ProcessGroup) -> torch.Tensor:
        context.shape = rows.shape
        gathered = rows.new_empty(process_group.world_size * rows.shape[0], *rows.shape[1:])
        dist.all_gather_into_tensor(gathered, rows.contiguous())
        return gathered

    @staticmethod
    def backward(context: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        rows = gradient.new_empty(context.shape)
        dist.reduce_scatter_tensor(rows, gradient.contiguous())
        return rows, None


@contextmanager
def join_process_group(device_name: str, timeout: float) -> Iterator[ProcessGroup]:
    """Join the process group that torchrun describes in the environment; leave it at the end of the block.

    *timeout* is in seconds. Raises ConfigError if the device is not available.
    """
    if _is_cuda(device_name):
        local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if 0 < gpus <= local_rank:
            raise ConfigError(
                f"train.launch.processes: process {local_rank} has no GPU; this node has {gpus}, "
                "lower train.launch.processes"
            )
        device_name = f"cuda:{local_rank}"
    device = training_device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
    try:
        yield ProcessGroup(device, dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def training_device(name: str) -> torch.device:
    """Return the torch device *name*, with reproducible cuBLAS. Raises ConfigError if it is not available."""
    if _is_cuda(name):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is not reproducible without it
    return open_device("train.device", name)


def _is_cuda(device: str) -> bool:
    return device.partition(":")[0] == "cuda"
