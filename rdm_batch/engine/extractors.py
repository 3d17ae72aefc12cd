"""From the extractor a job names to the extractor itself."""

from __future__ import annotations

from rdm_batch.engine.encoders import load_named_encoder, named_encoder_digest
from rdm_batch.metrics.features import EncoderFeatures, FeatureExtractor


def load_extractor(name: str, weights: str | None, device: str = "cpu") -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: ``shapes-clip`` or an open_clip architecture.
        weights: URI of its weights; None for what ships with this package.
        device: Where to compute.

    Raises:
        RdmBatchError: The weights are missing or not what the extractor needs.
    """
    return EncoderFeatures(load_named_encoder(name, weights, device))


def extractor_digest(name: str, weights: str | None) -> str:
    """Identify an extractor without loading it; arguments as ``load_extractor``."""
    return named_encoder_digest(name, weights)
