"""Build a job's conditioner; texts are embedded on the cluster, not on the driver."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray
from jaxtyping import Float32

from rdm_batch.engine.conditioner import Conditioner
from rdm_batch.generation.modes import mode_of
from rdm_batch.generation.modes.mode import EmbedTexts
from rdm_batch.generation.preflight import CheckedJob
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.pipelines.generate import result_of
from rdm_batch.specs.job import EncoderSpec


@ray.remote(num_cpus=1)
def _embed_texts(encoder: EncoderSpec, texts: tuple[str, ...]) -> Float32[np.ndarray, "texts dim"]:
    return load_named_encoder(encoder.name, encoder.weights).encode_texts(texts)


def embed_on_cluster(encoder: EncoderSpec, texts: tuple[str, ...]) -> Any:
    """Embed texts on whichever node has a CPU free; see ``EmbedTexts``."""
    return result_of(_embed_texts.remote(encoder, texts), "database.encoder")


def build_conditioner(job: CheckedJob, embed: EmbedTexts) -> Conditioner:
    """Build what conditions the samples of a job.

    Args:
        job: The job.
        embed: Embeds its texts, where it has any.

    Raises:
        RdmBatchError: The encoder cannot be used.
    """
    return mode_of(job.spec.conditioning).build_conditioner(job, embed)
