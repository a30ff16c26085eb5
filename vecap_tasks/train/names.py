"""The names of runs: an arm and a seed, such as `mixed-0`."""

from __future__ import annotations

from typing import get_args

from vecap_tasks.config import Arm, TrainConfig
from vecap_tasks.errors import VecapError


def run_names(config: TrainConfig) -> list[str]:
    return [f"{arm}-{seed}" for arm in config.arms for seed in config.seeds]


def parse_run(name: str) -> tuple[Arm, int]:
    """Return arm and seed of a run's *name*. Raises VecapError for a name that is none."""
    arm, _, seed = name.partition("-")
    for known in get_args(Arm):
        if arm == known and seed.isdigit():
            return known, int(seed)
    raise VecapError(f"{name!r} names no run; it is an arm and a seed, such as mixed-0")
