"""What the gates of a job share: what was made, what was accepted, and how a verdict is said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rdm_batch.metrics.pairing import Influences
from rdm_batch.regression.baseline import Accepted, AcceptedScore, Baseline, accepted_object
from rdm_batch.regression.canary import Canary, parse_canary
from rdm_batch.regression.figures import describe_score
from rdm_batch.regression.history import History
from rdm_batch.regression.records import Gate, Outcome, Verdict
from rdm_batch.reports.table import leaves, short_value
from rdm_batch.specs.scores import Score
from rdm_batch.specs.suite import GatesSpec

CANARY, INFLUENCES = "canary", "influences"
"""What a run keeps of a job in its history."""
_NAMED = 6


@dataclass(frozen=True)
class JobNight:
    """Hold what a night has made of one job.

    Args:
        name: Of the job in the suite.
        gates: What it is judged by.
        machine_class: Where it ran.
        versions: Of what moves numbers.
        identity: Digest of everything that defines the samples.
        seed: Of the samples.
        canary: Its first samples.
        scores: In the order asked for.
        influences: Of the samples on the scores that have them.
    """

    name: str
    gates: GatesSpec
    machine_class: str
    versions: Mapping[str, str]
    identity: str
    seed: int
    canary: Canary
    scores: tuple[Score, ...] = ()
    influences: Mapping[str, Influences] | None = None

    def score(self, name: str) -> Score | None:
        """Return a score by its id; None where it was not computed."""
        return next((score for score in self.scores if score.id == name), None)


class Judging:
    """Hold a job of a night beside what was accepted of it.

    Args:
        night: What was made.
        baseline: What was accepted. None before the first time.
        history: Holds what accepted runs have kept.

    Attributes:
        here: What was accepted on this class of machine. None where nothing was.
        anywhere: That, or the latest of another class.
    """

    def __init__(self, night: JobNight, baseline: Baseline | None, history: History) -> None:
        self.night, self.history = night, history
        everywhere = () if baseline is None else baseline.of_job(night.name)
        self.here = None if baseline is None else baseline.find(night.name, night.machine_class)
        self.anywhere = self.here or (everywhere[0] if everywhere else None)
        self._kept: dict[str, Canary | None] = {}

    def changed_fields(self, accepted: Accepted) -> dict[str, str]:
        """Name the fields in which the job differs from the accepted one, with both values."""
        if accepted.identity == self.night.identity:
            return {}
        kept = self.accepted_canary(accepted)
        if kept is None:
            return {"the job": "its fields are not known, for the accepted canary is not there"}
        before, now = dict(leaves(kept.identity)), dict(leaves(self.night.canary.identity))
        return {
            name: f"{_value(before, name)} -> {_value(now, name)}"
            for name in [*before, *(name for name in now if name not in before)]
            if before.get(name) != now.get(name)
        } or {"the job": "its digest"}

    def accepted_canary(self, accepted: Accepted) -> Canary | None:
        """Read the canary of an accepted run; None where this history does not hold it."""
        if accepted.run not in self._kept:
            data = accepted_object(self.history, accepted, CANARY)
            where = f"canary of {accepted.run}"
            self._kept[accepted.run] = None if data is None else parse_canary(data, where)
        return self._kept[accepted.run]

    def accepted_score(
        self, gate: Gate, name: str, decides: bool = True
    ) -> tuple[Accepted, AcceptedScore, Score] | Verdict:
        """Find a score as it was accepted and as it is now, or say why they do not compare."""
        accepted, now = self.anywhere, self.night.score(name)
        if accepted is None:
            return self.nothing_accepted(gate, name, decides)
        changed = self.changed_fields(accepted)
        if changed and not set(changed) <= {
            field for change in self.night.gates.closeness for field in change.fields
        }:
            return self.other_job(gate, accepted, changed, name, decides)
        if now is None:
            reason = f"{name} was not computed"
            return self.verdict(gate, "not_comparable", reason, figure=name, decides=decides)
        before = accepted.scores.get(name)
        if before is None:
            reason = f"{name} of {self.night.name} was never accepted"
            return self.verdict(gate, "no_baseline", reason, figure=name, decides=decides)
        if before.description != describe_score(now):
            reason = (
                f"{name} is measured otherwise than it was accepted (reference, extractor, counts "
                "or settings differ)"
            )
            return self.verdict(gate, "not_comparable", reason, figure=name, decides=decides)
        return accepted, before, now

    def nothing_accepted(
        self, gate: Gate, figure: str | None = None, decides: bool = True, by_class: bool = False
    ) -> Verdict:
        """Say that nothing was accepted yet, or only on other machines."""
        night = self.night
        if by_class and self.anywhere is not None:
            reason = (
                f"{night.name} was accepted on {self.anywhere.machine_class}, and this is "
                f"{night.machine_class}: the same bytes are expected on one class of machine alone"
            )
            return self.verdict(gate, "not_comparable", reason, figure=figure, decides=decides)
        reason = f"nothing of {night.name} was accepted yet (rdm-batch bench accept)"
        return self.verdict(gate, "no_baseline", reason, figure=figure, decides=decides)

    def other_job(
        self,
        gate: Gate,
        accepted: Accepted,
        changed: Mapping[str, str],
        figure: str | None = None,
        decides: bool = True,
    ) -> Verdict:
        """Say that the job is another than the accepted one, and in what."""
        named = [f"{name} {values}" for name, values in list(changed.items())[:_NAMED]]
        more = f" and {len(changed) - _NAMED} more" if len(changed) > _NAMED else ""
        reason = (
            f"the job is another than {accepted.run} was accepted for: {'; '.join(named)}{more}"
        )
        return self.verdict(
            gate, "not_comparable", reason, {"changed": dict(changed)}, figure, decides
        )

    def verdict(
        self,
        gate: Gate,
        outcome: Outcome,
        reason: str,
        details: Mapping[str, object] | None = None,
        figure: str | None = None,
        decides: bool = True,
    ) -> Verdict:
        """Say something of this job."""
        return Verdict.model_validate(
            {
                "gate": gate,
                "job": self.night.name,
                "figure": figure,
                "outcome": outcome,
                "reason": reason,
                "details": dict(details or {}),
                "decides": decides,
            }
        )


def _value(tree: Mapping[str, object], name: str) -> str:
    return short_value(tree[name]) if name in tree else "not set"  # type: ignore[arg-type]
