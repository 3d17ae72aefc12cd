"""From features and a reference to scores with uncertainties and descriptions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rdm_batch.errors import MetricError
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.pairwise import DEFAULT_BLOCK_SIZE
from rdm_batch.metrics.precision_recall import precision_recall
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.resampling import JACKKNIFE_GROUPS, frechet_error, share_error
from rdm_batch.metrics.score import Score, ScoreDescription


@dataclass(frozen=True)
class ScoreSettings:
    """Hold what scores may be told besides their inputs.

    Args:
        k: Neighborhood size of precision and recall.
        seed: Seed of splits, subsets and groups.
        jackknife_groups: Groups left out in turn for uncertainties by jackknife. 0 leaves these
            uncertainties out.
        block_size: Rows and columns of one tile; bounds memory, never changes a value.
    """

    k: int = 3
    seed: int = 2020
    jackknife_groups: int = JACKKNIFE_GROUPS
    block_size: int = DEFAULT_BLOCK_SIZE


# Layers a score is taken on when an extractor offers several; any other score takes the first.
_PREFERRED_LAYERS = {"is": "logits_unbiased", "sfid": "spatial"}


def compute_scores(
    generated: FeatureSet,
    reference: ReferenceStatistics,
    names: Sequence[str],
    settings: ScoreSettings | None = None,
    layer: str | None = None,
    partial: bool = False,
) -> list[Score]:
    """Compute scores of generated features against a reference.

    Args:
        generated: Features of the samples.
        reference: Reference of the same extractor.
        names: Scores wanted, each one of ``SCORE_NAMES``.
        settings: Neighborhood size, seeds, resampling. None means the defaults.
        layer: Feature layer for every score. None means each score's own.
        partial: Whether the samples are an incomplete set; recorded in every score.

    Returns:
        One score per name, in the order of the names.

    Raises:
        MetricError: A name is unknown, the extractors differ, there are too few samples, or the
            reference lacks what a score needs.
    """
    unknown = [name for name in names if name not in _FUNCTIONS]
    if unknown:
        raise MetricError(
            "scores", f"unknown score {unknown[0]!r}", f"one of {', '.join(SCORE_NAMES)}"
        )
    if generated.extractor != reference.extractor:
        raise MetricError(
            reference.source,
            f"reference features of {_named(reference)} but samples have features of "
            f"{_named(generated)}",
            "the same extractor, weights and resize on both sides",
            "build the reference again with the extractor of the samples",
        )
    run = _Run(generated, reference, settings or ScoreSettings(), layer, partial)
    return [run.score(name) for name in names]


def _named(features: FeatureSet | ReferenceStatistics) -> str:
    extractor = features.extractor
    return f"{extractor.name} ({extractor.digest[:12]}, {extractor.resize}, {extractor.image_size})"


class _Run:
    """Hold the inputs of one evaluation and the scores that come out together."""

    def __init__(
        self,
        generated: FeatureSet,
        reference: ReferenceStatistics,
        settings: ScoreSettings,
        layer: str | None,
        partial: bool,
    ) -> None:
        self.generated = generated
        self.reference = reference
        self.settings = settings
        self._layer = layer
        self._partial = partial
        self._scores: dict[str, Score] = {}

    def score(self, name: str) -> Score:
        if name not in self._scores:
            for score in _FUNCTIONS[name](self):
                self._scores[score.name] = score
        return self._scores[name]

    def layer(self, name: str) -> str:
        if self._layer is not None:
            return self._layer
        layers = self.generated.extractor.layers
        preferred = _PREFERRED_LAYERS.get(name)
        return preferred if preferred in layers else next(iter(layers))

    def describe(
        self,
        name: str,
        num_reference: int | None,
        k: int | None = None,
        seed: int | None = None,
        **more: int | float | str,
    ) -> ScoreDescription:
        extractor = self.generated.extractor
        return ScoreDescription(
            name=name,
            extractor=extractor.name,
            extractor_digest=extractor.digest,
            layer=self.layer(name),
            image_size=extractor.image_size,
            resize=extractor.resize,
            reference=self.reference.digest,
            num_generated=len(self.generated),
            num_reference=num_reference,
            k=k,
            seed=seed,
            settings=more,
            partial=self._partial,
        )


def _frechet(run: _Run) -> list[Score]:
    rows = run.generated.layer(run.layer("fid"))
    reference = run.reference.gaussian(run.layer("fid"))
    value = frechet_distance(gaussian_statistics(rows, run.generated.source), reference)
    groups = run.settings.jackknife_groups
    error, method = None, "not computed"
    if groups and len(rows) >= 2 * groups:
        error = frechet_error(rows, reference, groups, run.settings.seed)
        method = f"jackknife over {groups} groups of samples; {groups} eigenvalue problems"
    elif groups:
        method = f"not computed: fewer than {2 * groups} samples"
    description = run.describe("fid", reference.count)
    return [
        Score(value=value, uncertainty=error, uncertainty_method=method, description=description)
    ]


def _precision_recall(run: _Run) -> list[Score]:
    rows = run.generated.layer(run.layer("precision"))
    reference = run.reference.rows(run.layer("precision"))
    k = run.settings.k
    result = precision_recall(rows, reference, k, run.settings.block_size)
    method = "sqrt(p (1 - p) / n): resampling of the judged side, manifold held fixed; no cost"
    return [
        Score(
            value=value,
            uncertainty=share_error(inside),
            uncertainty_method=method,
            description=run.describe(name, len(reference), k=k),
        )
        for name, value, inside in (
            ("precision", result.precision, result.generated_inside),
            ("recall", result.recall, result.reference_inside),
        )
    ]


_FUNCTIONS: dict[str, Callable[[_Run], list[Score]]] = {
    "fid": _frechet,
    "precision": _precision_recall,
    "recall": _precision_recall,
}
SCORE_NAMES = tuple(_FUNCTIONS)
