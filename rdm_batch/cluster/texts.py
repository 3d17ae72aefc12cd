"""Embed the texts and pictures of a job where there is room for their encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

import numpy as np
import torch
from jaxtyping import Float32

from rdm_batch.cluster.pool import Cluster, WorkerNeeds
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.inputs.images import open_images
from rdm_batch.specs.job import EncoderSpec

# The unit of work: fixed, so that no row ever depends on how many workers there are.
_PICTURES: Final = 64


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
        with _one_thread():
            return self._encoder.encode_texts(texts)


class PictureWorker:
    """Hold an image-text encoder and a collection of pictures, and embed them.

    Args:
        encoder: The encoder.
        location: The pictures, as ``open_images`` takes them.
        number: Number of this worker.
    """

    def __init__(self, encoder: EncoderSpec, location: str, number: int) -> None:
        self._encoder = load_named_encoder(encoder.name, encoder.weights)
        self._source, _ = open_images(location)

    def embed(self, part: range) -> Float32[np.ndarray, "pictures dim"]:
        """Embed a range of the pictures; rows are not normalized."""
        with _one_thread():
            return self._encoder.encode_images([self._source[index].image for index in part])


@contextmanager
def _one_thread() -> Iterator[None]:
    # A float sum depends on how many threads share it, and samples on these embeddings:
    # one thread everywhere, whatever machine this is.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
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


def embed_pictures(
    cluster: Cluster, encoder: EncoderSpec, location: str, count: int
) -> Float32[np.ndarray, "pictures dim"]:
    """Embed pictures by workers that end with the call, one for each CPU that has work.

    Args:
        cluster: Where to work.
        encoder: What embeds them.
        location: The pictures, as ``open_images`` takes them.
        count: How many there are, at least one.

    Raises:
        RdmBatchError: The encoder cannot be used, or a picture cannot be read.
    """
    parts = [range(start, min(start + _PICTURES, count)) for start in range(0, count, _PICTURES)]
    num_workers = max(1, min(int(cluster.resources.num_cpus), len(parts)))
    worker = partial(PictureWorker, encoder, location)
    rows: dict[int, Float32[np.ndarray, "_ dim"]] = {}
    with cluster.workers(worker, num_workers, WorkerNeeds()) as pool:
        embedded = pool.map(
            PictureWorker.embed, parts, where=lambda part: f"pictures {part[0]} to {part[-1]}"
        )
        for part, found in embedded:
            rows[part[0]] = found
    return np.concatenate([rows[part[0]] for part in parts])


class ClusterEmbedder:
    """Embed what a job conditions its samples on.

    Args:
        cluster: Where to work.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __call__(
        self, encoder: EncoderSpec, texts: tuple[str, ...]
    ) -> Float32[np.ndarray, "texts dim"]:
        """Embed texts; see ``embed_texts``."""
        return embed_texts(self._cluster, encoder, texts)

    def pictures(
        self, encoder: EncoderSpec, location: str, count: int
    ) -> Float32[np.ndarray, "pictures dim"]:
        """Embed pictures; see ``embed_pictures``."""
        return embed_pictures(self._cluster, encoder, location, count)
