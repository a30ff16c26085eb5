"""How long a run is and how large its batches are, by the sources' sizes alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vecap_tasks.config import TrainConfig
from vecap_tasks.errors import VecapError
from vecap_tasks.train.epoch import quota
from vecap_tasks.train.source import Source


@dataclass(frozen=True, slots=True)
class Plan:
    """Figures of a run. By source: `usable` samples with a text for the arm, of which an epoch has `wanted`."""

    usable: tuple[int, ...]
    wanted: tuple[int, ...]
    samples: int  # of an epoch, those that have a text
    left_out: int  # of an epoch, those that have none
    batch_size: int
    per_epoch: int
    steps: int


def plan_run(run: str, sources: Sequence[Source], usable: Sequence[int], config: TrainConfig) -> Plan:
    """Return the plan of *run* over *sources* with so many *usable* samples.

    `epochs` counts all samples, with a text for the arm or not, so that every arm takes as many steps. Raises
    VecapError where a source, or all of them, have too few.
    """
    for source, count in zip(sources, usable, strict=True):
        if count == 0 and len(sources) > 1:
            raise VecapError(
                f"train {run}: none of the {source.samples} samples of {source.name} has a text for the arm "
                f"{source.arm}; give it an `arm` of its own in train.mixture, or say in `texts` where its text stands"
            )
    wanted = tuple(quota(count, source.weight) for source, count in zip(sources, usable, strict=True))
    everything = sum(quota(source.samples, source.weight) for source in sources)
    samples = sum(wanted)
    if samples < 2:
        raise VecapError(
            f"train {run}: {samples} of {everything} samples have a text for the arm {run.partition('-')[0]}; "
            "contrastive training needs at least 2"
        )
    size = min(config.batch_size, samples)
    steps = max(1, config.epochs * everything // size)
    return Plan(tuple(usable), wanted, samples, everything - samples, size, samples // size, steps)
