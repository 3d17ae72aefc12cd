"""From the extractor a job names to the extractor itself."""

from __future__ import annotations

from pathlib import Path

from rdm_batch.engine.encoders import load_named_encoder, named_encoder_digest
from rdm_batch.errors import MetricError
from rdm_batch.metrics.features import EncoderFeatures, FeatureExtractor
from rdm_batch.metrics.networks import NETWORK_NAMES, describe_network, load_network_extractor
from rdm_batch.storage.object_store import local_path


def load_extractor(name: str, weights: str | None, device: str = "cpu") -> FeatureExtractor:
    """Load a feature extractor.

    Args:
        name: One of ``NETWORK_NAMES``, ``shapes-clip``, or an open_clip architecture.
        weights: URI of its weights; None for what ships with this package.
        device: Where to compute.

    Raises:
        RdmBatchError: The weights are missing or not what the extractor needs.
    """
    if name in NETWORK_NAMES:
        return load_network_extractor(name, _local(weights), device=device)
    return EncoderFeatures(load_named_encoder(name, weights, device))


def extractor_digest(name: str, weights: str | None) -> str:
    """Identify an extractor without loading it; arguments as ``load_extractor``."""
    if name in NETWORK_NAMES:
        return describe_network(name, _local(weights)).digest
    return named_encoder_digest(name, weights)


def _local(weights: str | None) -> Path | None:
    return None if weights is None else local_path(weights, error=MetricError)
