"""Scores of edits, each with the standard error over the pictures that were edited."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64

from rdm_batch.errors import MetricError
from rdm_batch.metrics.edits import (
    BLOCKS,
    CHANGED_BLOCKS,
    NEUTRAL_TEXT,
    EditData,
    edit_directions,
    feature_distances,
    grouped_error,
)
from rdm_batch.metrics.evaluation import Evaluation
from rdm_batch.metrics.pairing import mean_influences
from rdm_batch.specs.scores import Score, ScoreDescription, ScoreKind

_METHOD = "standard error of the mean over sources, whose edits count together; no cost"


def edit_direction(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    """Compute the directional similarity of image-text embeddings; see ``Scorer``."""
    edits, layer = _edits(evaluation, kind), evaluation.layer_of(kind)
    texts = evaluation.side_data.texts
    if texts is None or edits.texts is None:
        raise _missing(kind)
    values = edit_directions(evaluation.rows(layer), edits.features[layer], texts, edits.texts)
    description = evaluation.describe(kind, layer, neutral=NEUTRAL_TEXT)
    return [_score(evaluation, values, edits, description)]


def preservation(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    """Compute the distance to the sources in features; see ``Scorer``."""
    edits, layer = _edits(evaluation, kind), evaluation.layer_of(kind)
    values = feature_distances(evaluation.rows(layer), edits.features[layer])
    description = evaluation.describe(kind, layer, distance="1 - cosine")
    return [_score(evaluation, values, edits, description)]


def preservation_outside(evaluation: Evaluation, kind: ScoreKind) -> list[Score]:
    """Compute the distance to the sources in pixels; see ``Scorer``."""
    edits, layer = _edits(evaluation, kind), evaluation.layer_of(kind)
    if edits.outside is None:
        raise _missing(kind)
    # Of pixels as they are stored: no extractor made it.
    made = evaluation.describe(kind, layer, blocks=BLOCKS * BLOCKS, left_out=CHANGED_BLOCKS)
    nothing = dict.fromkeys(("extractor", "extractor_digest", "layer", "image_size", "resize"))
    return [_score(evaluation, edits.outside, edits, made.model_copy(update=nothing))]


def _edits(evaluation: Evaluation, kind: ScoreKind) -> EditData:
    edits = evaluation.side_data.edits
    if edits is None:
        raise _missing(kind)
    return edits


def _missing(kind: ScoreKind) -> MetricError:
    return MetricError(
        kind.id,
        "it is not known what the samples are edits of",
        "a sample set of conditioning mode edit",
        f"leave {kind.id} out for samples that were made from nothing",
    )


def _score(
    evaluation: Evaluation,
    values: Float64[np.ndarray, " n"],
    edits: EditData,
    description: ScoreDescription,
) -> Score:
    evaluation.keep_influences(description.name, lambda: mean_influences(values))
    return Score(
        value=math.fsum(values) / len(values),
        uncertainty=grouped_error(values, np.array(edits.names)),
        uncertainty_method=_METHOD,
        description=description,
    )
