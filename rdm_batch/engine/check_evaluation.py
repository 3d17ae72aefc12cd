"""Check, before anything is generated, that a finished set can be scored as its job asks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

from rdm_batch.engine.score_extractors import OF_ENCODERS, extractor_of, scores_by_extractor
from rdm_batch.errors import MetricError, RdmBatchError, SpecError
from rdm_batch.inputs.extractors import extractor_digest, resize_of
from rdm_batch.inputs.references import OpenedReferences, Reference
from rdm_batch.metrics.compute import SCORE_NAMES
from rdm_batch.metrics.evaluation import LOGITS_LAYER, SPATIAL_LAYER, ScoreSettings
from rdm_batch.metrics.networks import NETWORK_NAMES
from rdm_batch.specs.job import DatabaseSpec, EvaluationSpec, ExtractorSpec, JobSpec

_DEFAULTS = ScoreSettings()
_LEAST_SAMPLES = {
    "precision": _DEFAULTS.k + 1,
    "recall": _DEFAULTS.k + 1,
    "density": _DEFAULTS.density_k + 1,
    "coverage": _DEFAULTS.density_k + 1,
    "is": _DEFAULTS.splits,
}
NEED_NO_REFERENCE = ("is", "clip_score", "novelty_neighbors", "novelty_database")
_NEED_FEATURES = ("precision", "recall", "density", "coverage", "kid", "novelty_held_out")
"""Scores that compare single samples with single reference images, not moments."""
_NEED_LAYER = {"is": LOGITS_LAYER, "sfid": SPATIAL_LAYER}


def unknown_scores(evaluation: EvaluationSpec) -> Iterator[SpecError]:
    """List the scores that do not exist, each with the one that may be meant."""
    for name in evaluation.scores:
        if name not in SCORE_NAMES:
            close = difflib.get_close_matches(name, SCORE_NAMES, n=1)
            yield SpecError(
                "evaluation.scores",
                f"{name!r} is not a score",
                f"one of {', '.join(SCORE_NAMES)}",
                f"did you mean {close[0]}?" if close else "",
            )


def check_scores(evaluation: EvaluationSpec, database: DatabaseSpec | None) -> None:
    """Refuse the first score that does not exist or needs another extractor.

    Args:
        evaluation: What is asked for.
        database: Where the samples' neighbors came from. None where it is not known.

    Raises:
        SpecError: There is no such score.
        MetricError: A score needs Inception and another extractor is named.
    """
    for problem in unknown_scores(evaluation):
        raise problem
    check_layers(evaluation, database)


def check_layers(evaluation: EvaluationSpec, database: DatabaseSpec | None) -> None:
    """Refuse scores of layers that the extractor does not have; arguments as ``check_scores``.

    Raises:
        MetricError: A score needs Inception, or an image-text encoder, and another extractor is
            named.
    """
    for name in evaluation.scores:
        chosen = extractor_of(name, evaluation, database)
        if name in OF_ENCODERS and chosen.name in NETWORK_NAMES:
            raise MetricError(
                "evaluation.scores",
                f"{name!r} is made with an image-text encoder, but {chosen.name} is none",
                "evaluation.encoder, or a database that names its encoder",
                f"name one, or leave out {name}",
            )
        layer = _NEED_LAYER.get(name)
        if layer is not None and evaluation.extractor.name != "inception-v3-compat":
            raise MetricError(
                "evaluation.scores",
                f"{name!r} is made from the layer {layer!r}, which {evaluation.extractor.name} "
                "does not have",
                "inception-v3-compat as extractor",
                f"name it in evaluation.extractor, or leave out {name}",
            )


def score_problems(spec: JobSpec) -> Iterator[SpecError]:
    """List the scores a job asks for that are not known, or that it cannot feed."""
    if spec.evaluation is None:
        return
    yield from unknown_scores(spec.evaluation)
    for name in spec.evaluation.scores:
        if name == "clip_score" and not spec.conditioning.follows_prompts:
            yield SpecError(
                "evaluation.scores",
                "clip_score compares samples with their prompts, but conditioning.mode is "
                f"{spec.conditioning.mode}",
                "text",
                "leave clip_score out",
            )
        least = _LEAST_SAMPLES.get(name, 2)
        if spec.sampling.num_samples < least:
            yield SpecError(
                "sampling.num_samples",
                f"is {spec.sampling.num_samples}, too few for the score {name!r}",
                f"at least {least}",
            )


def check_extractors(evaluation: EvaluationSpec, database: DatabaseSpec | None) -> None:
    """Check that the weights of every feature extractor are there; as ``check_scores``.

    Raises:
        RdmBatchError: Weights are not named or not there.
    """
    for extractor in scores_by_extractor(evaluation, database):
        extractor_digest(extractor)


def check_reference(
    evaluation: EvaluationSpec, database: DatabaseSpec | None, opened: OpenedReferences
) -> None:
    """Check that features of samples can be compared with the reference.

    Args:
        evaluation: What is asked for.
        database: Where the samples' neighbors came from. None where it is not known.
        opened: What the evaluation judges against.

    Raises:
        RdmBatchError: The reference belongs to another extractor, or lacks what a score needs.
    """
    for extractor, names in scores_by_extractor(evaluation, database).items():
        compared = [name for name in names if name not in NEED_NO_REFERENCE]
        if "novelty_held_out" in compared and opened.held_out is not None:
            compared.remove("novelty_held_out")
            _check_side("evaluation.held_out", opened.held_out, extractor, ["novelty_held_out"])
        if compared:
            _check_side("evaluation.reference", opened.reference, extractor, compared)


def _check_side(
    field: str, reference: Reference, extractor: ExtractorSpec, names: Sequence[str]
) -> None:
    """Check that a reference serves some scores of one extractor."""
    saved, digest = reference.statistics, _known_digest(extractor)
    if saved is not None and digest is not None and saved.extractor.digest != digest:
        of_encoder = any(name in OF_ENCODERS or name.startswith("novelty") for name in names)
        wanted = f"the encoder of {names[0]!r}" if of_encoder else "evaluation.extractor"
        raise MetricError(
            f"{field} {reference.uri}",
            f"holds features of {saved.extractor.name} "
            f"(digest {saved.extractor.digest[:12]}), but {wanted} is "
            f"{extractor.name} (digest {digest[:12]})",
            "one extractor on both sides",
            "build the reference again, name its extractor, or name the images themselves",
        )
    needy = [name for name in names if name in _NEED_FEATURES]
    if needy and not (reference.images or (saved and saved.features)):
        raise MetricError(
            f"{field} {reference.uri}",
            f"holds moments but no features, which the score {needy[0]!r} needs",
            "the features of the reference images",
            f"build it again with its features kept, or leave out {', '.join(needy)}",
        )
    if saved is None and not reference.images:
        reference.require_moments(extractor.name, resize_of(extractor))


def _known_digest(extractor: ExtractorSpec) -> str | None:
    """Identify an extractor; None where its weights are missing, which is reported elsewhere."""
    try:
        return extractor_digest(extractor)
    except RdmBatchError:
        return None
