"""From a sample's uniform draws and queries to the context its head receives.

The modes are those of RDM (arXiv:2204.11824, Section 3) and KNN-Diffusion
(arXiv:2204.02849). Every function treats each sample by itself, so a sample's context
never depends on its batch. Contexts hold embeddings as stored, not normalized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from rdm_batch.errors import DatabaseError
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.merge import Neighbors, order_by_score
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.retrieval.scores import score_pairs
from rdm_batch.retrieval.shard import check_dim

ContextVariant = Literal["query", "query_and_neighbors", "neighbors"]


@dataclass(frozen=True)
class Conditioning:
    """Hold what a batch of samples is conditioned on, with its provenance.

    Attributes:
        context: The tokens a head attends to, cast to float32.
        neighbor_ids: Database rows in the context, best first; fewer than the context's
            tokens where the query itself is one of them, none where it is alone.
        neighbor_scores: Cosine similarity of these rows to the query; NaN where rows were
            given without a query.
        query_ids: Database row of each pseudo-query; None where queries are not rows.
    """

    context: Float32[np.ndarray, "n tokens dim"]
    neighbor_ids: Int64[np.ndarray, "n found"]
    neighbor_scores: Float32[np.ndarray, "n found"]
    query_ids: Int64[np.ndarray, " n"] | None = None


def unconditional(
    retriever: Retriever,
    query_ids: Int64[np.ndarray, " n"],
    k_nn: int,
) -> Conditioning:
    """Take the k nearest rows of a pseudo-query per sample as the context.

    Args:
        retriever: The database.
        query_ids: Rows that are the pseudo-queries, as ``Proposal`` draws them.
        k_nn: Tokens per context; the pseudo-query itself leads them, unless other rows of its
            very direction take all places.
    """
    queries = retriever.fetch(query_ids)
    found = with_own_rows(retriever.search(queries, k_nn), query_ids, queries)
    return Conditioning(found.embeddings, found.ids, found.scores, query_ids)


def with_own_rows(
    found: Neighbors,
    query_ids: Int64[np.ndarray, " n"],
    queries: Float32[np.ndarray, "n dim"],
    removed: Int64[np.ndarray, " gone"] | None = None,
) -> Neighbors:
    """Put rows that were searched for among their neighbors, where an index has missed them.

    Nothing else can be closer to a row than itself. An exact search gives it already.

    Args:
        found: What the search gave.
        query_ids: The rows.
        queries: Their embeddings.
        removed: Rows that no search may give. None: none of these was removed.
    """
    missing = np.flatnonzero((found.ids != query_ids[:, None]).all(axis=1))
    if removed is not None:
        missing = missing[np.isin(query_ids[missing], removed, invert=True)]
    if not len(missing):
        return found
    own = score_pairs(queries, queries, missing, missing)
    ids = np.concatenate([query_ids[missing, None], found.ids[missing]], axis=1)
    scores = np.concatenate([own[:, None], found.scores[missing]], axis=1)
    rows = np.concatenate([queries[missing, None], found.embeddings[missing]], axis=1)
    order = order_by_score(ids, scores)[:, :-1]
    whole = Neighbors(found.ids.copy(), found.scores.copy(), found.embeddings.copy())
    whole.ids[missing] = np.take_along_axis(ids, order, axis=1)
    whole.scores[missing] = np.take_along_axis(scores, order, axis=1)
    whole.embeddings[missing] = np.take_along_axis(rows, order[:, :, None], axis=1)
    return whole


def from_queries(
    retriever: Retriever,
    queries: Float32[np.ndarray, "n dim"],
    k_nn: int,
    variant: ContextVariant,
) -> Conditioning:
    """Condition on text or image embeddings, their neighbors, or both.

    Args:
        retriever: The database.
        queries: Text or image embeddings, not normalized, one per sample.
        k_nn: Tokens per context; ``query`` repeats the query to fill them.
        variant: The query alone, the query and its k - 1 nearest rows, or its k nearest
            rows without the query.
    """
    check_embeddings(queries, "queries")
    check_dim(queries.shape[1], retriever.dim, "database")
    wanted = {"query": 0, "query_and_neighbors": k_nn - 1, "neighbors": k_nn}[variant]
    own = np.repeat(queries[:, None, :], k_nn - wanted, axis=1)
    if wanted == 0:
        none = np.empty((len(queries), 0))
        return Conditioning(own, none.astype(np.int64), none.astype(np.float32))
    found = retriever.search(queries, wanted)
    return Conditioning(np.concatenate([own, found.embeddings], axis=1), found.ids, found.scores)


def class_prompt(label: str, template: str = "An image of a {label}.") -> str:
    """Fill a class label into the prompt whose neighbors form the class's pool."""
    return template.replace("{label}", label)


