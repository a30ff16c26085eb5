"""Checkpoints of unfinished runs in the store: whole, the last few, deleted once the run is published."""

from __future__ import annotations

import logging
import pickle
from dataclasses import asdict, astuple, dataclass
from typing import Any, get_args

from vecap_tasks.config import Arm, TrainConfig
from vecap_tasks.core.store import Store
from vecap_tasks.errors import VecapError, format_error


def run_names(config: TrainConfig) -> list[str]:
    return [f"{arm}-{seed}" for arm in config.arms for seed in config.seeds]


def parse_run(name: str) -> tuple[Arm, int]:
    """Return arm and seed of a run's *name*. Raises VecapError for a name that is none."""
    arm, _, seed = name.partition("-")
    for known in get_args(Arm):
        if arm == known and seed.isdigit():
            return known, int(seed)
    raise VecapError(f"{name!r} names no run; it is an arm and a seed, such as mixed-0")


log = logging.getLogger(__name__)

_UNREADABLE = (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of a run's log: nothing in it depends on the machine's speed. `step` and `epoch` count from 1."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    logit_scale: float
    gradient_norm: float


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a run was around a step, by its first process. `time` is in seconds since the epoch; `waiting` the share
    of time without data; `memory` and `gpu_memory` are in bytes, the latter the most that was held; `cpu` is in percent
    of a core; `mfu` the share of what the device can compute at most."""

    step: int
    time: float
    samples_per_second: float
    waiting: float
    memory: int
    cpu: float
    gpu_memory: int | None
    mfu: float | None


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run trains on, as its data says. Samples are those of an epoch."""

    samples: int
    left_out: int
    batch_size: int
    steps: int


@dataclass(frozen=True, slots=True)
class State:
    """All that a run needs to go on as if nothing had happened: order, texts, crops and rate follow from the step.

    `objective` are the loss' own parameters. The state is the same on all ranks, so any number of them takes it up.
    """

    model: dict[str, Any]
    objective: dict[str, Any]
    optimizer: dict[str, Any]
    records: list[StepRecord]
    speeds: list[Speed]
    figures: Figures

    @property
    def complete(self) -> bool:
        return len(self.records) == self.figures.steps


class Checkpoints:
    """The checkpoints of one run: files in *folder* of the store, named by the steps that are done."""

    def __init__(self, store: Store, folder: str, kept: int) -> None:
        self._store = store
        self._folder = folder
        self._kept = kept

    def save(self, state: State) -> None:
        """Add a checkpoint, then remove those before the last *kept*; a kill at any moment leaves whole ones.

        Raises VecapError and OSError where it cannot be written.
        """
        import torch

        body = {
            "model": state.model,
            "objective": state.objective,
            "optimizer": state.optimizer,
            # numbers in a row: a long run has hundreds of thousands of steps
            "records": torch.tensor([astuple(record) for record in state.records], dtype=torch.float64),
            "speeds": [asdict(speed) for speed in state.speeds],
            "figures": asdict(state.figures),
        }
        with self._store.workspace() as work:
            try:
                torch.save(body, work / "checkpoint.pt")
            except RuntimeError as error:  # torch's own, for whatever fails in writing a file
                raise VecapError(
                    f"a checkpoint cannot be written to {work.parent}: {format_error(error)}; "
                    "see whether the disk is full, then run the same command again"
                ) from error
            self._store.upload(f"{self._folder}/{len(state.records):09d}.pt", work / "checkpoint.pt")
        for step in self.steps()[: -self._kept]:
            self._store.remove(f"{self._folder}/{step:09d}.pt")

    def steps(self) -> list[int]:
        """Return the steps after which there is a checkpoint, in order."""
        names = [name.removesuffix(".pt") for name in self._store.files(self._folder)]
        return [int(name) for name in names if name.isdigit()]

    def load(self) -> State | None:
        """Return the last state that can be read, or None where there is none."""
        for step in reversed(self.steps()):
            state = self.load_step(step)
            if state is not None:
                return state
        return None

    def load_step(self, step: int) -> State | None:
        """Return the state after *step* steps, or None where it cannot be read."""
        import torch

        name = f"{self._folder}/{step:09d}.pt"
        try:
            with self._store.local(name) as path:
                body = torch.load(path, map_location="cpu", weights_only=True)
            rows = body["records"].tolist()
            records = [StepRecord(int(step), int(epoch), *numbers) for step, epoch, *numbers in rows]
            speeds = [Speed(**speed) for speed in body["speeds"]]
            figures = Figures(**body["figures"])
            return State(body["model"], body["objective"], body["optimizer"], records, speeds, figures)
        except _UNREADABLE as error:
            log.warning("%s cannot be read (%s): the run goes on from before it", name, error)
            return None

    def remove(self) -> None:
        self._store.remove_folder(self._folder)
