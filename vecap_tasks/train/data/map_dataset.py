"""A set that is shuffled as a whole in every epoch: every sample has its place in an index."""

from __future__ import annotations

from collections.abc import Iterator

from vecap_tasks.train.data.epoch import Order, Plan, epoch_order
from vecap_tasks.train.data.images import Images, Index
from vecap_tasks.train.data.prefetch import Batch, prefetch, share


class ShuffledData:
    """Training data (`batch.py`) of *index*: an epoch is a permutation of its samples."""

    def __init__(self, index: Index, images: Images, plan: Plan, seed: int) -> None:
        self.samples, self.left_out, self.batch_size = plan.samples, plan.left_out, plan.batch_size
        self.per_epoch, self.steps = plan.per_epoch, plan.steps
        self._index = index
        self._images = images
        self._plan = plan
        self._seed = seed
        self._order: tuple[int, Order] | None = None

    def batches(self, first: int, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        rows = share(self.batch_size, rank, world)
        return prefetch(lambda step: self._make(step, rows), first, self.steps)

    def _make(self, step: int, rows: range) -> Batch:
        epoch, place = divmod(step, self.per_epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, epoch_order(self._plan.usable, self._plan.wanted, self._seed, epoch)
        order = self._order[1]
        taken = slice(place * self.batch_size + rows.start, place * self.batch_size + rows.stop)
        passes = order.passes[taken]
        pixels, numbers = self._images.take(order.numbers[taken])
        ids = self._index.tokens(numbers, passes, self._seed)
        return Batch(step, epoch, place, self._index.uids(numbers), pixels, ids)