def class_pools(
    retriever: Retriever, prompt_embeddings: Float32[np.ndarray, "classes dim"], pool_size: int
) -> Neighbors:
    """Retrieve the pool of each class: the ``pool_size`` nearest rows of its prompt."""
    return retriever.search(prompt_embeddings, pool_size)


def from_class_pools(
    pools: Neighbors,
    labels: Int64[np.ndarray, " n"],
    uniforms: Float64[np.ndarray, "n k"],
) -> Conditioning:
    """Draw k rows of its class's pool for each sample, without replacement.

    Args:
        pools: One pool per class, of :func:`class_pools`.
        labels: Class position of each sample.
        uniforms: k numbers in [0, 1) per sample; k is at most the pool size.

    Raises:
        DatabaseError: k exceeds the pool size, or a label has no pool.
    """
    if len(labels) and not (labels.min() >= 0 and labels.max() < len(pools.ids)):
        raise DatabaseError(
            "class pools", f"label {int(labels.max())}", f"0 <= label < {len(pools.ids)}"
        )
    picked = draw_without_replacement(uniforms, pools.ids.shape[1])
    rows = labels[:, None]
    return Conditioning(
        pools.embeddings[rows, picked], pools.ids[rows, picked], pools.scores[rows, picked]
    )


def draw_without_replacement(
    uniforms: Float64[np.ndarray, "n k"], size: int
) -> Int64[np.ndarray, "n k"]:
    """Choose k of ``size`` positions per sample by a partial Fisher-Yates shuffle.

    Every subset is equally likely. Positions are given in rising order, which in a pool
    means best first; heads attend to a set, so the order carries no information.

    Raises:
        DatabaseError: k exceeds ``size``.
    """
    count, k = uniforms.shape
    if k > size:
        raise DatabaseError("class pools", f"k_nn = {k} of a pool of {size}", "k_nn <= pool size")
    deck = np.tile(np.arange(size, dtype=np.int64), (count, 1))
    samples = np.arange(count)
    for place in range(k):
        other = place + np.floor(uniforms[:, place] * (size - place)).astype(np.int64)
        deck[samples, place], deck[samples, other] = deck[samples, other], deck[samples, place]
    chosen: Int64[np.ndarray, "n k"] = np.sort(deck[:, :k], axis=1)
    return chosen


def given_rows(retriever: Retriever, row_ids: Int64[np.ndarray, "n k"]) -> Conditioning:
    """Condition on database rows chosen by the caller.

    Raises:
        DatabaseError: A row does not exist.
    """
    context = retriever.fetch(row_ids.ravel()).reshape(*row_ids.shape, retriever.dim)
    return Conditioning(context, row_ids, np.full(row_ids.shape, np.nan, dtype=np.float32))


def given_embeddings(embeddings: Float[np.ndarray, "n k dim"], dim: int) -> Conditioning:
    """Condition on embeddings supplied by the caller.

    Raises:
        DatabaseError: The width is not ``dim``, or an embedding has no direction.
    """
    check_dim(embeddings.shape[2], dim, "given embeddings")
    check_embeddings(embeddings.reshape(-1, dim), "given embeddings")
    none = np.empty((len(embeddings), 0))
    return Conditioning(
        embeddings.astype(np.float32), none.astype(np.int64), none.astype(np.float32)
    )
