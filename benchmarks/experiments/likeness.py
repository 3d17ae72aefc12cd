"""How samples lie to real pictures: their scores, and how near they come to what made them.

Distances are root mean square differences of pixels (0 to 255). A head that copied would
come nearer to its neighbors, the database or the training set than real pictures do that
neither has seen. Scores are the package's own, in the features of the world's encoder.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.assemble import K_NN
from benchmarks.experiments.cases import World
from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.metrics.manifold_scores import manifold_scores
from rdm_batch.metrics.moments import gaussian_statistics
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.metrics.resampling import estimate_frechet
from rdm_batch.models.clip import OpenClipEncoder
from rdm_batch.storage.object_store import local_path

NUM_TRAINING = 50_000
_AT_ONCE = 5_000
Row = dict[str, str | float]


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
        """Give FID, precision and recall (k = 3, first as many real pictures as samples).

        Beside FID stands its standard error over the samples.
        """
        features = self._encoder.encode_images(list(images)).astype(np.float32)
        fid = estimate_frechet(features, self._gaussian)
        scores = manifold_scores(features, self._reference[: len(features)])
        manifold = scores.precision_recall
        assert manifold is not None
        return {
            "fid": fid.value,
            "fid error": fid.error,
            "precision": manifold.precision,
            "recall": manifold.recall,
        }


def measure_copying(world: World, images: np.ndarray, neighbor_ids: np.ndarray) -> list[Row]:
    """Measure distances of samples, and of as many real pictures distributed like X.

    Returns:
        One row for each of: the nearest conditioning neighbor, the nearest entry of D, and
        the nearest picture of X. ``as near as the nearest 1 % of real`` is the share of
        samples nearer than all but the nearest hundredth of real pictures: 0.01 is chance.
    """
    source = ShapesSource("reference", len(images))
    real = np.stack([source[index].image for index in range(len(images))])
    real_ids = world.source.retriever.search(world.encoder.encode_images(list(real)), K_NN).ids
    database = _pictures(world.pictures, 0, len(world.pictures))
    training = ShapesSource("train", NUM_TRAINING)
    rows: list[Row] = []
    for name, of_samples, of_real in (
        (
            "conditioning neighbors",
            _to_given(images, database, neighbor_ids),
            _to_given(real, database, real_ids),
        ),
        ("database", *_to_nearest((images, real), world.pictures)),
        ("training set", *_to_nearest((images, real), training)),
    ):
        limit = np.quantile(of_real, 0.01)
        rows.append(
            {
                "case": name,
                "samples, median": float(np.median(of_samples)),
                "real, median": float(np.median(of_real)),
                "samples, lowest 1 %": float(np.quantile(of_samples, 0.01)),
                "real, lowest 1 %": float(limit),
                "as near as the nearest 1 % of real": float(np.mean(of_samples <= limit)),
            }
        )
    return rows


def _pictures(source: ShapesSource, start: int, stop: int) -> np.ndarray:
    return np.stack([source[index].image for index in range(start, stop)])


def _to_given(images: np.ndarray, database: np.ndarray, ids: np.ndarray) -> np.ndarray:
    difference = images[:, None].astype(np.float32) - database[ids].astype(np.float32)
    distances: np.ndarray = np.sqrt(np.square(difference).mean(axis=(2, 3, 4))).min(axis=1)
    return distances


def _to_nearest(sets: tuple[np.ndarray, ...], source: ShapesSource) -> list[np.ndarray]:
    flat = [torch.from_numpy(images.reshape(len(images), -1)).float() for images in sets]
    nearest = [torch.full((len(images),), float("inf")) for images in sets]
    for start in range(0, len(source), _AT_ONCE):
        part = _pictures(source, start, min(start + _AT_ONCE, len(source)))
        rows = torch.from_numpy(part.reshape(len(part), -1)).float()
        for mine, images in zip(nearest, flat, strict=True):
            torch.minimum(mine, torch.cdist(images, rows).amin(dim=1), out=mine)
    width = flat[0].shape[1]
    return [(distances / width**0.5).numpy() for distances in nearest]
