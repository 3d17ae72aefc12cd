"""One figure of one job over the nights of one class of machine, and the steps it has taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64

from rdm_batch.regression.records import Figure, Run
from rdm_batch.regression.statistics.steps import Level, Step, StepRule, find_steps, levels

SPEED_RULE = StepRule()
"""For what depends on the machine. The threshold was set by benchmarks/experiments/nights.py."""


@dataclass(frozen=True)
class Series:
    """Hold a figure as it was measured night after night.

    Args:
        runs: In the order they were stored.
        figures: Of each run, the figure; all of one description.
        machine_class: Of all runs.
        rule: What counts as a step.
    """

    runs: tuple[Run, ...]
    figures: tuple[Figure, ...]
    machine_class: str
    rule: StepRule = SPEED_RULE

    @property
    def figure(self) -> Figure:
        """Return the latest."""
        return self.figures[-1]

    @property
    def values(self) -> Float64[np.ndarray, " nights"]:
        """Return what was measured."""
        return np.array([figure.value for figure in self.figures])

    @property
    def ratios(self) -> Float64[np.ndarray, " nights"] | None:
        """Return the values over the floors of their runs; None where a night has none."""
        floors = [figure.floor for figure in self.figures]
        if any(not floor for floor in floors):
            return None
        return self.values / np.array(floors, dtype=np.float64)

    @property
    def has_steps(self) -> bool:
        """Say whether steps can be looked for: they are relative, so all values are above 0."""
        return bool((self.values > 0).all())

    @cached_property
    def steps(self) -> list[Step]:
        """Find the steps; none where they cannot be looked for."""
        return find_steps(self.values, self.rule) if self.has_steps else []

    @property
    def levels(self) -> list[Level]:
        """Give the stretches between them."""
        return levels(self.values, self.steps)

    def level_at(self, night: int) -> float:
        """Give the level that a night belongs to."""
        return next(level.value for level in self.levels if level.first <= night <= level.last)

    def between(self, night: int) -> str:
        """Name the commits that a night is the first to have: after which, up to which."""
        now = _commit(self.runs[night])
        before = _commit(self.runs[night - 1])
        return f"within {now}" if now == before else f"between {before} and {now}"


def series_of(
    runs: Iterable[Run], machine_class: str, rule: StepRule = SPEED_RULE
) -> dict[tuple[str, str], Series]:
    """Collect the series of one class of machine, by job and name.

    Of a figure whose description has changed, only nights that measured what the last one did are
    taken: others are not compared.

    Args:
        runs: In order.
        machine_class: Runs of others are left out.
        rule: What counts as a step.
    """
    found: dict[tuple[str, str], list[tuple[Run, Figure]]] = {}
    for run in runs:
        if run.machine_class != machine_class:
            continue
        for figure in run.figures:
            found.setdefault((figure.job, figure.name), []).append((run, figure))
    return {key: _of_one(pairs, machine_class, rule) for key, pairs in found.items()}


def _of_one(pairs: Sequence[tuple[Run, Figure]], machine_class: str, rule: StepRule) -> Series:
    last = pairs[-1][1]
    same = [pair for pair in pairs if pair[1].description == last.description]
    return Series(
        tuple(run for run, _ in same), tuple(figure for _, figure in same), machine_class, rule
    )


def _commit(run: Run) -> str:
    if run.commit is None:
        return f"an unknown commit ({run.id})"
    return run.commit[:12] + (" with local changes" if run.dirty else "")
