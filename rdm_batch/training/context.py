"""What a head is shown beside each training image: its neighbors, or nothing."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from rdm_batch.errors import DatabaseError, SpecError
from rdm_batch.heads.head import no_context
from rdm_batch.inputs.databases import Database
from rdm_batch.models.clip import ImageTextEncoder, load_encoder
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.rows import shard_rows
from rdm_batch.specs.training import HeadTraining, KnnEditTraining, KnnTraining, NeighborTraining
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.content import content_of, pixels_of, some_rows
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.pictures import NUM_PREVIEWED
from rdm_batch.training.queries import QueryDisturbance


@runtime_checkable
class TrainingContext(Protocol):
    """Gives the context of training images."""

    def __call__(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch k_nn dim"]:
        """Give the context of the training images in ``rows``."""
        ...


class NeighborContext:
    """Show the nearest database entries, and to a share of the examples zeros.

    Args:
        neighbor_ids: Database rows nearest to each training image, best first.
        embeddings: Database embeddings, as stored (not normalized).
        k_train: Neighbors given, the first of ``neighbor_ids``.
        zero_share: Share of the examples whose context is zero, for guidance.
    """

    def __init__(
        self,
        neighbor_ids: Int64[Tensor, "image k"],
        embeddings: Float[Tensor, "row dim"],
        k_train: int,
        zero_share: float,
    ) -> None:
        self._neighbor_ids = neighbor_ids
        self._embeddings = embeddings
        self._k_train = k_train
        self._zero_share = zero_share

    @property
    def nearest(self) -> Int64[Tensor, " image"]:
        """Give the database row nearest to each training image."""
        return self._neighbor_ids[:, 0]

    def __call__(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch k_nn dim"]:
        """Give the neighbors of the training images in ``rows``."""
        without = torch.rand(rows.shape, generator=generator) < self._zero_share
        context = self._embeddings[self._neighbor_ids[rows][:, : self._k_train]]
        return context.masked_fill(without[:, None, None], 0.0)


class QueryContext:
    """Show an image's own embedding, then its neighbors, and to a share of the examples zeros.

    KNN-Diffusion (arXiv:2204.02849): the image's embedding stands where the text's will.

    Args:
        queries: Embedding of every training image, not normalized.
        neighbors: Gives the neighbors; None gives none.
        zero_share: Share of the examples whose context is zero, for guidance.
        disturbance: What is done to queries first; None leaves them.
    """

    def __init__(
        self,
        queries: Float[Tensor, "image dim"],
        neighbors: NeighborContext | None,
        zero_share: float,
        disturbance: QueryDisturbance | None = None,
    ) -> None:
        self._queries = queries
        self._neighbors = neighbors
        self._zero_share = zero_share
        self._disturbance = disturbance

    @property
    def nearest(self) -> Int64[Tensor, " image"] | None:
        """Give the database row nearest to each training image; None without neighbors."""
        return None if self._neighbors is None else self._neighbors.nearest

    def __call__(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch entry dim"]:
        """Give the query and the neighbors of the training images in ``rows``."""
        without = torch.rand(rows.shape, generator=generator) < self._zero_share
        context = self._queries[rows][:, None]
        if self._neighbors is not None:
            context = torch.cat([context, self._neighbors(rows, generator)], dim=1)
        if self._disturbance is not None:
            context[:, 0] = self._disturbance(context[:, 0], self._queries, generator)
        return context.masked_fill(without[:, None, None], 0.0)


class DrawnContext(NeighborContext):
    """Show some of an image's nearest entries at random behind their mean, or zeros.

    What a text and its neighbors look like: alike in what the text says, different in the rest.
    The ``k_train`` entries are drawn from all of ``neighbor_ids``.
    """

    def __call__(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch entry dim"]:
        """Give the mean and the neighbors of the training images in ``rows``."""
        without = torch.rand(rows.shape, generator=generator) < self._zero_share
        found = self._neighbor_ids[rows]
        drawn = torch.rand(found.shape, generator=generator).argsort(dim=1)[:, : self._k_train]
        shown = self._embeddings[found.gather(1, drawn)]
        context = torch.cat([shown.mean(dim=1, keepdim=True), shown], dim=1)
        return context.masked_fill(without[:, None, None], 0.0)


class NoContext:
    """Show a single entry of zeros, as a fully parametric head sees it when it generates.

    Args:
        dim: Width of the context.
    """

    def __init__(self, dim: int) -> None:
        self._dim = dim

    def __call__(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> Float[Tensor, "batch 1 dim"]:
        """Give zeros for each of ``rows``."""
        return torch.zeros(len(rows), 1, self._dim)


def training_context(
    spec: HeadTraining, images: TrainingImages
) -> tuple[TrainingContext, Float32[np.ndarray, "image k_nn dim"]]:
    """Give the context of training, and that of the first images for pictures.

    Raises:
        SpecError: The settings do not fit the database.
        CheckpointError: The encoder's weights are missing or do not fit.
        DatabaseError: The database is damaged or was built with another encoder.
    """
    if not isinstance(spec, NeighborTraining):
        dim = spec.context_dim
        return NoContext(dim), no_context(min(NUM_PREVIEWED, len(images)), dim)
    encoder_path = spec.encoder
    if encoder_path.endswith(".safetensors"):
        encoder_path = str(local_path(encoder_path))
    weights = None if spec.encoder_weights is None else local_path(spec.encoder_weights)
    encoder = load_encoder(encoder_path, weights, spec.optimization.device)
    embeddings = _read_database(spec, encoder)
    queries = encoder.encode_images(list(images.pixels.numpy()))
    if isinstance(spec, KnnTraining):
        if isinstance(spec, KnnEditTraining) and spec.context == "content":
            return _content_context(spec, embeddings, queries, images)
        return _query_context(spec, embeddings, queries)
    neighbor_ids, _ = exact_top_k(embeddings, queries, spec.neighbors_found)
    context = NeighborContext(
        torch.from_numpy(neighbor_ids),
        torch.from_numpy(embeddings),
        spec.k_train,
        spec.zero_share,
    )
    return context, embeddings[neighbor_ids[:NUM_PREVIEWED, : spec.k_train]]


def _query_context(
    spec: KnnTraining,
    embeddings: Float32[np.ndarray, "row dim"],
    queries: Float32[np.ndarray, "image dim"],
) -> tuple[TrainingContext, Float32[np.ndarray, "shown entry dim"]]:
    """Find the neighbors of every image but itself, should the database hold it."""
    own = torch.from_numpy(queries)
    shown = queries[:NUM_PREVIEWED, None]
    disturbance = QueryDisturbance.of(spec)
    if spec.k_train == 0:
        return QueryContext(own, None, spec.zero_share, disturbance), shown
    found = min(spec.neighbors_found + 1, len(embeddings))
    neighbor_ids, scores = exact_top_k(embeddings, queries, found)
    neighbor_ids = _without_itself(neighbor_ids, scores)
    neighbors = NeighborContext(
        torch.from_numpy(neighbor_ids), torch.from_numpy(embeddings), spec.k_train, 0.0
    )
    shown_neighbors = embeddings[neighbor_ids[:NUM_PREVIEWED, : spec.k_train]]
    context = QueryContext(own, neighbors, spec.zero_share, disturbance)
    return context, np.concatenate([shown, shown_neighbors], axis=1)


def _content_context(
    spec: KnnEditTraining,
    embeddings: Float32[np.ndarray, "row dim"],
    queries: Float32[np.ndarray, "image dim"],
    images: TrainingImages,
) -> tuple[TrainingContext, Float32[np.ndarray, "shown entry dim"]]:
    """Find the rows nearest to the content of every image."""
    seen = some_rows(len(embeddings), spec.optimization.seed)
    shown = pixels_of(spec.database, seen, images.pixels.shape[1])
    content = content_of(queries, images.pixels.numpy(), embeddings[seen], shown)
    nearest, scores = exact_top_k(embeddings, queries, 1)
    itself = np.where(_is_itself(scores[:, 0]), nearest[:, 0], -1)
    found = min(spec.neighbors_found + 1, len(embeddings))
    neighbor_ids = _without(exact_top_k(embeddings, content, found)[0], itself)
    context = DrawnContext(
        torch.from_numpy(neighbor_ids), torch.from_numpy(embeddings), spec.k_train, spec.zero_share
    )
    generator = torch.Generator().manual_seed(spec.optimization.seed)
    first = torch.arange(min(NUM_PREVIEWED, len(queries)))
    return context, context(first, generator).numpy()


def _without_itself(
    neighbor_ids: Int64[np.ndarray, "image k"], scores: Float32[np.ndarray, "image k"]
) -> Int64[np.ndarray, "image found"]:
    """Drop an image's nearest entry where it is the image itself, else its last."""
    return _without(neighbor_ids, np.where(_is_itself(scores[:, 0]), neighbor_ids[:, 0], -1))


