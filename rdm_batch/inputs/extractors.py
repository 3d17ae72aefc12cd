"""From the extractor a job names to the extractor itself, and which scores it makes."""

from __future__ import annotations

from pathlib import Path

from rdm_batch.errors import MetricError
from rdm_batch.inputs.encoders import load_named_encoder, named_encoder_digest
from rdm_batch.metrics.features import EncoderFeatures, ExtractorDescription, FeatureExtractor
from rdm_batch.metrics.network_weights import missing_weights
from rdm_batch.metrics.networks import NETWORK_NAMES, describe_network, load_network_extractor
from rdm_batch.metrics.resize import TENSORFLOW_BILINEAR
from rdm_batch.specs.job import DatabaseSpec, EncoderSpec, EvaluationSpec, ExtractorSpec
from rdm_batch.specs.scores import SCORES
from rdm_batch.storage.object_store import local_path


def extractor_of(
    score: str, evaluation: EvaluationSpec, database: DatabaseSpec | None
) -> ExtractorSpec:
    """Choose the extractor of a score.

    What is measured where the database is searched takes its encoder. What is made with an
    image-text encoder takes the evaluation's, else its extractor where that is an encoder, else
    the database's. All others take the evaluation's extractor.

    Args:
        score: The score.
        evaluation: What is asked for.
        database: Where the samples' neighbors came from. None where it is not known.
    """
    searched = None if database is None else database.encoder
    own = evaluation.extractor
    match SCORES[score].features_of:
        case "database_encoder":
            return _as_extractor(searched or evaluation.encoder) or own
        case "encoder":
            if evaluation.encoder is None and own.name not in NETWORK_NAMES:
                return own
            return _as_extractor(evaluation.encoder or searched) or own
        case "extractor":
            return own


def scores_by_extractor(
    evaluation: EvaluationSpec, database: DatabaseSpec | None
) -> dict[ExtractorSpec, list[str]]:
    """Group scores by their extractor, in the order asked for."""
    groups: dict[ExtractorSpec, list[str]] = {}
    for score in evaluation.scores:
        groups.setdefault(extractor_of(score, evaluation, database), []).append(score)
    return groups


def _as_extractor(encoder: EncoderSpec | None) -> ExtractorSpec | None:
    return None if encoder is None else ExtractorSpec(name=encoder.name, weights=encoder.weights)


def load_extractor(spec: ExtractorSpec, device: str = "cpu") -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        spec: Its name, weights and resize.
        device: Where to compute.

    Raises:
        RdmBatchError: The weights are missing or not what the extractor needs, or its resize
            cannot be chosen.
    """
    if spec.name in NETWORK_NAMES:
        return load_network_extractor(
            spec.name, _weights(spec), spec.resize or TENSORFLOW_BILINEAR, device
        )
    _refuse_resize(spec)
    return EncoderFeatures(load_named_encoder(spec.name, spec.weights, device))


def extractor_digest(spec: ExtractorSpec) -> str:
    """Identify an extractor without loading it; arguments as ``load_extractor``."""
    if spec.name in NETWORK_NAMES:
        return describe_extractor(spec).digest
    _refuse_resize(spec)
    return named_encoder_digest(spec.name, spec.weights)


def describe_extractor(spec: ExtractorSpec) -> ExtractorDescription:
    """Describe Inception, VGG16 or DINOv2 without loading it; arguments as ``load_extractor``."""
    return describe_network(spec.name, _weights(spec), spec.resize or TENSORFLOW_BILINEAR)


def _weights(spec: ExtractorSpec) -> Path | None:
    if spec.weights is None:
        return None
    try:
        return local_path(spec.weights, error=MetricError)
    except MetricError as error:
        raise missing_weights(spec.name, f"{error.where} {error.found}") from error


def resize_of(spec: ExtractorSpec) -> str | None:
    """Name the resize of an extractor; None for image-text encoders, which have their own."""
    if spec.name not in NETWORK_NAMES:
        return None
    return spec.resize or TENSORFLOW_BILINEAR


def _refuse_resize(spec: ExtractorSpec) -> None:
    if spec.resize is not None:
        raise MetricError(
            f"extractor {spec.name}",
            f"resize {spec.resize!r} is asked for, but an image-text encoder has its own",
            "no resize",
            "leave it out",
        )
