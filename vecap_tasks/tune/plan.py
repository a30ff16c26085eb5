"""The trainings of `vecap tune`: one arm per caption and share of AltText, as overrides of the configuration.

The stages train and evaluate run with these overrides, like any other training. The number of epochs follows from the
budget and the measured speed; it is recorded, so that an interrupted call resumes the same trainings.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vecap_tasks.config import Config, Text, TuneConfig
from vecap_tasks.core.manifest import digest
from vecap_tasks.core.stage import load_stage
from vecap_tasks.core.store import Store
from vecap_tasks.core.version import Version, published
from vecap_tasks.errors import ConfigError, CorruptError, PermanentError
from vecap_tasks.train.stage import Train

if TYPE_CHECKING:
    from vecap_tasks.train.throughput import Progress

log = logging.getLogger(__name__)

FOLDER = "_tune"
_PROBE_SECONDS, _PROBE_STEPS = 20.0, 10  # of the training that measures the speed: at least so long, and so many


@dataclass(frozen=True, slots=True)
class Mix:
    """Texts to compare: *share* of AltText (0 to 1), the rest of *caption*. `arm` is the name of its trainings."""

    caption: Text
    share: float

    @property
    def arm(self) -> str:
        return f"{self.caption}_{round(1000 * self.share):04d}"

    @property
    def texts(self) -> dict[Text, float]:
        """The weights of its texts; a sample without one of them uses the other."""
        return {"alttext": self.share, self.caption: 1 - self.share}


def mixes(settings: TuneConfig) -> list[Mix]:
    """Return the mixes in order. AltText alone is one mix, whatever the captions."""
    found: dict[str, Mix] = {}
    for caption in settings.captions:
        for share in sorted(set(settings.alttext_shares)):
            mix = Mix(caption, share)
            found.setdefault("alttext" if share == 1 else mix.arm, mix)
    return list(found.values())


def overrides(settings: TuneConfig, epochs: int | None = None) -> list[str]:
    """Return the overrides of the configuration, as `KEY=VALUE`, with *epochs* if given."""
    compared = mixes(settings)
    values: dict[str, Any] = dict(_leaves(settings.train, "train"))
    values["train.texts"] = {mix.arm: mix.texts for mix in compared}
    values["train.arms"] = [mix.arm for mix in compared]
    values["train.seeds"] = settings.seeds
    if epochs is not None:
        values["train.epochs"] = epochs
    return [f"{name}={json.dumps(value)}" for name, value in values.items()]


def _leaves(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and name != "sub_captions":
            yield from _leaves(value, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", value


def planned_epochs(config: Config, settings: TuneConfig, version: Version) -> int:
    """Return the epochs of each training, from the record of an earlier call or from the measured speed.

    *config* has the `overrides` without epochs. Raises VecapError if the version is not published, or if the budget is
    too small for one epoch.
    """
    store = Store(config.resolve(config.root))
    assembled = published(store, version)
    if assembled is None:
        raise PermanentError(f"version {version.name} is not published; run `vecap run` first")
    if load_stage("assemble", config, version).fingerprint != version.fingerprint:
        raise ConfigError(f"the configuration does not match version {version.name}; use the one it was made with")
    stage = Train(config, version)
    key = digest({"stage": stage.fingerprint, "budget": settings.budget})[:12]
    name = f"{version.folder}/{FOLDER}/{key}.json"
    try:
        return int(json.loads(store.read(name))["epochs"])
    except FileNotFoundError:
        pass
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptError(f"{name} is corrupt: {error}; delete it") from error
    runs, most = len(stage.shards()), config.training.epochs
    speed = measure_speed(stage)
    samples = assembled.counters["samples"]
    hours = runs * samples / speed / 3600
    epochs = min(most, int(settings.budget / hours))
    log.info(
        "%d trainings at %.0f samples/s: %.3g hours per epoch of all, so %d epochs of each", runs, speed, hours, epochs
    )
    if epochs < 1:
        raise ConfigError(
            f"tune.budget: {settings.budget:g} hours are too few: one epoch of the {runs} trainings takes {hours:.2g} "
            "hours; raise it, compare fewer mixes, or set a smaller model in tune.train"
        )
    body = {"epochs": epochs, "samples_per_second": round(speed, 1), "measured": time.time()}
    store.create(name, json.dumps(body).encode())
    return int(json.loads(store.read(name))["epochs"])  # another call may have recorded it first


class _MeasuredError(Exception):
    """Ends the training that measures the speed."""


def measure_speed(stage: Train) -> float:
    """Return the samples per second of the first training of *stage*, which is stopped after a few steps."""
    from vecap_tasks.train.checkpoint import Checkpoints
    from vecap_tasks.train.distributed import ProcessGroup, training_device
    from vecap_tasks.train.trainer import train

    if not stage.config.training.launch.single_process:
        raise ConfigError("tune trains with one process; set tune.train to {launch: {processes: 1, nodes: 1}}")
    start = time.monotonic()
    measured: list[float] = []

    def stop(progress: Progress) -> None:
        measured.append(progress.speed.samples_per_second)
        if len(measured) >= min(_PROBE_STEPS, progress.steps) and time.monotonic() - start >= _PROBE_SECONDS:
            raise _MeasuredError

    folder = f"{stage.folder}/_checkpoints/_speed"
    checkpoints = Checkpoints(stage.store, folder, f"{stage.folder}/_features", 1)
    process_group = ProcessGroup(training_device(stage.config.training.device))
    try:
        train(stage.config, stage.version, stage.shards()[0], process_group, checkpoints, [stop])
    except _MeasuredError:
        pass
    finally:
        checkpoints.remove()
        stage.store.remove_folder(checkpoints.features)  # the trainings have another folder, with their epochs
    return measured[-1]
