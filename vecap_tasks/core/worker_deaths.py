"""Marks of shards that are being worked on: one that outlives its process tells that the process was killed in it.

Dask counts deaths too, but blames every shard that a worker held, and forgets them with its scheduler.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from vecap_tasks.core.stage import Stage
from vecap_tasks.errors import VecapError, format_error

log = logging.getLogger(__name__)

MAX_DEATHS = 3  # workers that may be killed in a shard, no batch of it being finished between
_ENDING = ".try"


@contextmanager
def record_attempt(stage: Stage, shard: str, run: str) -> Iterator[None]:
    """Mark *shard* as begun while the block runs. *run* names the run of the engine whose deaths are counted.

    Raises VecapError where it has been the death of `MAX_DEATHS` workers: it is set aside.
    """
    place = stage.scratch_dir(shard)
    names = stage.store.files(place)
    finished = sum(not name.endswith(_ENDING) for name in names)
    mine = f"{run}.{finished}."  # what a shard has finished since is progress, and the deaths before it no reproach
    if sum(name.startswith(mine) for name in names) >= MAX_DEATHS:
        raise VecapError(
            f"set aside, {MAX_DEATHS} workers having been killed in it, perhaps for want of memory; "
            "give the workers more, or make shard_size or batch_size smaller, then run the same command again"
        )
    mark = f"{place}/{mine}{uuid.uuid4().hex[:8]}{_ENDING}"
    stage.store.put(mark, b"")
    try:
        yield
    except BaseException:
        try:
            stage.finalize(shard)  # another worker may have been faster: what this one has kept since then is nobody's
            stage.store.remove(mark)
        except (OSError, VecapError) as error:  # of a store that is lost, say: what failed first is what to tell
            log.warning("%s %s: what it left cannot be looked after: %s", stage.name, shard, format_error(error))
        raise
    stage.store.remove(mark)
