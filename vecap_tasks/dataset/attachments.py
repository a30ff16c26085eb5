"""Attachments of a stage, whose bytes carry times: of runs that commit at once, or after a kill, all take one run's.

Else a loser's pages would lie where the winner's manifest means its own. Each run puts its attachments into a folder of
its own and offers that; the first offer is taken by all (docs/decisions/0010).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from vecap_tasks.dataset.manifest import FileEntry
from vecap_tasks.dataset.store import Store


class Attachments:
    """What one run has to attach to the stage in *folder* of the store; its offers lie in *place*."""

    def __init__(self, store: Store, folder: str, place: str) -> None:
        self._store = store
        self._folder = folder
        self._taken = f"{place}/taken"
        self._offer = f"{place}/{uuid.uuid4().hex}"

    def publish(self, names: Sequence[str], work: Path, committed: Callable[[], bool]) -> tuple[FileEntry, ...]:
        """Offer the files *names* of *work*, copy the offer that is taken to the stage, and return its entries.

        *committed* says whether the stage has its manifest by now.
        """
        if not names:
            return ()
        entries = [FileEntry.of(work, name, None) for name in sorted(names)]
        for entry in entries:
            self._store.upload(f"{self._offer}/{entry.path}", work / entry.path)
        body = {"offer": self._offer, "entries": [asdict(entry) for entry in entries]}
        if not self._store.create(self._taken, json.dumps(body).encode()):
            body = json.loads(self._store.read(self._taken))
            entries = [FileEntry(**item) for item in body["entries"]]
        try:
            for entry in entries:
                if not entry.lies_in(self._store, self._folder):
                    self._store.copy(f"{body['offer']}/{entry.path}", f"{self._folder}/{entry.path}")
        except FileNotFoundError:
            if not committed():  # else they lie there, and whose they are has cleared the offer away
                raise
        return tuple(entries)

    def clear(self) -> None:
        """Remove this run's offer, the stage having its manifest."""
        self._store.remove_folder(self._offer)
