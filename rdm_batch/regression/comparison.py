"""Several finished things side by side: every figure of each against the first's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from rdm_batch.errors import SpecError
from rdm_batch.metrics.pairing import error_of_difference
from rdm_batch.regression.figures import INDEX_RECALL
from rdm_batch.regression.records import WORST_FIRST, Figure, Outcome
from rdm_batch.regression.sides import Side
from rdm_batch.regression.suite import suggestion
from rdm_batch.reports.table import leaves, short_value

SIGMAS = 2.0
"""Differences below so many of their standard errors are none."""
ONE_SIDED = 1.645
"""Quantile of the normal distribution for an error of 5 % to one side."""
DEFAULT_TOLERANCE = 0.05

Word = Literal[
    "better", "worse", "same", "differs", "undecided", "not comparable", "vanished", "new", "-"
]
OUTCOMES: dict[Word, Outcome] = {
    "better": "pass",
    "same": "pass",
    "new": "pass",
    "worse": "fail",
    "differs": "fail",
    "undecided": "undecided",
    "not comparable": "not_comparable",
    "vanished": "not_comparable",
    "-": "not_comparable",
}
"""What a word amounts to for a figure that decides. One that is gone, or that is something else
now, is no pass. ``differs`` is said of figures of which neither direction is better."""


@dataclass(frozen=True)
class Threshold:
    """By how much a figure may become worse.

    Args:
        value: How much.
        relative: Whether that is a part of the first side's value.
    """

    value: float
    relative: bool = False

    def of(self, value: float) -> float:
        """Return the threshold in the unit of the figure."""
        return self.value * abs(value) if self.relative else self.value


@dataclass(frozen=True)
class Cell:
    """What one side's figure is beside the first's.

    Args:
        figure: The figure; None where the side has none.
        word: The verdict.
        difference: Its value less the first's. None where that says nothing.
        error: Standard error of the difference. None where none is known.
        paired: Whether the error is that of pairs.
        unlike: What keeps the two from being compared, as ``name: first -> second``.
    """

    figure: Figure | None
    word: Word
    difference: float | None = None
    error: float | None = None
    paired: bool = False
    unlike: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One figure of all sides.

    Args:
        key: What it is called in options and files.
        label: What people call it.
        first: Of the first side; None where that has none.
        others: Of the others, in order.
        decides: Whether it takes part in the outcome.
    """

    key: str
    label: str
    first: Figure | None
    others: tuple[Cell, ...]
    decides: bool


@dataclass(frozen=True)
class Comparison:
    """All figures of several sides.

    Args:
        names: Of the sides.
        rows: Of the figures.
        job_differences: Of every side but the first, in what its job differs from the first's.
        origin_differences: The same of machines and software.
    """

    names: tuple[str, ...]
    rows: tuple[Row, ...]
    job_differences: tuple[tuple[str, ...], ...]
    origin_differences: tuple[tuple[str, ...], ...]

    @property
    def outcome(self) -> Outcome:
        """Return the worst of what decides; where nothing does, nothing was compared."""
        words = [cell.word for row in self.rows if row.decides for cell in row.others]
        found = {OUTCOMES[word] for word in words}
        return next((outcome for outcome in WORST_FIRST if outcome in found), "not_comparable")


def parse_thresholds(texts: Sequence[str]) -> dict[str, Threshold]:
    """Read thresholds as a command line gives them: ``fid=0.2``, ``images_per_s=5%``.

    Raises:
        SpecError: One of them is not understood.
    """
    found = {}
    for text in texts:
        name, separator, number = text.partition("=")
        relative = number.endswith("%")
        try:
            value = float(number.removesuffix("%"))
        except ValueError:
            value = -1.0
        if not separator or not name or not 0 <= value < float("inf"):
            raise SpecError(
                "--threshold", f"{text!r} is not understood", "such as fid=0.2 or fid=2%"
            )
        found[name] = Threshold(value / 100 if relative else value, relative)
    return found


