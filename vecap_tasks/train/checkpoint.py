"""The state of an unfinished run in the store: replaced whole every so many steps, gone once the run is published."""

from __future__ import annotations

import logging
import pickle
from dataclasses import asdict, dataclass
from typing import Any

import torch

from vecap_tasks.dataset.store import Store

log = logging.getLogger(__name__)


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
class State:
    """All that a run needs to go on as if nothing had happened: order, texts and rate follow from the step."""

    model: dict[str, Any]
    optimizer: dict[str, Any]
    records: list[StepRecord]


class Checkpoint:
    """The checkpoint of one run, the file *name* of the store."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name

    def save(self, state: State) -> None:
        """Replace the checkpoint; a kill at any moment leaves the one before or this one."""
        body = {
            "model": state.model,
            "optimizer": state.optimizer,
            "records": [asdict(record) for record in state.records],
        }
        with self._store.workspace() as work:
            torch.save(body, work / "checkpoint.pt")
            self._store.upload(self._name, work / "checkpoint.pt")

    def load(self) -> State | None:
        """Return the last state, or None where there is none that can be read."""
        if not self._store.exists(self._name):
            return None
        with self._store.local(self._name) as path:
            try:
                body = torch.load(path, map_location="cpu", weights_only=True)
                records = [StepRecord(**record) for record in body["records"]]
                return State(body["model"], body["optimizer"], records)
            except (OSError, RuntimeError, EOFError, KeyError, TypeError, pickle.UnpicklingError) as error:
                log.warning("%s cannot be read (%s): the run starts from its beginning", self._name, error)
                return None

    def remove(self) -> None:
        self._store.remove(self._name)
