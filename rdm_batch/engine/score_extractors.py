"""Which network each score of an evaluation is made with."""

from __future__ import annotations

from rdm_batch.metrics.networks import NETWORK_NAMES
from rdm_batch.specs.job import DatabaseSpec, EncoderSpec, EvaluationSpec, ExtractorSpec

OF_ENCODERS = ("clip_fid", "clip_score")
"""Scores that take an image-text encoder, whatever the extractor of the others is."""


def extractor_of(
    name: str, evaluation: EvaluationSpec, database: DatabaseSpec | None
) -> ExtractorSpec:
    """Choose the extractor of a score.

    Novelty is measured where the database is searched. ``clip_fid`` and ``clip_score`` take the
    evaluation's encoder, else its extractor where that is an encoder, else the database's. All
    others take the evaluation's extractor.

    Args:
        name: The score.
        evaluation: What is asked for.
        database: Where the samples' neighbors came from. None where it is not known.
    """
    searched = None if database is None else database.encoder
    own = evaluation.extractor
    if name.startswith("novelty"):
        return _as_extractor(searched or evaluation.encoder) or own
    if name in OF_ENCODERS:
        if evaluation.encoder is None and own.name not in NETWORK_NAMES:
            return own
        return _as_extractor(evaluation.encoder or searched) or own
    return own


def scores_by_extractor(
    evaluation: EvaluationSpec, database: DatabaseSpec | None
) -> dict[ExtractorSpec, list[str]]:
    """Group scores by their extractor, in the order asked for."""
    groups: dict[ExtractorSpec, list[str]] = {}
    for name in evaluation.scores:
        groups.setdefault(extractor_of(name, evaluation, database), []).append(name)
    return groups


def _as_extractor(encoder: EncoderSpec | None) -> ExtractorSpec | None:
    return None if encoder is None else ExtractorSpec(name=encoder.name, weights=encoder.weights)
