"""Checkpoints of unfinished runs in the store. The last few are kept; publishing the run deletes them."""

from __future__ import annotations

import logging
import pickle
import re
from dataclasses import asdict, astuple, dataclass, field
from typing import Any

from vecap_tasks.config import TrainConfig
from vecap_tasks.core.manifest import FileEntry
from vecap_tasks.core.store import Store
from vecap_tasks.errors import VecapError, format_error
from vecap_tasks.outages import retry_when_full


def run_names(config: TrainConfig) -> list[str]:
    return [f"{arm}-{seed}" for arm in config.arms for seed in config.seeds]


_RUN = re.compile(r"([a-z][a-z0-9_]*)-([0-9]+)")


def parse_run(name: str) -> tuple[str, int]:
    """Return the arm and seed of the run *name*. Raises VecapError for an invalid name."""
    if match := _RUN.fullmatch(name):
        return match[1], int(match[2])
    raise VecapError(f"{name!r} is not a valid run name; use ARM-SEED, e.g. mixed-0")


log = logging.getLogger(__name__)

_DIGITS = 16
_FILE = re.compile(r"([0-9]+)(?:-([0-9a-f]{16}))?\.pt")
_READ_ERRORS = (OSError, RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError)


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One line of a run's log; independent of the machine's speed. `step` and `epoch` count from 1."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    logit_scale: float
    gradient_norm: float


@dataclass(frozen=True, slots=True)
class Speed:
    """The speed of a run around a step, measured by rank 0.

    `time` is when the step ended (Unix time in seconds), `waiting` the fraction of time spent waiting for data,
    `memory` and `gpu_memory` (peak) are in bytes, `cpu` is in percent of one core, and `mfu` is the model FLOPs
    utilization (0 to 1).
    """

    step: int
    time: float
    samples_per_second: float
    waiting: float
    memory: int
    cpu: float
    gpu_memory: int | None
    mfu: float | None


@dataclass(frozen=True, slots=True)
class DataStats:
    """The size of a run. `samples` (with a text) and `left_out` (without one) are per epoch."""

    samples: int
    left_out: int
    batch_size: int
    steps: int


@dataclass(frozen=True, slots=True)
class TrainingState:
    """The state from which a run resumes exactly; sample order, texts, crops and learning rate follow from the step.

    `objective` has the loss's own parameters, `average` the moving average of the trained weights, if there is one. All
    ranks share one state, so any number of ranks can resume it.
    """

    model: dict[str, Any]
    objective: dict[str, Any]
    optimizer: dict[str, Any]
    records: list[StepRecord]
    speeds: list[Speed]
    data: DataStats
    average: dict[str, Any] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return len(self.records) == self.data.steps


class Checkpoints:
    """The checkpoints of one run: files in *folder* of the store, named by the number of completed steps.

    `features` is the folder of the features that all runs of the stage share.
    """

    def __init__(self, store: Store, folder: str, features: str, kept: int) -> None:
        self.store = store
        self.features = features
        self._folder = folder
        self._kept = kept

    def save(self, state: TrainingState) -> None:
        """Write a checkpoint, then delete all but the last *kept*. Checkpoints stay readable if the process is killed.

        Waits while the disk is full. Raises VecapError and OSError if writing fails.
        """
        import torch

        body = {
            "model": state.model,
            "objective": state.objective,
            "optimizer": state.optimizer,
            # a compact tensor, because a long run has hundreds of thousands of steps
            "records": torch.tensor([astuple(record) for record in state.records], dtype=torch.float64),
            "speeds": [asdict(speed) for speed in state.speeds],
            "figures": asdict(state.data),
            "average": state.average,
        }

        def write() -> str:
            with self.store.workspace() as work:
                try:
                    with (work / "checkpoint.pt").open("wb") as stream:  # so that a full disk is an OSError
                        torch.save(body, stream)
                except RuntimeError as error:  # torch raises it for any write failure
                    raise VecapError(
                        f"cannot write a checkpoint to {work.parent}: {format_error(error)}; "
                        "check the disk, then run the same command again"
                    ) from error
                sha256 = FileEntry.from_file(work, "checkpoint.pt", None).sha256
                name = f"{len(state.records):09d}-{sha256[:_DIGITS]}.pt"
                self.store.upload(f"{self._folder}/{name}", work / "checkpoint.pt")
                return name

        unreadable = self._files().get(len(state.records), [])  # otherwise the run had resumed from it
        written = retry_when_full(write, self.store.scratch)
        files = self._files()
        earlier = [name for step in sorted(files)[: -self._kept] for name in files[step]]
        for name in {*earlier, *unreadable} - {written}:
            self.store.remove(f"{self._folder}/{name}")

    def _files(self) -> dict[int, list[str]]:
        """Return the file names by step: the step, and digits of the content's sha256 that earlier releases omitted."""
        files: dict[int, list[str]] = {}
        for match in filter(None, map(_FILE.fullmatch, self.store.files(self._folder))):
            files.setdefault(int(match[1]), []).append(match[0])
        return files

    def steps(self) -> list[int]:
        """Return the steps that have a checkpoint, in order."""
        return sorted(self._files())

    def load(self) -> TrainingState | None:
        """Return the latest readable state, or None."""
        for step in reversed(self.steps()):
            state = self.load_step(step)
            if state is not None:
                return state
        return None

    def load_step(self, step: int) -> TrainingState | None:
        """Return the state after *step* steps, or None if it cannot be read."""
        states = (self._load_file(file) for file in self._files().get(step, ()))
        return next((state for state in states if state is not None), None)

    def _load_file(self, file: str) -> TrainingState | None:
        import torch

        name, match = f"{self._folder}/{file}", _FILE.fullmatch(file)
        try:
            with self.store.local(name) as path:
                sha256 = FileEntry.from_file(path.parent, path.name, None).sha256
                if match and match[2] and not sha256.startswith(match[2]):
                    raise ValueError("its sha256 differs from the one in its name")
                body = torch.load(path, map_location="cpu", weights_only=True)
            rows = body["records"].tolist()
            records = [StepRecord(int(step), int(epoch), *numbers) for step, epoch, *numbers in rows]
            speeds = [Speed(**speed) for speed in body["speeds"]]
            data = DataStats(**body["figures"])
            parts = (body["model"], body["objective"], body["optimizer"])
            return TrainingState(*parts, records, speeds, data, body.get("average", {}))
        except _READ_ERRORS as error:
            log.warning("cannot read checkpoint %s (%s); resuming from an earlier one", name, error)
            return None

    def remove(self) -> None:
        self.store.remove_folder(self._folder)
