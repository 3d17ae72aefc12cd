"""FID, precision and recall of shapes-world samples, with the package's own scores."""

from __future__ import annotations

import numpy as np

from rdm_batch.metrics.frechet import frechet_distance
from rdm_batch.metrics.manifold_scores import manifold_scores
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.clip import OpenClipEncoder
from rdm_batch.storage.object_store import local_path


class Scorer:
    """Score pictures in the features of the world's encoder.

    Args:
        encoder: Gives the features.
        reference: Features of real pictures; None takes the shipped reference.
    """

    def __init__(self, encoder: OpenClipEncoder, reference: np.ndarray | None = None) -> None:
        if reference is None:
            shipped = ReferenceStatistics.load(local_path("package://shapes/reference.npz"))
            reference = shipped.rows(next(iter(shipped.features)))
        self._encoder = encoder
        self._reference = reference
        self._gaussian = gaussian_statistics(reference)

    def __call__(self, images: np.ndarray) -> dict[str, float]:
        """Give FID, precision and recall (k = 3, first as many real pictures as samples)."""
        features = self._encoder.encode_images(list(images)).astype(np.float32)
        fid = frechet_distance(gaussian_statistics(features), self._gaussian)
        scores = manifold_scores(features, self._reference[: len(features)])
        manifold = scores.precision_recall
        assert manifold is not None
        return {"fid": fid, "precision": manifold.precision, "recall": manifold.recall}
