"""Check, before anything is generated, that a finished set can be scored as its job asks."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from rdm_batch.engine.extractors import extractor_digest, resize_of
from rdm_batch.engine.references import open_reference
from rdm_batch.errors import MetricError, SpecError
from rdm_batch.metrics.compute import SCORE_NAMES
from rdm_batch.metrics.evaluation import LOGITS_LAYER, SPATIAL_LAYER, ScoreSettings
from rdm_batch.specs.job import EvaluationSpec, JobSpec

_DEFAULTS = ScoreSettings()
_LEAST_SAMPLES = {
    "precision": _DEFAULTS.k + 1,
    "recall": _DEFAULTS.k + 1,
    "density": _DEFAULTS.density_k + 1,
    "coverage": _DEFAULTS.density_k + 1,
    "is": _DEFAULTS.splits,
}
_NEED_FEATURES = ("precision", "recall", "density", "coverage", "kid")
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


def check_scores(evaluation: EvaluationSpec) -> None:
    """Refuse the first score that does not exist or needs another extractor.

    Raises:
        SpecError: There is no such score.
        MetricError: A score needs Inception and another extractor is named.
    """
    for problem in unknown_scores(evaluation):
        raise problem
    check_layers(evaluation)


def check_layers(evaluation: EvaluationSpec) -> None:
    """Refuse scores of layers that the extractor does not have.

    Raises:
        MetricError: A score needs Inception and another extractor is named.
    """
    for name in evaluation.scores:
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
        if name == "clip_score" and spec.conditioning.mode != "text":
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


def check_extractor(spec: JobSpec) -> str | None:
    """Give the digest of a job's feature extractor; None where the job computes no scores.

    Raises:
        RdmBatchError: Its weights are not named or not there.
    """
    return None if spec.evaluation is None else extractor_digest(spec.evaluation.extractor)


def check_reference(spec: JobSpec, extractor: str | None) -> None:
    """Check that the features of a finished set can be compared with the reference.

    Args:
        spec: The job.
        extractor: Digest of its feature extractor; None where that has not been found.

    Raises:
        RdmBatchError: The reference is missing or damaged, belongs to another extractor, or
            lacks what a score needs.
    """
    evaluation = spec.evaluation
    if evaluation is None:
        return
    check_layers(evaluation)
    reference = open_reference(evaluation.reference)
    saved = reference.statistics
    if saved is not None and extractor is not None and saved.extractor.digest != extractor:
        raise MetricError(
            f"evaluation.reference {evaluation.reference}",
            f"holds features of {saved.extractor.name} "
            f"(digest {saved.extractor.digest[:12]}), but evaluation.extractor is "
            f"{evaluation.extractor.name} (digest {extractor[:12]})",
            "one extractor on both sides",
            "build the reference again, or name its extractor",
        )
    needy = [name for name in evaluation.scores if name in _NEED_FEATURES]
    if needy and not (reference.images or (saved and saved.features)):
        raise MetricError(
            f"evaluation.reference {evaluation.reference}",
            f"holds moments but no features, which the score {needy[0]!r} needs",
            "the features of the reference images",
            f"build it again with its features kept, or leave out {', '.join(needy)}",
        )
    if saved is None and not reference.images:
        reference.require_moments(evaluation.extractor.name, resize_of(evaluation.extractor))
