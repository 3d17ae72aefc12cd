"""The form in which results are kept: rows of parts of a record, and what may be compared."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue, computed_field

from rdm_batch.errors import RdmBatchError

FORM = 1
# What speed follows from. Memory and kernel may differ a little from one start to the next.
_SAME_MACHINE = ("cpu_model", "num_cores", "gpus")
Details = dict[str, str | int | float | bool | None]


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class Row(_Stored):
    """One figure, beside what it is compared with.

    Attributes:
        name: What was measured.
        value: Its figure; None where the details are all there is.
        unit: Of the value, the baseline, the floor and what is needed.
        higher_is_better: Of the value: so for rates, not for times.
        baseline: The value of what this is compared with, measured in the same run.
        floor: The best this machine could do, counted or measured.
        needed: The value that is asked for.
        needed_ratio: The ratio that is asked for.
        details: More figures of the same measurement, each named with its unit.
    """

    name: str
    value: float | None = None
    unit: str = ""
    higher_is_better: bool = False
    baseline: float | None = None
    floor: float | None = None
    needed: float | None = None
    needed_ratio: float | None = None
    details: Details = Field(default_factory=dict)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ratio(self) -> float | None:
        """How many times better than the baseline; above 1 is better."""
        return _times_better(self.value, self.baseline, self.higher_is_better)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def gap(self) -> float | None:
        """How many times worse than the floor; 1 is the best possible."""
        return _times_better(self.floor, self.value, self.higher_is_better)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def met(self) -> bool | None:
        """Whether everything that is asked for was reached; None where nothing is."""
        found = [
            better >= least
            for better, least in (
                (self.ratio, self.needed_ratio),
                (_times_better(self.value, self.needed, self.higher_is_better), 1.0),
            )
            if better is not None and least is not None
        ]
        return all(found) if found else None


def _times_better(value: float | None, other: float | None, higher_is_better: bool) -> float | None:
    """Give how many times better a value is than another."""
    best, least = (value, other) if higher_is_better else (other, value)
    return None if best is None or not least else best / least


class Part(_Stored):
    """What was measured together, and how."""

    name: str
    measured: datetime
    took_s: float
    load_average: float
    command: str
    commit: str | None
    software: dict[str, str]
    settings: dict[str, JsonValue]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


class Record(_Stored):
    """All a file holds.

    Attributes:
        benchmark: Module that measures it, below ``benchmarks``.
        title: Heading of the page.
        about: What is measured, in sentences.
        baseline: What ratios compare with; None where nothing is compared.
        machine: The machine that measured all of it.
        parts: In the order they were last measured.
    """

    form: Annotated[int, Field(ge=FORM, le=FORM)] = FORM
    benchmark: str
    title: str
    about: str
    baseline: str | None = None
    machine: dict[str, Any]
    parts: tuple[Part, ...] = ()


def read_record(path: Path) -> Record | None:
    """Read a file of results; None where it is of an earlier form.

    Raises:
        RdmBatchError: It cannot be read.
    """
    try:
        document = json.loads(path.read_text())
        if not isinstance(document, dict) or "form" not in document:
            return None
        return Record.model_validate(document)
    except (OSError, ValueError) as error:
        # The first line of a validation error says how much is wrong, in all words needed.
        found = str(error).splitlines()[0]
        raise RdmBatchError(
            str(path), f"cannot be read ({found})", f"results of form {FORM}"
        ) from error


def check_same_machine(
    where: str, before: Mapping[str, Any], now: Mapping[str, Any], action: str
) -> None:
    """Refuse to set figures of one machine beside those of another.

    Raises:
        RdmBatchError: They are not the same.
    """
    left, right = ([_plain(one.get(key)) for key in _SAME_MACHINE] for one in (before, now))
    if left != right:
        raise RdmBatchError(
            where,
            f"was measured on {describe(before)}",
            f"one machine in a comparison; the other is {describe(now)}",
            action,
        )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, list | tuple) else value


def describe(machine: Mapping[str, Any]) -> str:
    """Name a machine in a few words."""
    words = [str(machine["cpu_model"]), f"{machine['num_cores']} cores"]
    words += [f"{machine['memory_bytes'] / 2**30:.0f} GiB"]
    return ", ".join([*words, *machine.get("gpus", ())])
