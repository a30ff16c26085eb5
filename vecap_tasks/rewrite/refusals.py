"""Requests that a server refused: logged with an example, counted over a version, and an error where nearly all are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from vecap_tasks.errors import VecapError
from vecap_tasks.rewrite.attempts import Caption
from vecap_tasks.rewrite.draw import Written
from vecap_tasks.rewrite.server_errors import ROW_FAULTS

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
