"""From the answers of all models to the results: figures, intervals, arms over their seeds, and arms compared."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from itertools import combinations

from vecap_tasks.config import BootstrapConfig
from vecap_tasks.evaluate.answers import Answers
from vecap_tasks.evaluate.bootstrap import Rounds, arm_rounds, difference, interval, resample
from vecap_tasks.evaluate.metrics import figures_of, metrics_of
from vecap_tasks.evaluate.results import ArmFigures, Comparison, Results, RunFigures, SetSize


def summarise(
    runs: Mapping[tuple[str, int], Sequence[Answers]],
    sets: Sequence[SetSize],
    chance: dict[str, float],
    settings: BootstrapConfig,
) -> Results:
    """Return the results of the models *runs*, by arm and seed, in their order."""
    rounds = resample(list(runs.values()), settings)
    figures = [figures_of(answers) for answers in runs.values()]
    titles = {one.key: one.title for one in metrics_of((a.set, a.task) for a in next(iter(runs.values())))}
    models = [
        RunFigures(arm, seed, figures[place], _intervals(rounds, place, settings))
        for place, (arm, seed) in enumerate(runs)
    ]
    by_arm: dict[str, list[int]] = {}
    for place, (arm, _) in enumerate(runs):
        by_arm.setdefault(arm, []).append(place)
    of_arms = {key: arm_rounds(values, list(by_arm.values()), settings) for key, values in rounds.items()}
    arms = []
    for place, (arm, columns) in enumerate(by_arm.items()):
        values = {key: [figures[column][key] for column in columns] for key in titles}
        mean = {key: statistics.fmean(found) for key, found in values.items()}
        deviation = {key: statistics.stdev(found) if len(found) > 1 else None for key, found in values.items()}
        arms.append(ArmFigures(arm, len(columns), mean, deviation, _intervals(of_arms, place, settings)))
    return Results(
        sets=tuple(sets),
        titles=titles,
        arms=tuple(arms),
        runs=tuple(models),
        comparisons=_compare(arms, of_arms, settings),
        chance=chance,
        confidence=settings.confidence,
        rounds=settings.rounds,
    )


def _intervals(rounds: Mapping[str, Rounds], column: int, settings: BootstrapConfig) -> dict[str, list[float]]:
    found = {key: interval(values[:, column], settings.confidence) for key, values in rounds.items()}
    return {key: [ends.low, ends.high] for key, ends in found.items()}


def _compare(
    arms: Sequence[ArmFigures], rounds: Mapping[str, Rounds], settings: BootstrapConfig
) -> tuple[Comparison, ...]:
    made = []
    for (left, one), (right, other) in combinations(enumerate(arms), 2):
        for key, values in rounds.items():
            observed = one.mean[key] - other.mean[key]
            found = difference(observed, values[:, left] - values[:, right], settings.confidence)
            made.append(Comparison(one.arm, other.arm, key, found.difference, found.low, found.high, found.p))
    return tuple(made)