def _is_itself(scores: Float32[np.ndarray, " image"]) -> Bool[np.ndarray, " image"]:
    """Say whether the nearest entry of an image is the image itself.

    Embeddings of one image made in batches of other shapes differ in their last digits; those
    of two images that look alike differ by far more.
    """
    itself: Bool[np.ndarray, " image"] = scores > 1 - 1e-6
    return itself


def _without(
    neighbor_ids: Int64[np.ndarray, "image k"], itself: Int64[np.ndarray, " image"]
) -> Int64[np.ndarray, "image found"]:
    """Drop one entry of every image: a given one where it is there, else the last."""
    dropped = neighbor_ids == itself[:, None]
    dropped[:, -1] |= ~dropped.any(axis=1)
    return neighbor_ids[~dropped].reshape(len(neighbor_ids), -1)


def _read_database(
    spec: NeighborTraining, encoder: ImageTextEncoder
) -> Float32[np.ndarray, "row dim"]:
    database = Database.open(spec.database)
    manifest = database.manifest
    if manifest.encoder.digest != encoder.digest:
        raise DatabaseError(
            spec.database,
            f"embedded by {manifest.encoder.name} {(manifest.encoder.digest or 'unknown')[:12]}",
            f"{encoder.name} {encoder.digest[:12]}, the encoder of this training",
            "build the database again or name its encoder",
        )
    if manifest.dim != spec.context_dim:
        raise SpecError(
            "context_dim", f"{spec.context_dim}", f"{manifest.dim}, the width of the database"
        )
    if not spec.k_train <= spec.neighbors_found <= manifest.rows:
        found = f"k_train {spec.k_train}, neighbors_found {spec.neighbors_found}"
        raise SpecError(
            "k_train", found, f"k_train <= neighbors_found <= {manifest.rows:,} database rows"
        )
    root = database.root(range(len(manifest.shards)))
    shards = [shard_rows(root, shard, manifest) for shard in manifest.shards]
    return np.concatenate(shards).astype(np.float32)
