"""Features the tests of scores share."""

from __future__ import annotations

import numpy as np

from rdm_batch.metrics.features import ExtractorDescription, FeatureSet


def cloud(count: int, dim: int, seed: int, spread: float = 1.0) -> np.ndarray:
    """Draw features as networks make them: non-negative, correlated, far from the origin."""
    mix = np.random.default_rng(7).standard_normal((12, dim))
    rng = np.random.default_rng(seed)
    latent = spread * rng.standard_normal((count, 12)) @ mix
    return np.abs(latent + 0.3 * rng.standard_normal((count, dim)) + 1).astype(np.float32)


def describe(dim: int, digest: str = "ab" * 32) -> ExtractorDescription:
    """Describe an extractor of one layer."""
    return ExtractorDescription(
        name="test", digest=digest, image_size=32, resize="none", layers={"f": dim}
    )


def feature_set(features: np.ndarray, digest: str = "ab" * 32) -> FeatureSet:
    """Make a feature set of one layer."""
    ids = np.arange(len(features), dtype=np.int64)
    return FeatureSet(describe(features.shape[1], digest), ids, {"f": features}, "memory")


def layered_set(count: int, seed: int, dims: dict[str, int]) -> FeatureSet:
    """Make a feature set of several layers."""
    layers = {name: cloud(count, dim, seed) for name, dim in dims.items()}
    description = describe(1).model_copy(update={"layers": dims})
    return FeatureSet(description, np.arange(count, dtype=np.int64), layers, "memory")
