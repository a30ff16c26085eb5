"""Texts of an unfinished shard, stored batch by batch so that a lost worker costs one batch; and refused requests."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TypeVar

from vecap_tasks.core.manifest import digest
from vecap_tasks.core.stage import Stage
from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.backends.openai_errors import ROW_FAULTS
from vecap_tasks.rewrite.backends.sampling_params import Draw, Finished, Written, flat
from vecap_tasks.rewrite.second_try import Caption

log = logging.getLogger(__name__)
_FEW = 20  # captions of a shard, too few to tell the server's fault from theirs


class Refusals:
    """The refusals of one shard; *where* names it in messages."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._examples: dict[str, str] = {}  # problem to the first message

    def note(self, role: str, written: Sequence[Written]) -> None:
        """Log one line for each problem in what the model of *role* answered."""
        messages: dict[str, list[str]] = {}
        for text in written:
            if text.problem and text.said:
                messages.setdefault(text.problem, []).append(text.said)
        for problem, said in sorted(messages.items()):
            self._examples.setdefault(problem, said[0])
            log.warning(
                "%s: %s: the server refused %d of %d requests (%s), for example: %s",
                *(self._where, role, len(said), len(written), problem, said[0]),
            )

    def check(self, role: str, captions: Collection[Caption], limit: float) -> None:
        """Raise VecapError where a share of *captions* above *limit* was refused, so that no row is at fault."""
        refused = Counter(caption.problem for caption in captions if caption.problem in ROW_FAULTS)
        if len(captions) < _FEW or refused.total() <= len(captions) * limit:
            return
        problem, _ = refused.most_common(1)[0]
        raise VecapError(
            f"{self._where}: {role}: the server refused {refused.total()} of {len(captions)} requests "
            f"({_listed(refused)}), for example: {self._examples.get(problem, problem)}; "
            "correct the server's limits or the settings that this names, or raise rewrite.max_refused"
        )


def warn_of_refusals(stage: str, counters: Iterable[Mapping[str, int]]) -> None:
    """Log one line with what the servers refused in a version, from the *counters* of its shards."""
    rows, refused = 0, Counter[str]()
    for one in counters:
        rows += one["rows"]
        refused += Counter({str(fault): one.get(f"problem.{fault}", 0) for fault in ROW_FAULTS})
    if refused:
        log.warning(
            "%s: %d texts of a version of %d rows are missing since a server refused them: %s",
            *(stage, refused.total(), rows, _listed(refused)),
        )


def _listed(refused: Counter[str]) -> str:
    return ", ".join(f"{problem} {count}" for problem, count in sorted(refused.items()))


S = TypeVar("S")

Ask = Callable[[Sequence[tuple[S, Draw]], Finished], list[Written]]

_ENDING = ".jsonl"


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
