"""What one run of a suite leaves behind: what was measured, and what the gates said of it.

These are the rows of the history, so a field is only ever added, with a default.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
)

from rdm_batch.reports.run_report import Machine

Kind = Literal["quality", "speed", "memory", "latency"]
"""What a figure measures. ``quality`` follows from the samples alone; the others belong to the
machine as well and compare on one class of machine only."""
Better = Literal["lower", "higher", "neither"]
Gate = Literal["identity", "closeness", "paired", "bounds", "speed"]
"""The ladder, gates 0 to 4."""
GATES: tuple[Gate, ...] = ("identity", "closeness", "paired", "bounds", "speed")
Outcome = Literal["pass", "fail", "undecided", "no_baseline", "not_comparable"]
"""``undecided``: more samples or nights are needed. ``no_baseline``: nothing was accepted yet.
``not_comparable``: what was measured is something else than what was accepted. The last two are
never a pass."""

RunId = Annotated[str, Field(pattern=r"^[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """Freeze records, and refuse fields and numbers that a reader cannot use."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figure(Record):
    """One number that was measured of one job.

    Args:
        name: Which: the id of a score (``fid``), or ``images_per_s``, ``query_p99_s``,
            ``start_up_s``, ``peak_memory_bytes``, ... Together with ``job`` it names a series.
        job: Name of the job in the suite.
        kind: What it measures.
        value: The number, in ``unit``.
        values: Where it was measured more than once, everything it is the middle of, in order.
        error: One standard error. None where none is known.
        unit: Such as ``s``, ``B`` or ``images/s``; empty for scores.
        better: Which of two values is better.
        description: Digest of everything the number depends on besides what is tested: of the
            score's description, or of the job measured. Figures whose descriptions differ are
            never compared.
        floor: The least (or, where higher is better, the most) that was measured to be possible
            in the same run, in the same unit. None where no floor was measured.
    """

    name: str
    job: str
    kind: Kind
    value: float
    error: NonNegativeFloat | None = None
    unit: str = ""
    better: Better
    description: Sha256
    floor: float | None = None
    values: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, str, str]:
        """Return what the figures of one series have in common."""
        return self.job, self.name, self.description


class Verdict(Record):
    """What one gate said of one job.

    Args:
        gate: Which gate.
        job: Name of the job in the suite.
        figure: Name of the figure it is about. None where it is about samples.
        outcome: What it said.
        reason: Why, in one sentence with numbers.
        details: The numbers, for programs.
        decides: Whether it takes part in the outcome of the run; others explain.
    """

    gate: Gate
    job: str
    figure: str | None = None
    outcome: Outcome
    reason: str
    details: dict[str, JsonValue] = {}
    decides: bool = True


class Run(Record):
    """One run of a suite.

    Args:
        id: Its name in the history: when it started, and eight random digits.
        position: One more than that of the last run in the history when this one was stored: the
            order of runs where clocks are wrong. Two nights at once may share one.
        started: When, UTC.
        commit: The commit the program was run from. None outside a checkout.
        dirty: Whether there were local changes besides.
        versions: Of Python, this package and what moves numbers.
        machine: What it ran on.
        machine_class: Machines of one class are expected to give the same bytes and speeds.
        suite: Name of the suite.
        suite_digest: Of the suite, its jobs and its gates.
        baseline: Digest of the accepted baseline it was held against. None where there was none.
        figures: What was measured.
        verdicts: What the gates said.
        pages: Where the page of each job is, by name of the job.
        artifacts: Objects of the history that belong to this run, by what they are.
    """

    format: Literal["rdm_batch.nightly/1"] = "rdm_batch.nightly/1"
    id: RunId
    position: NonNegativeInt = 0
    started: AwareDatetime
    commit: str | None
    dirty: bool
    versions: dict[str, str]
    machine: Machine
    machine_class: str
    suite: str
    suite_digest: Sha256
    baseline: Sha256 | None = None
    figures: tuple[Figure, ...] = ()
    verdicts: tuple[Verdict, ...] = ()
    pages: dict[str, str] = {}
    artifacts: dict[str, str] = {}

    @property
    def order(self) -> tuple[int, datetime, str]:
        """Return what runs of one history are sorted by."""
        return self.position, self.started, self.id

    @property
    def outcome(self) -> Outcome:
        """Return the worst of the deciding verdicts; a run without any passes nothing."""
        found = {verdict.outcome for verdict in self.verdicts if verdict.decides}
        return next((outcome for outcome in WORST_FIRST if outcome in found), "no_baseline")

    def figure(self, job: str, name: str) -> Figure | None:
        """Return a figure by its job and name; None where it was not measured."""
        return next((f for f in self.figures if (f.job, f.name) == (job, name)), None)


WORST_FIRST: tuple[Outcome, ...] = ("fail", "not_comparable", "no_baseline", "undecided", "pass")
EXIT_CODES: dict[Outcome, int] = {
    "pass": 0,
    "fail": 3,
    "undecided": 4,
    "no_baseline": 5,
    "not_comparable": 6,
}
"""Exit status of a command by what the gates said. 1 is an expected failure (nothing was judged)
and 2 a mistake on the command line, as for every command."""


def machine_class(machine: Machine) -> str:
    """Name the class of a machine: its GPUs, or its CPU and how many cores it may use."""
    if machine.gpus:
        kinds = sorted(set(machine.gpus))
        return ", ".join(f"{machine.gpus.count(kind)} x {kind}" for kind in kinds)
    return f"{machine.num_cores} x {' '.join(machine.cpu_model.split())}"
