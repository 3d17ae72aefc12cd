"""Embed the texts of a job where there is room for their encoder."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from jaxtyping import Float32

from rdm_batch.cluster.pool import Cluster, WorkerNeeds
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.specs.job import EncoderSpec


class TextWorker:
    """Hold an image-text encoder and embed texts with it.

    Args:
        encoder: The encoder.
        number: Number of this worker.
    """

    def __init__(self, encoder: EncoderSpec, number: int) -> None:
        self._encoder = load_named_encoder(encoder.name, encoder.weights)

    def embed(self, texts: tuple[str, ...]) -> Float32[np.ndarray, "texts dim"]:
        """Embed texts; rows are not normalized."""
        # A float sum depends on how many threads share it, and samples on these embeddings:
        # one thread everywhere, whatever machine this is.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._encoder.encode_texts(texts)
        finally:
            torch.set_num_threads(threads)


def embed_texts(
    cluster: Cluster, encoder: EncoderSpec, texts: tuple[str, ...]
) -> Float32[np.ndarray, "texts dim"]:
    """Embed texts by a worker that ends with the call.

    Args:
        cluster: Where to work.
        encoder: What embeds them.
        texts: The texts.

    Raises:
        RdmBatchError: The encoder cannot be used, or cannot read a text.
    """
    with cluster.workers(partial(TextWorker, encoder), 1, WorkerNeeds()) as pool:
        ((_, rows),) = pool.map(TextWorker.embed, [texts], where=lambda _: "database.encoder")
    return rows
