"""What a sweep knows about itself: the content of ``sweep.json``, and of ``sweep.csv``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
)

from rdm_batch.errors import SampleSetError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.reports.run_report import Provenance
from rdm_batch.specs.messages import first_problem
from rdm_batch.specs.scores import Score

SWEEP_KEY = "sweep.json"


class _Part(BaseModel):
    """Freeze the parts of a report and refuse fields and numbers a reader cannot use."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Difference(_Part):
    """Say how much a score of a cell exceeds the base's, at the same samples.

    ``error`` is one standard error: of the paired difference where both scores know what every
    image does to them (``paired``), else the root of the sum of the squared errors. None where a
    score has no error. ``gain`` is the factor by which pairing divides the variance.
    """

    value: float
    error: NonNegativeFloat | None = None
    paired: bool = False
    gain: NonNegativeFloat | None = None


class Ended(_Part):
    """Say why a cell was ended before it was finished; ``score`` is the one looked for."""

    samples: PositiveInt
    best: str
    worse_by: NonNegativeFloat
    error: NonNegativeFloat


class CellReport(_Part):
    """Describe one cell.

    ``values`` holds its value of every axis, None where it has no such field. ``scores`` are of
    ``judged`` samples, ``differences`` are to the base at as many.
    """

    name: str
    uri: str
    digest: str
    values: dict[str, JsonValue]
    samples: NonNegativeInt
    planned: PositiveInt
    judged: NonNegativeInt = 0
    scores: tuple[Score, ...] = ()
    differences: dict[str, Difference] = Field(default_factory=dict)
    ended: Ended | None = None

    def score(self, wanted: str | None) -> Score | None:
        """Give a score; None where the cell has none such."""
        return next((score for score in self.scores if score.id == wanted), None)


class AxisInterval(_Part):
    """Say between which values of an axis the optimum may lie; both were tried."""

    axis: str
    low: float
    high: float


class Optimum(_Part):
    """Name the cell with the best score, and those it cannot be told from.

    ``within`` are the cells whose paired difference to it is less than two standard errors, it
    itself included. ``intervals`` are the values of these on the axes that are numbers, other
    fields being as in the best cell.
    """

    score: str
    cell: str
    value: float
    error: NonNegativeFloat | None
    within: tuple[str, ...]
    intervals: tuple[AxisInterval, ...] = ()


class SweepReport(_Part):
    """Hold everything a sweep knows about itself; what is not finished yet says so."""

    format: Literal["rdm_batch.sweep/1"] = "rdm_batch.sweep/1"
    name: str
    uri: str
    form: Literal["grid", "lines", "list"]
    axes: tuple[str, ...]
    base: str
    finished: bool
    cells: tuple[CellReport, ...]
    optimum: Optimum | None = None
    provenance: Provenance

    def in_order(self) -> tuple[CellReport, ...]:
        """Give the cells as they are listed: along the axis where there is one of numbers."""
        if len(self.axes) == 1:
            values = [cell.values[self.axes[0]] for cell in self.cells]
            if all(isinstance(value, int | float) for value in values):
                return tuple(sorted(self.cells, key=lambda cell: cell.values[self.axes[0]]))  # type: ignore[arg-type,return-value]
        return self.cells

    def to_json(self) -> bytes:
        """Serialize to the bytes of ``sweep.json``, indented, ending in a newline."""
        return self.model_dump_json(indent=2).encode() + b"\n"

    def to_csv(self) -> bytes:
        """Give a row per cell: values of the axes, scores, their errors, differences."""
        scores = list(dict.fromkeys(score.id for cell in self.cells for score in cell.scores))
        columns = ["cell", *self.axes, "samples", "judged"]
        for score in scores:
            columns += [score, f"{score}_error", f"{score}_difference", f"{score}_difference_error"]
        sink = io.StringIO()
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow([*columns, "ended"])
        for cell in self.cells:
            row: list[object] = [cell.name, *(_plain(cell.values.get(axis)) for axis in self.axes)]
            row += [cell.samples, cell.judged, *_figures(cell, scores)]
            writer.writerow([*row, "" if cell.ended is None else cell.ended.samples])
        return sink.getvalue().encode()


def short_axis(axis: str, axes: Sequence[str]) -> str:
    """Give the last part of an axis' name, or all of it where another one ends alike."""
    last = axis.rpartition(".")[2]
    return last if sum(other.rpartition(".")[2] == last for other in axes) == 1 else axis


def show_value(value: JsonValue) -> str:
    """Write a value as people read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def load_sweep_report(data: bytes, where: str) -> SweepReport:
    """Read what ``SweepReport.to_json`` wrote.

    Args:
        data: The bytes.
        where: Where they are from.

    Raises:
        SampleSetError: They are no such report.
    """
    try:
        parse_json(data)  # whose depth is bounded
        return SweepReport.model_validate_json(data)
    except ValueError as error:
        found = first_problem(error) if isinstance(error, ValidationError) else str(error)
        raise SampleSetError(
            where, found, "the report of a sweep", "run the sweep again to write a new one"
        ) from error


def _figures(cell: CellReport, scores: Sequence[str]) -> list[object]:
    figures: list[object] = []
    for wanted in scores:
        score, difference = cell.score(wanted), cell.differences.get(wanted)
        figures += ["", ""] if score is None else [score.value, _plain(score.uncertainty)]
        figures += ["", ""] if difference is None else [difference.value, _plain(difference.error)]
    return figures


def _plain(value: JsonValue) -> object:
    if value is None:
        return ""
    return value if isinstance(value, str | int | float) else json.dumps(value)
