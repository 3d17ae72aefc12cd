"""What measured repeats say of noise: within one time of the day, and between several.

The record holds parts that ``benchmarks.experiments.repeats`` has measured, one for each time of
the day it ran. What differs between their middles by more than the middles themselves are known to
is what all repeats of a night have in common (the variance component of a one-way layout, by
moments: Searle, Casella and McCulloch 1992, Sec. 3.3; a middle is known to 1.25 standard deviations
over the root of its repeats).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float64

from benchmarks.records import Part, Row, read_record
from rdm_batch.errors import RdmBatchError
from rdm_batch.regression.records import Better, Kind
from rdm_batch.regression.statistics.middle import middle_half

Kept = Literal["middle half", "median", "best"]
KEPT: tuple[Kept, ...] = ("middle half", "median", "best")
BLUR = 0.3
"""Of the spread of the measured deviations: Silverman's for twenty normal values is 0.5."""
_MIDDLE = 1.2533
"""Standard error of a median over that of a mean, of a normal distribution."""


@dataclass(frozen=True)
class Measured:
    """Say what a figure is in the gate: which of a repeat, its kind, and what is tolerated."""

    name: str
    kind: Kind
    better: Better
    tolerance: float


FIGURES = {
    "images/s": Measured("images/s", "speed", "higher", 0.03),
    "pipeline images/s": Measured("pipeline images/s", "speed", "higher", 0.03),
    "CPU time": Measured("CPU time", "latency", "lower", 0.03),
    "start-up": Measured("start-up", "latency", "lower", 0.1),
    "search p99": Measured("search p99", "latency", "lower", 0.1),
    "p99 of searches alone": Measured("p99 of searches alone", "latency", "lower", 0.1),
    "peak memory": Measured("peak memory", "memory", "lower", 0.05),
}


@dataclass(frozen=True)
class Noise:
    """Hold what repeats of one figure do, as logarithms of ratios.

    Args:
        deviations: Of every repeat from the middle of its part.
        between: Standard deviation of what all repeats of a night have in common.
        better: Which of two repeats is better.
        kept: What a night is of its repeats: the mean of the middle half, the median, the best.
    """

    deviations: Float64[np.ndarray, " repeats"]
    between: float
    better: Better
    kept: Kept = "middle half"

    @property
    def spread(self) -> float:
        """Return the standard deviation of one repeat within its part."""
        return float(self.deviations.std(ddof=1))

    def runs(self, count: int, random: np.random.Generator) -> Float64[np.ndarray, " count"]:
        """Draw the values of single repeats around 1, without what a night has in common."""
        values: Float64[np.ndarray, " count"] = np.exp(self._drawn(count, 1, random)[:, 0])
        return values

    def _drawn(
        self, count: int, repeats: int, random: np.random.Generator
    ) -> Float64[np.ndarray, "count repeats"]:
        drawn = random.choice(self.deviations, (count, repeats))
        return drawn + BLUR * self.spread * random.standard_normal((count, repeats))

    def nights(
        self, count: int, repeats: int, random: np.random.Generator
    ) -> Float64[np.ndarray, " count"]:
        """Draw the values of nights around 1, each of its repeats."""
        drawn = self._drawn(count, repeats, random)
        common = self.between * random.standard_normal(count)
        if self.kept == "middle half":
            kept = middle_half(drawn)
        elif self.kept == "median":
            kept = np.median(drawn, axis=1)
        else:
            kept = drawn.max(axis=1) if self.better == "higher" else drawn.min(axis=1)
        values: Float64[np.ndarray, " count"] = np.exp(kept + common)
        return values


@dataclass(frozen=True)
class Assumed:
    """Draw nights with noise of a given size, in place of ``Noise``."""

    spread: float
    heavy: bool

    def nights(
        self, count: int, repeats: int, random: np.random.Generator
    ) -> Float64[np.ndarray, " count"]:
        """Draw the values of nights around 1; repeats play no part."""
        drawn = random.standard_normal(count)
        if self.heavy:
            drawn = random.standard_t(3, count) / np.sqrt(3)
        values: Float64[np.ndarray, " count"] = np.exp(self.spread * drawn)
        return values


def measured_noise(path: Path) -> dict[str, Noise]:
    """Read what ``repeats`` has measured.

    Raises:
        RdmBatchError: There is nothing of it in the record.
    """
    found = {}
    for name, figure in FIGURES.items():
        values = [logs for _, logs in values_of(path, name)]
        middles = np.array([np.median(part) for part in values])
        deviations = np.concatenate([part - m for part, m in zip(values, middles, strict=True)])
        found[name] = Noise(deviations, _between(values, middles), figure.better)
    return found


def values_of(path: Path, name: str) -> list[tuple[Part, Float64[np.ndarray, " repeats"]]]:
    """Give the logarithms of a figure in every part that has measured it.

    Raises:
        RdmBatchError: No part has.
    """
    record = read_record(path)
    found = [
        (part, np.log([float(row.details[name] or 0) for row in part.rows]))
        for part in ([] if record is None else record.parts)
        if part.name.startswith("repeats") and all(name in row.details for row in part.rows)
    ]
    if not found:
        action = "run benchmarks.experiments.repeats first"
        raise RdmBatchError(str(path), f"holds no repeats of {name}", "some to draw from", action)
    return found


def _between(
    values: list[Float64[np.ndarray, " repeats"]], middles: Float64[np.ndarray, " parts"]
) -> float:
    if len(middles) < 2:
        return 0.0
    known_to = [_MIDDLE**2 * part.var(ddof=1) / len(part) for part in values]
    return float(np.sqrt(max(0.0, middles.var(ddof=1) - np.mean(known_to))))


def part_rows(path: Path) -> list[Row]:
    """Say how the times of the day differ: the middle of each figure, beside how well it is known.

    Middles are given as parts of the first one.
    """
    rows = []
    for name in FIGURES:
        parts = values_of(path, name)
        first = np.median(parts[0][1])
        rows.append(
            Row(
                name=name,
                details={
                    f"{part.name}, {part.measured:%H:%M}: {what}": value
                    for part, logs in parts
                    for what, value in (
                        ("middle", float(np.exp(np.median(logs) - first))),
                        ("known to, %", 100 * _MIDDLE * float(logs.std(ddof=1)) / len(logs) ** 0.5),
                        ("one repeat, %", 100 * float(logs.std(ddof=1))),
                    )
                },
            )
        )
    return rows


def load_of(path: Path) -> str:
    """Say what else the machine did while the repeats were measured."""
    record = read_record(path)
    parts = [] if record is None else record.parts
    loads = [
        float(row.details.get("load average") or 0)
        for part in parts
        if part.name.startswith("repeats")
        for row in part.rows
    ]
    return (
        f"The repeats ran on one thread at a load of {min(loads):.1f} to {max(loads):.1f}: what is "
        "above 1 is other work beside them, which is then most of their noise."
    )


def noise_rows(noise: dict[str, Noise], repeats: int) -> list[Row]:
    """Say how much each figure moves, from one repeat to the next and from night to night."""
    random = np.random.default_rng(0)
    return [
        Row(
            name=name,
            details={
                "one repeat, %": 100 * one.spread,
                "largest, %": 100 * float(np.abs(one.deviations).max()),
                "between times of the day, %": 100 * one.between,
                "repeats": len(one.deviations),
            }
            | {
                f"{word} of {repeats}, %": 100 * float(kept.nights(4_000, repeats, random).std())
                for word in KEPT
                for kept in (replace(one, kept=word),)
            },
        )
        for name, one in noise.items()
    ]
