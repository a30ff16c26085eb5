"""Texts of an unfinished shard, stored batch by batch so that a lost worker costs one batch; and refused requests."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from vecap_tasks.core.manifest import digest
from vecap_tasks.core.stage import Stage
from vecap_tasks.errors import PermanentError, VecapError
from vecap_tasks.rewrite.backends.openai_errors import ROW_FAULTS, Fault
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, Sampling, flat

log = logging.getLogger(__name__)

_ENDING = ".jsonl"
_FEW = 20  # captions of a shard, too few to tell the server's fault from theirs


class Refusals:
    """The refusals of one shard; *where* names it in messages, *limit* is the share of its captions that may fail."""

    def __init__(self, where: str, limit: float) -> None:
        self._where = where
        self._limit = limit
        self._examples: dict[str, str] = {}  # problem to the first message

    def note(self, role: str, written: Sequence[GeneratedText]) -> None:
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

    def check(self, role: str, problems: Collection[str | None]) -> None:
        """Check the *problems* of all captions of the shard, None for a caption without one.

        Raises PermanentError if the server refused a share above the limit: then no row is at fault. Raises VecapError
        if most of these have no answer at all: a retry may get them.
        """
        refused = Counter(problem for problem in problems if problem in ROW_FAULTS)
        if len(problems) < _FEW or refused.total() <= len(problems) * self._limit:
            return
        problem, _ = refused.most_common(1)[0]
        kind = VecapError if problem == Fault.FAILED else PermanentError
        raise kind(
            f"{self._where}: {role}: the server refused {refused.total()} of {len(problems)} requests "
            f"({_listed(refused)}), for example: {self._examples.get(problem, problem)}; "
            "correct the server's limits or the settings that this names, or raise rewrite.max_rejected"
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


def text_key(role: str, subject: str, draw: Sampling) -> str:
    """Return the key of a stored text, 32 hex digits: which model wrote it, about what, and how."""
    return digest([role, subject, flat(draw)])[:32]


class Batches:
    """The texts of *shard* by `text_key`: those that earlier tries stored, and those of this one."""

    def __init__(self, stage: Stage, shard: str) -> None:
        self.texts: dict[str, GeneratedText] = {}
        self.taken_over = 0  # texts that were asked for and lay there
        self.refusals = Refusals(f"{stage.name} {shard}", stage.config.rewrite.max_rejected)
        self._stage = stage
        self._shard = shard
        self._place = stage.scratch_dir(shard)
        self._unstored: dict[str, GeneratedText] = {}
        for name in stage.store.files(self._place):
            if name.endswith(_ENDING):
                for line in stage.store.read(f"{self._place}/{name}").splitlines():
                    body = json.loads(line)
                    self.texts[body["key"]] = GeneratedText(**body["written"])

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Return the places of the *keys* that have no text yet. The others count as taken over."""
        places = [place for place, key in enumerate(keys) if key not in self.texts]
        self.taken_over += len(keys) - len(places)
        return places

    def add_batch(self, role: str, keys: Sequence[str], size: int, batch: Mapping[int, GeneratedText]) -> None:
        """Take the finished texts of a *batch*, by their places in *keys*, and store them in files of *size* or more.

        Raises VecapError if the task was canceled; all finished texts are stored then.
        """
        self._unstored.update((keys[place], text) for place, text in batch.items() if text.problem is None)
        if len(self._unstored) >= size:
            self._store(role)
        if not self._stage.should_continue():
            self._store(role)
            raise VecapError(f"{self._stage.name} {self._shard}: nobody waits for it any more; what is done is kept")

    def add_all(self, role: str, keys: Sequence[str], written: Sequence[GeneratedText]) -> None:
        """Take the texts of all *keys*, log what the server refused, and store what no file has yet."""
        self.texts |= zip(keys, written, strict=True)
        self.refusals.note(role, written)
        self._store(role)

    def _store(self, role: str) -> None:
        if not self._unstored:
            return
        lines = ({"key": key, "written": flat(text)} for key, text in sorted(self._unstored.items()))
        data = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
        self._stage.store.put(f"{self._place}/{hashlib.sha256(data).hexdigest()[:16]}{_ENDING}", data)
        log.debug("%s %s: %d texts of %s kept", self._stage.name, self._shard, len(self._unstored), role)
        self._unstored.clear()
