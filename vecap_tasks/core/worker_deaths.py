"""Markers of running shards: a marker that outlives its process shows that the process was killed.

Dask counts worker deaths too, but blames every shard of the worker, and loses the count with its scheduler.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from vecap_tasks.core.stage import Stage
from vecap_tasks.errors import OutageError, VecapError, format_error

log = logging.getLogger(__name__)

MAX_DEATHS = 3  # killed workers per shard without a finished batch in between
_SUFFIX = ".try"


@contextmanager
def record_attempt(stage: Stage, shard: str, run: str) -> Iterator[None]:
    """Mark *shard* as running during the block. Only deaths in the executor's run *run* count.

    Raises VecapError if `MAX_DEATHS` workers were killed on the shard.
    """
    folder = stage.scratch_dir(shard)
    names = stage.store.files(folder)
    finished = sum(not name.endswith(_SUFFIX) for name in names)
    prefix = f"{run}.{finished}."  # a finished batch resets the count
    if sum(name.startswith(prefix) for name in names) >= MAX_DEATHS:
        raise VecapError(
            f"Skipped: {MAX_DEATHS} workers were killed on this shard (likely out of memory); give the workers more "
            "memory, or reduce shard_size or batch_size, then run the same command again"
        )
    marker = f"{folder}/{prefix}{uuid.uuid4().hex[:8]}{_SUFFIX}"
    stage.store.put(marker, b"")
    try:
        yield
    except OutageError:
        raise  # the store may be away; the marker is removed with the shard's folder
    except BaseException:
        try:
            stage.finalize(shard)  # removes what is left here if another worker has finished the shard
            stage.store.remove(marker)
        except (OSError, VecapError) as error:  # such as a store that is gone; raise the first error
            log.warning("%s %s: cannot clean up: %s", stage.name, shard, format_error(error))
        raise
    stage.store.remove(marker)
