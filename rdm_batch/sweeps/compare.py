"""From what is known of the cells to their differences, the optimum, and the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rdm_batch.metrics.pairing import Influences, error_of_difference
from rdm_batch.reports.run_report import Provenance
from rdm_batch.reports.sweep_report import (
    AxisInterval,
    CellReport,
    Difference,
    Ended,
    Optimum,
    SweepReport,
)
from rdm_batch.specs.scores import Score
from rdm_batch.sweeps.cells import Sweep
from rdm_batch.sweeps.stopping import best_of

_ERRORS = 2.0
"""Standard errors of a paired difference within which two cells cannot be told apart."""


@dataclass(frozen=True)
class CellState:
    """Hold what is known of a cell.

    Args:
        digest: Identity of its samples.
        samples: How many are stored.
        judged: How many of them the scores are of, from the first on.
        seed: Of its samples; only equal seeds are pairs.
        scores: In the order asked for.
        influences: Of the scores that have them.
        ended: Why it was ended early. None where it was not.
    """

    digest: str
    samples: int
    judged: int = 0
    seed: int = 0
    scores: tuple[Score, ...] = ()
    influences: Mapping[str, Influences] = field(default_factory=dict)
    ended: Ended | None = None


def report_sweep(
    sweep: Sweep,
    states: Sequence[CellState],
    at_end: Mapping[int, CellState],
    finished: bool,
    provenance: Provenance,
) -> SweepReport:
    """Compare cells, and say which is the best.

    Args:
        sweep: The sweep.
        states: Of its cells, in order.
        at_end: Of the base, by numbers of samples at which cells were ended: differences of such
            a cell are taken at as many.
        finished: Whether nothing more will be made.
        provenance: What made the report.
    """
    form = "grid" if sweep.spec.grid else "lines" if sweep.spec.lines else "list"
    cells = []
    for cell, state in zip(sweep.cells, states, strict=True):
        base: CellState | None = states[sweep.base]
        assert base is not None
        if state.judged != base.judged:
            # Scores of different numbers of samples do not compare.
            base = at_end.get(state.judged)
        cells.append(
            CellReport(
                name=cell.name,
                uri=cell.job.output.uri,
                digest=state.digest,
                values={
                    axis: value_of(cell.job.model_dump(mode="json"), axis) for axis in sweep.axes
                },
                samples=state.samples,
                planned=cell.job.sampling.num_samples,
                judged=state.judged,
                scores=state.scores,
                differences={} if base in (None, state) else differences(base, state),
                ended=state.ended,
            )
        )
    return SweepReport(
        name=sweep.name,
        uri=sweep.uri,
        form=form,
        axes=sweep.axes,
        base=sweep.cells[sweep.base].name,
        finished=finished,
        cells=tuple(cells),
        optimum=find_optimum(sweep, cells, states),
        provenance=provenance,
    )


def value_of(job: Mapping[str, Any], axis: str) -> Any:
    """Give a field of a job by its dotted name; None where it has no such field."""
    node: Any = dict(job)
    for part in axis.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node


def differences(base: CellState, other: CellState) -> dict[str, Difference]:
    """Compare every score of a cell with the base's, where both are made alike."""
    mine = {score.id: score for score in base.scores}
    return {
        score.id: difference(base, other, mine[score.id], score)
        for score in other.scores
        if score.id in mine
    }


def difference(base: CellState, other: CellState, first: Score, second: Score) -> Difference:
    """Compare one score of two cells."""
    found = error_of_difference(
        (first.uncertainty, second.uncertainty),
        base.influences.get(first.id),
        other.influences.get(second.id),
        base.seed == other.seed,
    )
    value = second.value - first.value
    return Difference(value=value, error=found.error, paired=found.paired, gain=found.gain)


def find_optimum(
    sweep: Sweep, cells: Sequence[CellReport], states: Sequence[CellState]
) -> Optimum | None:
    """Name the best cell and those it cannot be told from; None where nothing says.

    Only cells with as many judged samples as any are compared: distances shrink with them.
    """
    wanted = sweep.score
    most = max(state.judged for state in states)
    full = {
        cell.name: (cell, state)
        for cell, state in zip(cells, states, strict=True)
        if state.judged == most and cell.score(wanted) is not None
    }
    scores = {name: score for name, (cell, _) in full.items() if (score := cell.score(wanted))}
    if not scores or next(iter(scores.values())).better is None:
        return None
    best = best_of(scores)
    state = full[best][1]
    within = [
        name
        for name, (_, other) in full.items()
        if name == best or _alike(difference(state, other, scores[best], scores[name]))
    ]
    leader = full[best][0]
    return Optimum(
        score=scores[best].id,
        cell=best,
        value=scores[best].value,
        error=scores[best].uncertainty,
        within=tuple(within),
        intervals=tuple(_intervals(leader, [full[name][0] for name in within])),
    )


def _alike(found: Difference) -> bool:
    return found.error is not None and abs(found.value) <= _ERRORS * found.error


def _intervals(best: CellReport, within: Sequence[CellReport]) -> list[AxisInterval]:
    intervals = []
    for axis, value in best.values.items():
        others = {key: other for key, other in best.values.items() if key != axis}
        on_axis = [
            cell.values[axis]
            for cell in within
            if all(cell.values[key] == other for key, other in others.items())
        ]
        numbers = [v for v in on_axis if isinstance(v, int | float) and not isinstance(v, bool)]
        if isinstance(value, int | float) and not isinstance(value, bool):
            intervals.append(AxisInterval(axis=axis, low=min(numbers), high=max(numbers)))
    return intervals
