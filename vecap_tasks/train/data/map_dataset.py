"""Training data with random access: all samples are indexed and globally shuffled in each epoch."""

from __future__ import annotations

from collections.abc import Iterator

from vecap_tasks.train.data.epoch import EpochOrder, RunPlan, epoch_order
from vecap_tasks.train.data.images import Images, Index
from vecap_tasks.train.data.prefetch import Batch, prefetch, rank_range


class MapTrainingData:
    """`TrainingData` over an index. Each epoch is a permutation of its samples."""

    def __init__(self, index: Index, images: Images, plan: RunPlan, seed: int) -> None:
        self.samples, self.left_out, self.batch_size = plan.samples, plan.left_out, plan.batch_size
        self.steps_per_epoch, self.steps = plan.steps_per_epoch, plan.steps
        self._index = index
        self._images = images
        self._plan = plan
        self._seed = seed
        self._order: tuple[int, EpochOrder] | None = None

    def batches(self, first: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
        rows = rank_range(self.batch_size, rank, world_size)
        return prefetch(lambda step: self._load(step, rows), first, self.steps)

    def _load(self, step: int, rows: range) -> Batch:
        epoch, index = divmod(step, self.steps_per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(self._plan.usable, self._plan.quotas, self._seed, epoch)
        order = self._order[1]
        selected = slice(index * self.batch_size + rows.start, index * self.batch_size + rows.stop)
        passes = order.passes[selected]
        pixels, numbers = self._images.take(order.numbers[selected])
        ids = self._index.tokens(numbers, passes, self._seed)
        return Batch(step, epoch, index, self._index.uids(numbers), pixels, ids)
