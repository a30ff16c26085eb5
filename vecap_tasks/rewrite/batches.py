"""Texts of a shard that is not finished: each batch is published aside, so that a lost worker costs one at most.

A text follows from who writes it, its subject and its draw, not from the batch it came in; so the shard's next try
takes the texts over, and its bytes are those of a try that nothing disturbed.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from vecap_tasks.dataset.manifest import digest
from vecap_tasks.dataset.stage import Stage
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.draw import Draw, Written, flat
from vecap_tasks.rewrite.refusals import Refusals

log = logging.getLogger(__name__)
S = TypeVar("S")

Finished = Callable[[Mapping[int, Written]], None]  # takes what a batch wrote, by the places of what was asked
Ask = Callable[[Sequence[tuple[S, Draw]], Finished], list[Written]]

_ENDING = ".jsonl"


def unheeded(batch: Mapping[int, Written]) -> None:
    """Take a finished batch and do nothing: for a caller who waits for them all."""


class Batches:
    """The texts that earlier tries of *shard* finished, and the way to keep those of this one."""

    def __init__(self, stage: Stage, shard: str) -> None:
        self._stage = stage
        self._shard = shard
        self._place = stage.aside(shard)
        self._known: dict[str, Written] = {}
        self.taken_over = 0  # texts that were asked for and lay there
        self.refusals = Refusals(f"{stage.name} {shard}")
        for name in stage.store.files(self._place):
            if name.endswith(_ENDING):
                for line in stage.store.read(f"{self._place}/{name}").splitlines():
                    body = json.loads(line)
                    self._known[body["key"]] = Written(**body["written"])

    def write(
        self, role: str, size: int, asked: Sequence[tuple[S, Draw]], subject: Callable[[S], str], ask: Ask[S]
    ) -> list[Written]:
        """Return a text for each of *asked*, by *ask* for those that no try has finished, kept in files of *size*.

        *role* and *subject* tell the texts of a shard apart. Raises VecapError where nobody waits for the shard now.
        """
        keys = [_key(role, subject(one), draw) for one, draw in asked]
        left = [place for place, key in enumerate(keys) if key not in self._known]
        self.taken_over += len(asked) - len(left)
        unkept: dict[str, Written] = {}

        def finished(batch: Mapping[int, Written]) -> None:
            texts = {keys[left[place]]: text for place, text in batch.items()}
            unkept.update((key, text) for key, text in texts.items() if text.problem is None)
            if len(unkept) >= size:
                self._keep(role, unkept)
            if not self._stage.wanted():
                self._keep(role, unkept)
                raise VecapError(
                    f"{self._stage.name} {self._shard}: nobody waits for it any more; what is done is kept"
                )

        if left:
            written = ask([asked[place] for place in left], finished)
            self._known |= zip((keys[place] for place in left), written, strict=True)
            self.refusals.note(role, written)
        self._keep(role, unkept)
        return [self._known[key] for key in keys]

    def _keep(self, role: str, texts: dict[str, Written]) -> None:
        if not texts:
            return
        lines = ({"key": key, "written": flat(text)} for key, text in sorted(texts.items()))
        data = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
        self._stage.store.put(f"{self._place}/{hashlib.sha256(data).hexdigest()[:16]}{_ENDING}", data)
        log.debug("%s %s: %d texts of %s kept", self._stage.name, self._shard, len(texts), role)
        texts.clear()


def _key(role: str, subject: str, draw: Draw) -> str:
    return digest([role, subject, flat(draw)])[:32]
