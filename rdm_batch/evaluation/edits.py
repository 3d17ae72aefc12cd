"""What the samples of a set are edits of: read once for the scores that ask."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Float64

from rdm_batch.errors import MetricError
from rdm_batch.inputs.image_sets import SampleImages
from rdm_batch.metrics.edits import NEUTRAL_TEXT, EditData, outside_distances
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.specs.scores import SCORES
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import SOURCE_CAPTION_COLUMN, SOURCE_COLUMN

_NAME_COLUMN = "query"

FeaturesOf = Callable[[SampleImages], FeatureSet]
"""Give the features of images, computed or kept."""
EmbedTexts = Callable[[Sequence[str]], Float32[np.ndarray, "n d"]]
"""Embed texts with the extractor's own text tower."""


def read_edits(
    samples: SampleImages, scores: Sequence[str], features_of: FeaturesOf, embed: EmbedTexts
) -> EditData:
    """Collect what some scores need of the sources of a set.

    Args:
        samples: The set, whose samples are edits.
        scores: Which scores.
        features_of: Gives the features of its sources.
        embed: Embeds what is said of them.
    """
    wanted = [score for score in scores if SCORES[score].edits]
    sources = SampleImages(samples.sample_set, samples.resize, SOURCE_COLUMN)
    columns = [_NAME_COLUMN, SOURCE_CAPTION_COLUMN]
    rows = [row for batch in samples.sample_set.iter_batches(columns) for row in batch.to_pylist()]
    said = [row[SOURCE_CAPTION_COLUMN] or NEUTRAL_TEXT for row in rows]
    texts = embed(said) if any(SCORES[score].prompts for score in wanted) else None
    outside = _outside(samples, sources) if "preservation_outside" in wanted else None
    names = tuple(row[_NAME_COLUMN] for row in rows)
    of_pixels_alone = wanted == ["preservation_outside"]
    features = {} if of_pixels_alone else features_of(sources).layers
    return EditData(features, names, texts, outside)


def require_edits(made: SampleSet, score: str) -> None:
    """Make sure that the samples of a set are edits.

    Raises:
        MetricError: They were made from nothing.
    """
    conditioning = made.header.spec.get("conditioning")
    if not isinstance(conditioning, dict) or conditioning.get("mode") != "edit":
        raise MetricError(
            f"{score} of {made.uri}",
            "its samples were made from nothing",
            "a sample set of conditioning mode edit",
            f"leave {score} out",
        )


def _outside(samples: SampleImages, sources: SampleImages) -> Float64[np.ndarray, " n"]:
    """Compare samples with their sources, pixel by pixel; both come in the same batches."""
    found = [
        outside_distances(images, before)
        for made, given in zip(samples.parts, sources.parts, strict=True)
        for (_, images), (_, before) in zip(
            samples.batches(made), sources.batches(given), strict=True
        )
    ]
    distances: Float64[np.ndarray, " n"] = np.concatenate(found)
    return distances
