"""Judge cells: at the end from what their reports hold, on the way at their first shards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from rdm_batch.cluster.pool import Cluster
from rdm_batch.evaluation.evaluate import (
    EvaluationRequest,
    OpenedSides,
    evaluate,
)
from rdm_batch.evaluation.extraction import extract_features
from rdm_batch.evaluation.kept import load_influences, save_influences
from rdm_batch.generation.preflight import CheckedJob
from rdm_batch.inputs.image_sets import ImageSet, SampleImages
from rdm_batch.inputs.references import Reference
from rdm_batch.metrics.pairing import Influences
from rdm_batch.reports.sweep_report import Ended
from rdm_batch.specs.job import ExtractorSpec
from rdm_batch.specs.scores import SCORES, Score
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.sweeps.cells import Sweep
from rdm_batch.sweeps.compare import CellState
from rdm_batch.sweeps.rounds import looks_of
from rdm_batch.sweeps.stopping import Standing, worse_cells


class Judge:
    """Judge the cells of a sweep that are not finished.

    Args:
        sweep: The sweep.
        jobs: Of its cells.

    Attributes:
        of_base: What is known of the base, by numbers of judged samples.
    """

    def __init__(self, sweep: Sweep, jobs: Sequence[CheckedJob]) -> None:
        self._sweep = sweep
        self._jobs = jobs
        self.of_base: dict[int, CellState] = {}
        self._looks = len(looks_of(jobs)) - 1

    @property
    def extractor(self) -> ExtractorSpec | None:
        """What features are extracted by; None where nothing is judged."""
        evaluation = self._jobs[0].spec.evaluation
        return None if evaluation is None else evaluation.extractor

    def looks_at(self, shards: int, news: bool) -> bool:
        """Tell whether cells are to be judged when each has so many shards.

        Args:
            shards: How many.
            news: Whether some were made just now.
        """
        stop = self._sweep.spec.stop_when
        samples = shards * self._jobs[0].spec.output.shard_size
        # Decisions follow from the samples alone, and are taken again after an interruption.
        decides = stop is not None and samples >= stop.after
        return self.extractor is not None and (news or decides)

    def unjudged(self, number: int) -> CellState:
        """Say what is known of a cell that nobody has judged."""
        job = self._jobs[number]
        found = SampleSet.find(job.spec.output.uri)
        rows = 0 if found is None else sum(entry.num_rows for entry in found.entries())
        return CellState(job.header.digest, rows, seed=job.spec.sampling.seed)

    def look(
        self, cluster: Cluster, sets: Mapping[int, SampleSet], shards: int
    ) -> dict[int, CellState]:
        """Judge cells at their first shards, and say which of them are ended.

        Args:
            cluster: Where features are extracted.
            sets: Sets of the cells that are still made.
            shards: How many of each count.
        """
        states = {
            number: self._state(cluster, number, sets[number].first(shards)) for number in sets
        }
        base = states.get(self._sweep.base)
        if base is not None:
            self.of_base[base.judged] = base
        return states | self._ended(states)

    def _state(self, cluster: Cluster, number: int, part: SampleSet) -> CellState:
        job = self._jobs[number]
        evaluation, references = job.spec.evaluation, job.references
        assert evaluation is not None
        assert references is not None
        request = EvaluationRequest(
            job.spec.output.uri,
            evaluation,
            job.spec.database,
            allow_partial=True,
            opened=job.database,
            influences=True,
        )
        images = SampleImages(part, evaluation.resize)
        sides = OpenedSides(Reference(job.spec.output.uri, images=images), references)

        def extract(wanted: ImageSet, extractor: ExtractorSpec) -> None:
            extract_features(cluster, wanted, extractor, lambda *_: None)

        found = evaluate(request, extract, cluster.tasks(), sides)
        return CellState(
            job.header.digest,
            images.num_images,
            images.num_images,
            job.spec.sampling.seed,
            found.scores,
            found.influences(),
        )

    def _ended(self, states: Mapping[int, CellState]) -> dict[int, CellState]:
        """Find the cells to end; the base never is, for all others are compared with it."""
        stop, wanted = self._sweep.spec.stop_when, self._sweep.score
        if stop is None or wanted is None or SCORES[wanted].better is None:
            return {}
        names = {number: self._sweep.cells[number].name for number in states}
        samples = max(state.judged for state in states.values())
        standings = {
            names[number]: Standing(score, state.influences[wanted])
            for number, state in states.items()
            for score in state.scores
            if score.id == wanted and wanted in state.influences and state.judged == samples
        }
        if samples < stop.after or len(standings) < 2:
            return {}
        count = len(self._jobs)
        decisions = count * (count - 1) * max(1, self._looks)
        verdicts = worse_cells(standings, stop.confidence, decisions)
        return {
            number: replace(
                state,
                ended=Ended(
                    samples=state.judged,
                    best=verdict.best,
                    worse_by=verdict.worse_by,
                    error=verdict.error,
                ),
            )
            for number, state in states.items()
            if number != self._sweep.base and (verdict := verdicts.get(names[number])) is not None
        }


def finished_state(
    job: CheckedJob,
    scores: tuple[Score, ...],
    influences: Mapping[str, Influences] | None = None,
) -> CellState | None:
    """Say what is known of a finished cell; None where its influences are to be computed again.

    Args:
        job: Its job.
        scores: Of its report.
        influences: On them, which are then kept. None reads what was kept.
    """
    uri = job.spec.output.uri
    done = SampleSet.open(uri).success()
    assert done is not None
    if influences is not None:
        save_influences(uri, done.digest, scores, influences)
    else:
        influences = load_influences(uri, done.digest, scores) if scores else {}
    if influences is None:
        return None
    rows = done.num_rows
    seed = job.spec.sampling.seed
    judged = rows if scores else 0
    return CellState(job.header.digest, rows, judged, seed, scores, influences)


def first_pictures(uri: str, count: int) -> list[bytes]:
    """Give the first samples of a set as PNG, as far as its first shards hold them."""
    found = SampleSet.find(uri)
    pictures: list[bytes] = []
    if found is None or count == 0:
        return pictures
    for shard, entry in enumerate(found.entries()):
        if entry.shard != shard:
            break
        for batch in found.iter_batches(["image"], [shard]):
            pictures += [row["bytes"] for row in batch.column("image").to_pylist()]
            if len(pictures) >= count:
                return pictures[:count]
    return pictures