def compare_sides(
    sides: Sequence[Side],
    chosen: Sequence[str] = (),
    thresholds: Mapping[str, Threshold] | None = None,
    tolerance: float = DEFAULT_TOLERANCE,
) -> Comparison:
    """Compare every side with the first.

    A figure with a threshold is worse where it is surely so by more than that (one-sided, 5 %), and
    undecided where its error does not tell. One without is the same within two standard errors of
    the difference, or within ``tolerance`` where no error is known. The error is that of pairs
    where samples are shared and their influences kept, else errors are added in quadrature.

    Args:
        sides: Two or more.
        chosen: Figures that decide. None of them: the scores of the first side, and what has a
            threshold.
        thresholds: By figure.
        tolerance: Relative difference that is taken for noise where no error is known.

    Raises:
        SpecError: A figure that was chosen, or has a threshold, is on no side.
    """
    limits = thresholds or {}
    first, others = sides[0], sides[1:]
    keys = list(dict.fromkeys(key for side in sides for key in side.figures))
    for option, names in (("--figures", chosen), ("--threshold", tuple(limits))):
        for name in names:
            if name not in keys:
                near = suggestion(name, keys)
                raise SpecError(option, f"no side has a figure {name!r}", ", ".join(keys), near)
    deciding = set(chosen) or {
        *limits,
        *(key for key, figure in first.figures.items() if _guarded(figure)),
    }
    rows = []
    for key in keys:
        cells = tuple(_cell(first, side, key, limits.get(key), tolerance) for side in others)
        label = next(side.labels[key] for side in sides if key in side.labels)
        rows.append(Row(key, label, first.figures.get(key), cells, key in deciding))
    return Comparison(
        names=tuple(side.name for side in sides),
        rows=tuple(rows),
        job_differences=tuple(tuple(tree_differences(first.job, side.job)) for side in others),
        origin_differences=tuple(
            tuple(tree_differences(first.origin, side.origin)) for side in others
        ),
    )


def tree_differences(
    first: Mapping[str, JsonValue], second: Mapping[str, JsonValue]
) -> Iterator[str]:
    """List the leaves of two trees that differ, as ``name: first -> second``."""
    old, new = dict(leaves(first)), dict(leaves(second))
    for name in [*old, *(name for name in new if name not in old)]:
        if name not in old or name not in new or old[name] != new[name]:
            sides = (short_value(tree.get(name, "not set")) for tree in (old, new))
            yield f"{name}: {' -> '.join(sides)}"


def _guarded(figure: Figure) -> bool:
    scored = figure.kind == "quality" and figure.name != INDEX_RECALL
    return scored and figure.better != "neither"


def _cell(
    first: Side, other: Side, key: str, threshold: Threshold | None, tolerance: float
) -> Cell:
    before, now = first.figures.get(key), other.figures.get(key)
    if before is None or now is None:
        word: Word = "-" if now is before else "new" if before is None else "vanished"
        return Cell(now, word)
    difference = now.value - before.value
    unlike = tuple(_unlike(first, other, key, before, now))
    if unlike:
        return Cell(now, "not comparable", difference, unlike=unlike)
    one, two = first.influences.get(before.name), other.influences.get(now.name)
    found = error_of_difference(
        (before.error, now.error), one, two, first.seed is not None and first.seed == other.seed
    )
    word = _judge(before, difference, found.error, threshold, tolerance)
    return Cell(now, word, difference, found.error, found.paired)


def _unlike(first: Side, other: Side, key: str, before: Figure, now: Figure) -> Iterator[str]:
    if before.description != now.description:
        told = list(tree_differences(first.conditions.get(key, {}), other.conditions.get(key, {})))
        yield from told or ["what was measured is not the same"]
    elif before.kind != "quality" and first.machine != other.machine:
        yield f"measured on: {first.machine} -> {other.machine}"


def _judge(
    before: Figure,
    difference: float,
    error: float | None,
    threshold: Threshold | None,
    tolerance: float,
) -> Word:
    loss = -difference if before.better == "higher" else difference
    if before.better == "neither":
        loss = abs(difference)
    if threshold is not None:
        limit, reach = threshold.of(before.value), ONE_SIDED * (error or 0.0)
        if loss + reach <= limit:
            sure = before.better != "neither" and loss < 0 and -loss > SIGMAS * (error or 0.0)
            return "better" if sure else "same"
        if loss - reach > limit:
            return "differs" if before.better == "neither" else "worse"
        return "undecided"
    noise = tolerance * abs(before.value) if error is None else SIGMAS * error
    if abs(difference) <= noise:
        return "same"
    if before.better == "neither":
        return "differs"
    return "worse" if loss > 0 else "better"
