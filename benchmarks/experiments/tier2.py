"""Draw real pairs of samples again and again, and see what gate 2 alone says of them.

    python -m benchmarks.experiments.tier2 --work FOLDER \
        --json benchmarks/results/planted_faults.json

Inputs: one sweep of the embedded world's RDM, 2,048 samples of every cell with the same noise: the
base of ``pairs``, two of its changes, and faults that move scores, some by much. Sets in FOLDER
are taken as they are. A night is 512 indices drawn without replacement, the same ones of the base
and of the changed set; scores and influences are computed of both as a job computes them, and
``regression.statistics`` judges the difference by the error of its pairs. Gates 0 and 1 are not
asked.

What the change truly does to a score of 512 samples is the mean over all draws. With just that as
``delta`` the gate should not pass the change in 99 of 100 nights, whatever it moves: that is the
boundary, and what moves a score by more is passed less often. A share of so many draws is known to
a standard error; what is needed is 99 % less two of them. Draws without replacement from 2,048
vary by sqrt(1 - 512 / 2048) of what new samples would; the deviations from the mean are widened by
as much before they are judged (Cochran 1977, Eq. 2.20).

A change that moves a score by less than two of its errors is not passed at its own ``delta``
because nothing could be; such rows say nothing of the gate and are not asked of it. What they say
is the other column: how often it passes at the ``delta`` of ``jobs/nightly.yaml``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float64, Int64

from benchmarks.experiments.pairs import BASE, BASE_FIELDS, CHANGES, document
from benchmarks.experiments.planted_faults import recorder_of
from benchmarks.pipeline.jobs import ROOT
from benchmarks.recorder import parser_of, run
from benchmarks.records import Row
from rdm_batch.errors import RdmBatchError
from rdm_batch.evaluation.features import load_features
from rdm_batch.inputs.extractors import extractor_digest
from rdm_batch.inputs.image_sets import SampleImages
from rdm_batch.metrics.compute import compute_scores
from rdm_batch.metrics.evaluation import Findings
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.pairing import Influences, paired_error
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.regression.statistics.equivalence import ALPHA, equivalence
from rdm_batch.regression.suite import load_suite
from rdm_batch.reports.progress import Progress
from rdm_batch.storage.object_store import local_path
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.sweeps.cells import Sweep, load_sweep
from rdm_batch.sweeps.sweep import run_sweep

DRAWN = ("fid",)
"""Computed anew of every night."""
OWN_PARTS = "precision"
"""A mean of what each sample is by itself, whatever the others of its night are."""
SCORES = (*DRAWN, OWN_PARTS)
UNCHANGING = ("dpm_solver_pp", "bfloat16")
"""Changes of ``pairs`` that should move no score."""
FAULTS: dict[str, dict[str, Any]] = {
    "guidance 2 % off": {"sampling.guidance_scale": 2.04},
    "eta 1": {"sampling.eta": 1.0},
    "a neighbor less": {"conditioning.k_nn": 3},
    "no guidance": {"sampling.guidance_scale": 1.0},
    "5 steps": {"sampling.num_steps": 5},
    "3 steps": {"sampling.num_steps": 3},
}
NIGHT, POPULATION = 512, 2_048
NEEDED = 0.99
LEAST_ERRORS = 2.0
"""Of a change, in errors of one night: below, the gate could pass nothing at that ``delta``."""


@dataclass(frozen=True)
class Drawn:
    """Hold what the nights gave of one score and one change.

    Args:
        differences: Of every night.
        errors: What their pairs say of them.
    """

    differences: Float64[np.ndarray, " nights"]
    errors: Float64[np.ndarray, " nights"]

    def widened(self, part: float) -> Drawn:
        """Undo that nights are drawn without replacement, from ``part`` of all there are."""
        mean = self.differences.mean()
        wider = mean + (self.differences - mean) / math.sqrt(1 - part)
        return Drawn(wider, self.errors)

    def shares(self, margin: float, samples: int) -> dict[str, float]:
        """Say how often the gate passes, fails and decides nothing at a margin."""
        said = [
            equivalence(float(d), float(e), samples, margin).outcome
            for d, e in zip(self.differences, self.errors, strict=True)
        ]
        return {o: said.count(o) / len(said) for o in ("pass", "undecided", "fail")}


def swept(work: Path, samples: int, seed: int) -> Sweep:
    """Describe the sweep: the base of ``pairs``, the changes, and the faults."""
    job = document(samples, seed, work / f"seed-{seed}")
    changes = {name: CHANGES[name] for name in UNCHANGING} | FAULTS
    job["sweep"]["list"] = [
        {"name": _cell(name), **BASE_FIELDS, **changed}
        for name, changed in ({BASE: {}} | changes).items()
    ]
    path = work / f"tier2-{seed}.yaml"
    path.write_text(yaml.safe_dump(job))
    return load_sweep(path)


def _cell(name: str) -> str:
    return name.replace(" % ", " percent ").replace(" ", "-")


def features_of(sweep: Sweep) -> tuple[dict[str, FeatureSet], ReferenceStatistics]:
    """Load the features of every cell, and the reference."""
    evaluation = sweep.cells[0].job.evaluation
    assert evaluation is not None
    digest = extractor_digest(evaluation.extractor)
    found = {}
    for cell in sweep.cells:
        images = SampleImages(SampleSet.open(cell.job.output.uri), evaluation.resize)
        found[cell.name] = load_features(images, digest)
    assert isinstance(evaluation.reference, str)
    return found, ReferenceStatistics.load(local_path(evaluation.reference))


@dataclass(frozen=True)
class Population:
    """Hold all samples of a cell.

    Args:
        features: Of all of them.
        parts: What each adds to ``OWN_PARTS``.
    """

    features: FeatureSet
    parts: Float64[np.ndarray, " samples"]

    @classmethod
    def of(cls, features: FeatureSet, reference: ReferenceStatistics) -> Population:
        """Find out what each sample is by itself."""
        values, influences = scored(features, reference, [OWN_PARTS])
        return cls(features, influences[OWN_PARTS].values + values[OWN_PARTS])

    def judged(
        self, chosen: Int64[np.ndarray, " night"], reference: ReferenceStatistics
    ) -> tuple[dict[str, float], dict[str, Influences]]:
        """Score some of the samples as a job does."""
        whole = self.features
        layers = {name: rows[chosen] for name, rows in whole.layers.items()}
        ids = whole.ids[chosen]
        part = FeatureSet(whole.extractor, ids, layers, whole.source, whole.images)
        values, influences = scored(part, reference, DRAWN)
        own = self.parts[chosen]
        values[OWN_PARTS] = float(own.mean())
        influences[OWN_PARTS] = Influences("samples", ids, own - own.mean())
        return values, influences


def scored(
    features: FeatureSet, reference: ReferenceStatistics, scores: Sequence[str]
) -> tuple[dict[str, float], dict[str, Influences]]:
    """Compute scores, and what each sample does to them."""
    findings = Findings(influences={})
    found = compute_scores(features, reference, scores, findings=findings)
    assert findings.influences is not None
    return {score.id: score.value for score in found}, findings.influences


def draw(
    features: Mapping[str, FeatureSet], reference: ReferenceStatistics, nights: int, samples: int
) -> dict[str, dict[str, Drawn]]:
    """Draw nights, and compare every changed set with the base on each.

    Returns:
        By cell, then by score.
    """
    random = np.random.default_rng(0)
    sets = {name: Population.of(one, reference) for name, one in features.items()}
    others = [name for name in features if name != BASE]
    found: dict[str, dict[str, list[tuple[float, float]]]] = {
        name: {score: [] for score in SCORES} for name in others
    }
    population = len(features[BASE])
    for _ in range(nights):
        chosen = np.sort(random.permutation(population)[:samples])
        base, base_influences = sets[BASE].judged(chosen, reference)
        for name in others:
            scores, influences = sets[name].judged(chosen, reference)
            for score in SCORES:
                error = paired_error(base_influences[score], influences[score])
                found[name][score].append((scores[score] - base[score], error))
    return {
        name: {score: Drawn(*np.array(pairs).T) for score, pairs in by_score.items()}
        for name, by_score in found.items()
    }


def rows_of(drawn: Mapping[str, Drawn], change: str, deltas: Mapping[str, float]) -> list[Row]:
    """Say what the gate says of one change, score by score."""
    rows = []
    for score, raw in drawn.items():
        one = raw.widened(NIGHT / POPULATION)
        moved = abs(float(one.differences.mean()))
        error = float(np.sqrt(np.mean(np.square(one.errors))))
        asked = moved > LEAST_ERRORS * error
        own, further = (one.shares(moved / part, NIGHT) for part in (1.0, 1.2))
        usual = one.shares(deltas[score], NIGHT) if score in deltas else {}
        rows.append(
            Row(
                name=f"{change}, {score}: moved by its delta, not passed",
                value=1 - own["pass"],
                higher_is_better=True,
                needed=NEEDED - 2 * _share_error(len(one.differences)) if asked else None,
                details={
                    "moved by 1.2 deltas, not passed": 1 - further["pass"],
                    "moves it by": float(one.differences.mean()),
                    "error of a night": error,
                    "spread of the nights": float(one.differences.std(ddof=1)),
                }
                | ({"delta of jobs/nightly.yaml": deltas[score]} if usual else {})
                | {f"{word} with it": share for word, share in usual.items()},
            )
        )
    return rows


def _share_error(nights: int) -> float:
    """Give the standard error of a share of so many nights that is just what is needed."""
    return math.sqrt(NEEDED * (1 - NEEDED) / nights)


def suite_deltas() -> dict[str, float]:
    """Give the deltas of the shipped suite's first job."""
    paired = load_suite(ROOT / "jobs" / "nightly.yaml").jobs[0].entry.gates.paired
    assert paired is not None
    return paired.delta


def main(argv: list[str] | None = None) -> None:
    """Make what sets are missing, draw nights of them, and record what gate 2 says."""
    parser = parser_of(__doc__)
    parser.add_argument("--nights", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    recorder = recorder_of(args.json)
    sweep = swept(args.work, POPULATION, args.seed)
    with Progress() as progress:
        run_sweep(args.work / f"tier2-{args.seed}.yaml", (), "none", progress)
    features, reference = features_of(sweep)
    if any(len(one) != POPULATION for one in features.values()):
        raise RdmBatchError(str(args.work), "holds sets of another size", f"{POPULATION:,} samples")
    drawn = draw(features, reference, args.nights, NIGHT)
    deltas = suite_deltas()
    rows = [
        row for name in (*UNCHANGING, *FAULTS) for row in rows_of(drawn[_cell(name)], name, deltas)
    ]
    settings = {
        "nights": args.nights,
        "samples a night": NIGHT,
        "drawn from": POPULATION,
        "level": ALPHA,
        "seed": args.seed,
    }
    recorder.add("gate 2 without gate 0", rows, settings)


if __name__ == "__main__":
    run(main)
