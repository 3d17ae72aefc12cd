"""How near samples come to the pictures they were made from, beside unseen real pictures.

Distances are root mean square differences of pixels (0 to 255). A head that copied would
come nearer to its neighbors, the database or the training set than real pictures do that
neither has seen.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.world_cases import K_NN, World
from rdm_batch.datasets.shapes import ShapesSource

NUM_TRAINING = 50_000
_AT_ONCE = 5_000
Row = dict[str, str | float]


def measure_copying(world: World, images: np.ndarray, neighbor_ids: np.ndarray) -> list[Row]:
    """Measure distances of samples, and of as many real pictures distributed like X.

    Returns:
        One row for each of: the nearest conditioning neighbor, the nearest entry of D, and
        the nearest picture of X. ``as near as the nearest 1 % of real`` is the share of
        samples nearer than all but the nearest hundredth of real pictures: 0.01 is chance.
    """
    source = ShapesSource("reference", len(images))
    real = np.stack([source[index].image for index in range(len(images))])
    real_ids = world.database.search(world.encoder.encode_images(list(real)), K_NN).ids
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
