"""Checkpoints of an unfinished shard's generated texts, and counts of the requests that a server rejects."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from vecap_tasks.core.manifest import digest
from vecap_tasks.core.stage import Stage
from vecap_tasks.errors import CorruptError, PermanentError, VecapError
from vecap_tasks.rewrite.backends.openai_errors import ROW_FAULTS, Fault
from vecap_tasks.rewrite.backends.sampling_params import GeneratedText, Sampling, flat

log = logging.getLogger(__name__)

_SUFFIX = ".jsonl"
_MIN_CAPTIONS = 20  # smaller shards are too small to tell a server fault from row faults


class RejectedRequests:
    """Tracks the rejected requests of one shard. *label* names the shard in messages; *limit* is the maximum share."""

    def __init__(self, label: str, limit: float) -> None:
        self._label = label
        self._limit = limit
        self._examples: dict[str, str] = {}  # problem -> first message

    def log_rejections(self, role: str, texts: Sequence[GeneratedText]) -> None:
        """Log one warning for each problem in *texts*."""
        by_problem: dict[str, list[str]] = {}
        for text in texts:
            if text.problem and text.message:
                by_problem.setdefault(text.problem, []).append(text.message)
        for problem, messages in sorted(by_problem.items()):
            self._examples.setdefault(problem, messages[0])
            log.warning(
                "%s: %s: the server rejected %d of %d requests (%s), for example: %s",
                *(self._label, role, len(messages), len(texts), problem, messages[0]),
            )

    def check(self, role: str, problems: Collection[str | None]) -> None:
        """Check the *problems* of all captions of the shard; None is a caption without a problem.

        Raises PermanentError if the server rejected more than the limit, or VecapError if most of those requests got
        no answer, because a retry can then succeed.
        """
        rejected = Counter(problem for problem in problems if problem in ROW_FAULTS)
        if len(problems) < _MIN_CAPTIONS or rejected.total() <= len(problems) * self._limit:
            return
        problem, _ = rejected.most_common(1)[0]
        error_class = VecapError if problem == Fault.FAILED else PermanentError
        raise error_class(
            f"{self._label}: {role}: the server rejected {rejected.total()} of {len(problems)} requests "
            f"({_format_counts(rejected)}), for example: {self._examples.get(problem, problem)}; "
            "correct the server's limits or the settings that the error names, or raise rewrite.max_rejected"
        )


def warn_rejected_requests(stage: str, counters: Iterable[Mapping[str, int]]) -> None:
    """Log one warning with the rejected requests of a version, summed over the *counters* of its shards."""
    rows, rejected = 0, Counter[str]()
    for shard in counters:
        rows += shard["rows"]
        rejected += Counter({str(fault): shard.get(f"problem.{fault}", 0) for fault in ROW_FAULTS})
    if rejected:
        log.warning(
            "%s: %d texts are missing in %d rows because a server rejected the requests: %s",
            *(stage, rejected.total(), rows, _format_counts(rejected)),
        )


def _format_counts(rejected: Counter[str]) -> str:
    return ", ".join(f"{problem} {count}" for problem, count in sorted(rejected.items()))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def text_key(role: str, subject: str, sampling: Sampling) -> str:
    """Return the key of a stored text, 32 hex digits, from its role, subject and sampling parameters."""
    return digest([role, subject, flat(sampling)])[:32]


class Batches:
    """The texts of *shard* by `text_key`, from this attempt and from earlier ones.

    *answers* are texts of other versions, which are used as if this attempt had generated them.
    """

    def __init__(self, stage: Stage, shard: str, answers: Mapping[str, GeneratedText] | None = None) -> None:
        self.texts: dict[str, GeneratedText] = {}
        self.resumed = 0  # requested texts that an earlier attempt stored
        self.rescreened = 0  # requested texts of other versions
        self._answers = answers or {}
        self.rejected = RejectedRequests(f"{stage.name} {shard}", stage.config.captioning.max_rejected)
        self._stage = stage
        self._shard = shard
        self._folder = stage.scratch_dir(shard)
        self._pending: dict[str, GeneratedText] = {}
        for name in stage.store.files(self._folder):
            if name.endswith(_SUFFIX):
                for line in self._read(name).splitlines():
                    body = json.loads(line)
                    values = {
                        name: body["written"][name] for name in GeneratedText.__slots__ if name in body["written"]
                    }
                    self.texts[body["key"]] = GeneratedText(**values)

    def _read(self, name: str) -> bytes:
        """Return the content of the file *name*. Raises CorruptError if it does not have the digest in its name."""
        path = f"{self._folder}/{name}"
        data = self._stage.store.read(path)
        if _digest(data) != name.removesuffix(_SUFFIX):
            raise CorruptError(f"{path} is corrupt; restore it, or delete it to generate its texts again")
        return data

    def missing(self, keys: Sequence[str]) -> list[int]:
        """Return the indices of the *keys* that have no text yet. Counts the others as resumed or rescreened."""
        indices = [index for index, key in enumerate(keys) if key not in self.texts]
        self.resumed += len(keys) - len(indices)
        answered = {keys[index]: self._answers[keys[index]] for index in indices if keys[index] in self._answers}
        self.rescreened += len(answered)
        self.texts |= answered
        return [index for index in indices if keys[index] not in answered]

    def add_batch(self, role: str, keys: Sequence[str], size: int, batch: Mapping[int, GeneratedText]) -> None:
        """Add the texts of a *batch*, by index in *keys*, and store them once *size* or more are pending.

        Raises VecapError if the task is canceled, after it stores all pending texts.
        """
        self._pending.update((keys[index], text) for index, text in batch.items() if text.problem is None)
        if len(self._pending) >= size:
            self.store_pending(role)
        if not self._stage.should_continue():
            self.store_pending(role)
            raise VecapError(f"{self._stage.name} {self._shard}: task canceled; progress saved")

    def add_all(self, role: str, keys: Sequence[str], texts: Sequence[GeneratedText]) -> None:
        """Add the texts of all *keys*, and log rejected requests."""
        self.texts |= zip(keys, texts, strict=True)
        self.rejected.log_rejections(role, texts)

    def store_pending(self, role: str) -> None:
        """Store the texts that are not stored yet."""
        if not self._pending:
            return
        lines = ({"key": key, "written": flat(text)} for key, text in sorted(self._pending.items()))
        data = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines).encode()
        self._stage.store.put(f"{self._folder}/{_digest(data)}{_SUFFIX}", data)
        log.debug("%s %s: stored %d texts of %s", self._stage.name, self._shard, len(self._pending), role)
        self._pending.clear()
