"""Gates 0 to 3: what a night has made, held against what was accepted.

A gate that cannot compare says so, and that is never a pass. Every verdict of a job that decides
takes part in the outcome of the run; the others explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rdm_batch.evaluation.kept import parse_influences
from rdm_batch.metrics.pairing import paired_error, variance_ratio
from rdm_batch.regression.baseline import Accepted, Baseline, accepted_object
from rdm_batch.regression.canary import FEATURES, NEIGHBORS, QUERIES
from rdm_batch.regression.closeness import StageDifference, compare_canaries
from rdm_batch.regression.figures import describe_score
from rdm_batch.regression.history import History
from rdm_batch.regression.judging import INFLUENCES, JobNight, Judging
from rdm_batch.regression.records import Outcome, Verdict
from rdm_batch.regression.statistics.equivalence import Equivalence, equivalence
from rdm_batch.regression.statistics.multiple import outcomes_of_jobs
from rdm_batch.reports.units import format_number
from rdm_batch.specs.suite import NamedChange


@dataclass(frozen=True)
class JobVerdicts:
    """Hold what the gates said of one job.

    Args:
        verdicts: In the order of the ladder.
        primary: The test behind the verdict that decides gate 2. None where there was none.
    """

    verdicts: tuple[Verdict, ...]
    primary: Equivalence | None = None


def judge_jobs(
    nights: Sequence[JobNight], baseline: Baseline | None, history: History
) -> list[tuple[Verdict, ...]]:
    """Hold the jobs of a night against what was accepted.

    One primary score of each job decides gate 2. With many jobs one of them is outside by chance
    alone sooner or later: their tests are corrected for their number (Holm).

    Args:
        nights: What was made.
        baseline: What was accepted. None before the first time.
        history: Holds the canaries and influences of accepted runs.

    Returns:
        The verdicts of each job.

    Raises:
        RegressionError: What an accepted run has kept is damaged.
    """
    judged = [_Judge(night, baseline, history).judge() for night in nights]
    tested = [one.primary for one in judged if one.primary is not None]
    outcomes = iter(outcomes_of_jobs(tested))
    return [
        one.verdicts
        if one.primary is None
        else tuple(_corrected(one.verdicts, one.primary, next(outcomes), len(tested)))
        for one in judged
    ]


def _corrected(
    verdicts: Sequence[Verdict], test: Equivalence, outcome: Outcome, jobs: int
) -> list[Verdict]:
    def one(verdict: Verdict) -> Verdict:
        if verdict.gate != "paired" or not verdict.decides or outcome == test.outcome:
            return verdict
        return verdict.model_copy(
            update={
                "outcome": outcome,
                "reason": f"{verdict.reason}; {outcome}, corrected for {jobs} jobs",
            }
        )

    return [one(verdict) for verdict in verdicts]


class _Judge(Judging):
    def judge(self) -> JobVerdicts:
        gates, verdicts, primary = self.night.gates, [], None
        if gates.identity:
            verdicts += self._identity()
        if gates.paired is not None:
            for score, delta in gates.paired.delta.items():
                decides = score == gates.paired.primary
                verdict, test = self._paired(score, delta, decides)
                verdicts.append(verdict)
                primary = test if decides else primary
        verdicts += [self._bounds(score) for score in gates.bounds]
        return JobVerdicts(tuple(verdicts), primary)

    # --- gates 0 and 1 -----------------------------------------------------------------------

    def _identity(self) -> list[Verdict]:
        night, accepted = self.night, self.here
        if accepted is None:
            return [self.nothing_accepted("identity", by_class=True)]
        changed = self.changed_fields(accepted)
        if changed and not self._named(accepted, changed):
            return [self.other_job("identity", accepted, changed)]
        digests = night.canary.digests()
        lost = [stage for stage in accepted.digests if stage not in digests]
        if lost or accepted.samples != len(night.canary.indices):
            found = (
                f"{' and '.join(lost)} were accepted and are not made now"
                if lost
                else f"a canary of {accepted.samples:,} samples was accepted, this one has "
                f"{len(night.canary.indices):,}"
            )
            return [self.verdict("identity", "not_comparable", found)]
        unlike = [stage for stage in accepted.digests if digests[stage] != accepted.digests[stage]]
        new = [stage for stage in digests if stage not in accepted.digests]
        if not unlike and new:
            found = f"{' and '.join(new)} of {night.name} are made, and were never accepted"
            return [self.verdict("identity", "no_baseline", found)]
        if not unlike:
            words = ", ".join(digests)
            reason = f"{words} of all {accepted.samples:,} samples are the accepted ones"
            return [self.verdict("identity", "pass", reason, {"samples": accepted.samples})]
        kept = self.accepted_canary(accepted)
        if kept is None:
            reason = (
                f"{', '.join(unlike)} differ; the accepted canary of {accepted.run} is not in "
                f"{self.history.uri}, so it is not known in how many samples"
            )
            return [self.verdict("identity", "fail", reason, {"stages": list(unlike)})]
        differences = compare_canaries(kept, night.canary)
        close = self._closeness(accepted, changed, differences)
        details = {d.stage: {**vars(d)} for d in differences}
        reason = "; ".join(map(str, differences))
        explained = close is not None and close.outcome == "pass"
        failed = self.verdict("identity", "fail", reason, details, decides=not explained)
        return [failed] if close is None else [failed, close]

    def _closeness(
        self,
        accepted: Accepted,
        changed: Mapping[str, str],
        differences: Sequence[StageDifference],
    ) -> Verdict | None:
        """Say whether a named change explains what differs; None where none has happened."""
        named = self._named(accepted, changed)
        if named is None:
            return None
        by_stage = {difference.stage: difference for difference in differences}
        moved = [stage for stage in (QUERIES, NEIGHBORS) if stage in by_stage]
        if moved:
            reason = f"{named.name} moves images, and here {moved[0]} differ: {by_stage[moved[0]]}"
            return self.verdict("closeness", "fail", reason)
        limits, over = [], []
        for what, value, limit in _measures(named, differences):
            limits.append(f"{what} {_shown(value)} of {_shown(limit)} allowed")
            if value is None or limit is None or value > limit:
                over.append(what)
        words = "more than" if over else "within what"
        reason = f"{words} {named.name} was seen to do: {'; '.join(limits)}"
        return self.verdict("closeness", "fail" if over else "pass", reason)

    def _named(self, accepted: Accepted, changed: Mapping[str, str]) -> NamedChange | None:
        """Find the named change that covers all that has changed besides the code."""
        now, before = self.night.versions, accepted.versions
        versions = {name for name in {*now, *before} if now.get(name) != before.get(name)}
        if not versions and not changed:
            return None
        return next(
            (
                change
                for change in self.night.gates.closeness
                if versions <= set(change.versions) and set(changed) <= set(change.fields)
            ),
            None,
        )

    # --- gate 2 ------------------------------------------------------------------------------

    def _paired(self, name: str, delta: float, decides: bool) -> tuple[Verdict, Equivalence | None]:
        def say(outcome: Outcome, reason: str) -> tuple[Verdict, None]:
            return self.verdict("paired", outcome, reason, figure=name, decides=decides), None

        found = self.accepted_score("paired", name, decides)
        if isinstance(found, Verdict):
            return found, None
        accepted, before, now = found
        data = accepted_object(self.history, accepted, INFLUENCES)
        kept = None if data is None else parse_influences(data)
        one = None if kept is None else kept.get(name)
        two = (self.night.influences or {}).get(name)
        if one is None or two is None:
            missing = f"of the accepted run {accepted.run}" if one is None else "of this run"
            return say(
                "not_comparable",
                f"what each sample does to {name} is not known {missing}, so there are no pairs",
            )
        if accepted.seed != self.night.seed and one.over == "samples":
            return say("not_comparable", f"the seed was {accepted.seed} and is {self.night.seed}")
        difference, error = now.value - before.value, paired_error(one, two)
        samples = len(set(one.ids.tolist()) | set(two.ids.tolist()))
        test = equivalence(difference, error, samples, delta)
        reason = (
            f"{name} {_number(before.value)} -> {_number(now.value)}: moved by "
            f"{_signed(difference)}, {100 * test.confidence:.0f} % interval {_signed(test.low)} to "
            f"{_signed(test.high)}, "
            f"{_WHERE[test.outcome]} ±{_number(delta)}"
        )
        if test.needed is not None:
            reason += f"; needs n = {test.needed:,} {one.over}, has {samples:,}"
        details = {
            "accepted": before.value,
            "value": now.value,
            "difference": difference,
            "error": error,
            "low": test.low,
            "high": test.high,
            "delta": delta,
            "samples": samples,
            "needed": test.needed,
            "gain": variance_ratio(one, two),
        }
        return self.verdict("paired", test.outcome, reason, details, name, decides), test

    # --- gate 3 ------------------------------------------------------------------------------

    def _bounds(self, name: str) -> Verdict:
        found = self.accepted_score("bounds", name)
        if isinstance(found, Verdict):
            return found
        accepted, _, now = found
        bounds = accepted.bounds.get(name)
        if bounds is None:
            reason = (
                f"no bounds of {name} were accepted; run the suite with --seeds 5 and accept that"
            )
            return self.verdict("bounds", "no_baseline", reason, figure=name)
        if bounds.description != describe_score(now):
            return self.verdict(
                "bounds",
                "not_comparable",
                f"{name} is measured otherwise than its bounds were",
                figure=name,
            )
        inside = bounds.low <= now.value <= bounds.high
        side = "inside" if inside else "above" if now.value > bounds.high else "below"
        reason = (
            f"{name} {_number(now.value)} is {side} [{_number(bounds.low)}, "
            f"{_number(bounds.high)}], accepted from {bounds.seeds} seeds"
        )
        better = now.better
        if not inside and better is not None and (side == "above") == (better == "higher"):
            reason += "; better than a right run can be is a fault as well"
        details = {"value": now.value, "low": bounds.low, "high": bounds.high}
        return self.verdict("bounds", "pass" if inside else "fail", reason, details, name)


_WHERE: dict[Outcome, str] = {
    "pass": "inside",
    "fail": "outside",
    "undecided": "across the edge of",
}


def _measures(
    named: NamedChange, differences: Sequence[StageDifference]
) -> list[tuple[str, float | None, float | None]]:
    """List what differs, by how much, and how much of that a named change may do."""
    found: list[tuple[str, float | None, float | None]] = []
    for difference in differences:
        if difference.stage == "images":
            found.append(("largest byte", difference.largest, float(named.largest_byte)))
            found.append(("mean byte", difference.mean, named.mean_byte))
        elif difference.stage.startswith(FEATURES) and named.features is not None:
            found.append((difference.stage, difference.largest, named.features))
    return found


def _shown(value: float | None) -> str:
    return "unknown" if value is None else _number(value)


def _number(value: float) -> str:
    return format_number(value)


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + format_number(value)
