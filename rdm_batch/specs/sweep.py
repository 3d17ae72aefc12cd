"""The ``sweep`` part of a job file: which fields vary, over which values, and what is asked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, model_validator

from rdm_batch.specs.base import Spec

MAX_CELLS = 1000
"""Cells of a sweep; each is a sample set of its own."""
CELL_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"

_Values = Annotated[tuple[Any, ...], Field(min_length=1, strict=False)]
Axes = Annotated[dict[str, _Values], Field(min_length=1)]
_Point = Annotated[dict[str, Any], Field(min_length=1)]


class StopSpec(Spec):
    """Ends cells that cannot be the optimum any more."""

    confidence: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        default=0.99,
        description="That no cell is ended by mistake in the whole sweep: the remainder is shared "
        "between all pairs of cells and all looks (Bonferroni).",
    )
    after: Annotated[int, Field(ge=2)] = Field(
        default=256, description="Samples a cell has before it may be ended."
    )


class SweepSpec(Spec):
    """Which sample sets are made beside each other, and which of them is looked for."""

    model_config = ConfigDict(populate_by_name=True)

    grid: Axes | None = Field(
        default=None,
        description="Fields by their dotted names, each with a list of values: a cell for every "
        "combination.",
    )
    lines: Axes | None = Field(
        default=None,
        description="The same, but one field at a time: lines through the job as it is written, "
        "which is a cell itself.",
    )
    points: tuple[_Point, ...] | None = Field(
        default=None,
        alias="list",
        min_length=1,
        strict=False,
        description="Cells one by one: each a mapping from dotted names to values, which may "
        "carry a `name` of its own.",
    )
    score: str | None = Field(
        default=None,
        description="The score whose optimum is looked for. None: the first of "
        "`evaluation.scores`.",
    )
    pictures: Annotated[int, Field(ge=0, le=64)] = Field(
        default=8, description="Samples shown side by side for every cell, from the first on."
    )
    stop_when: StopSpec | None = Field(
        default=None,
        description="End cells early whose paired interval says that they are not the optimum. "
        "None: every cell is finished.",
    )

    @model_validator(mode="after")
    def _one_form(self) -> SweepSpec:
        forms = {"grid": self.grid, "lines": self.lines, "list": self.points}
        given = [name for name, axes in forms.items() if axes is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them is set"
            raise ValueError(f"give exactly one of grid, lines and list ({found})")
        return self
