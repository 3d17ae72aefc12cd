"""Tune how hard a partitioned shard is searched, for each kind of query it will be asked with.

A share of leaves that finds every neighbor of a picture may miss those of a text: texts lie beside
the pictures, not among them, and their neighbors are spread over more leaves (big-ann-benchmarks
2021 and 2023). Each kind is therefore tuned, and its recall stated, on queries of its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from rdm_batch.retrieval.database import SearchLatency, TunedSearch
from rdm_batch.retrieval.embeddings import score_candidates, unit_rows
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.index import ShardIndex
from rdm_batch.retrieval.shard import SPARE_CANDIDATES, ShardSearcher
from rdm_batch.specs.database import IndexSettings, Queries

TUNED_K = 20
NUM_QUERIES = 256
"""Queries of a kind that the search is tuned on, and as many others that it is measured on."""
_NUM_TIMED = 64
_SEED = 20
_GAP = 0.82
"""Distance between the centers of unit embeddings of pictures and of their captions, as measured
for CLIP ViT-B/32 (Liang et al. 2022, arXiv:2203.02053, Section 2)."""
_SPREAD = 0.5
"""Length by which each caption lies aside of its picture, beyond the gap that all share."""
_CANDIDATES = (40, 64, 100, 150, 200, 300, 400, 600, 800)
_ROWS_PER_CANDIDATE = 15
"""Rows whose codes are looked at in the time it takes to rescore one candidate, measured."""
_FEWEST_SHARE, _STEP = 0.002, 1.15


@dataclass(frozen=True)
class HeldOut:
    """Queries of one kind.

    Attributes:
        kind: Which kind.
        source: Where they come from.
        queries: Their embeddings.
        own: Position of the row each was made of and must not count; -1 where it may.
    """

    kind: Queries
    source: str
    queries: Float32[np.ndarray, "n dim"]
    own: Int64[np.ndarray, " n"]

    def part(self, number: int) -> HeldOut:
        """Give every second query, beginning with one of the first two."""
        return HeldOut(self.kind, self.source, self.queries[number::2], self.own[number::2])


def chosen_rows(rows: int) -> Int64[np.ndarray, " n"]:
    """Choose the rows of a shard that queries are made of: the same ones each time."""
    order = np.random.default_rng(_SEED).permutation(rows)
    return np.sort(order[: min(2 * NUM_QUERIES, rows // 2)])


def held_out(
    embeddings: Float[np.ndarray, "rows dim"], captions: Float32[np.ndarray, "texts dim"] | None
) -> tuple[HeldOut, HeldOut]:
    """Make queries of both kinds for a shard.

    Pictures are rows of the shard, each judged by its other neighbors. Texts are captions of the
    database where it has them; else pictures moved by the gap between pictures and texts.

    Args:
        embeddings: Rows of the shard.
        captions: Embeddings of captions. None where there are none, or no encoder that reads.
    """
    chosen = chosen_rows(len(embeddings))
    pictures = embeddings[chosen].astype(np.float32)
    nobody = np.full(len(chosen), -1)
    if captions is not None:
        nobody = np.full(len(captions), -1)
        texts = HeldOut("texts", "captions of the database", captions, nobody)
    else:
        texts = HeldOut("texts", "rows moved by the gap of CLIP", moved(pictures), nobody)
    return HeldOut("pictures", "rows, each without itself", pictures, chosen), texts


def moved(pictures: Float32[np.ndarray, "n dim"]) -> Float32[np.ndarray, "n dim"]:
    """Move pictures to where texts would lie: one gap for all, and each a little aside."""
    random, dim = np.random.default_rng(_SEED + 1), pictures.shape[1]
    gap = random.normal(size=dim)
    aside = random.normal(size=pictures.shape) / np.sqrt(dim)
    texts = unit_rows(pictures) + _GAP * gap / np.linalg.norm(gap) + _SPREAD * aside
    like_texts: Float32[np.ndarray, "n dim"] = texts.astype(np.float32)
    return like_texts


def tune(
    index: ShardIndex, embeddings: Float[np.ndarray, "rows dim"], asked: HeldOut, target: float
) -> TunedSearch:
    """Find the least effort that reaches a recall, and measure it on queries it was not tuned on.

    Args:
        index: The index, with the settings asked for: leaves to search where they are fixed, and
            the most candidates there may be.
        embeddings: Rows of the shard.
        asked: Queries of one kind.
        target: Recall@20 to reach. Where nothing does, all leaves are searched.
    """
    k = min(TUNED_K, len(embeddings) - 1)
    learned, judged = asked.part(0), asked.part(1)
    settings = index.settings
    if settings.leaves_to_search is None:
        settings = _least_effort(index, embeddings, learned, k, target)
    truth = _truth(embeddings, judged, k)
    found = _recalls(index.searching(settings), embeddings, judged, k, truth)
    return TunedSearch(
        queries=asked.kind,
        source=asked.source,
        leaves_to_search=settings.leaves_to_search or 1,
        reorder=settings.reorder,
        k=k,
        recall=float(found.mean()),
        error=_error(found),
        num_queries=len(found),
    )


def _least_effort(
    index: ShardIndex,
    embeddings: Float[np.ndarray, "rows dim"],
    learned: HeldOut,
    k: int,
    target: float,
) -> IndexSettings:
    settings = index.settings
    most = min(max(settings.reorder, k), len(embeddings))
    truth = _truth(embeddings, learned, k)
    counts = [count for count in _CANDIDATES if count < most] + [most]
    rows_per_leaf = len(embeddings) / (settings.leaves or 1)
    best, best_cost = None, np.inf
    for leaves in _ladder(settings.leaves or 1):
        # Most candidates first, which finds most; then as few as do. Fewer are no prefix of more:
        # ScaNN forgets rows earlier that it meets in two leaves.
        for count in [most, *counts[:-1]]:
            cost = leaves * rows_per_leaf + count * _ROWS_PER_CANDIDATE
            effort = {"leaves_to_search": leaves, "reorder": count}
            tried = settings.model_copy(update=effort)
            if count < most and cost >= best_cost:
                break
            found = _recalls(index.searching(tried), embeddings, learned, k, truth)
            # With its standard error to spare: else every second index misses what it is tuned to.
            if found.mean() - _error(found) < target:
                if count == most:
                    break
                continue
            if cost < best_cost:
                best, best_cost = tried, cost
            if count < most:
                break
        if best is not None and leaves * rows_per_leaf >= best_cost:
            break
    return best or settings.model_copy(update={"leaves_to_search": settings.leaves})


def _error(recalls: Float64[np.ndarray, " n"]) -> float:
    """Give the standard error of a mean recall."""
    count = len(recalls)
    return float(recalls.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0


def _ladder(leaves: int) -> Iterator[int]:
    share, last = _FEWEST_SHARE, 0
    while last < leaves:
        number = min(leaves, max(last + 1, round(share * leaves)))
        yield number
        share, last = share * _STEP, number


def _truth(
    embeddings: Float[np.ndarray, "rows dim"], asked: HeldOut, k: int
) -> Float32[np.ndarray, " n"]:
    """Give the score of each query's k-th neighbor, its own row left out."""
    ids, exact = exact_top_k(embeddings, asked.queries, k + 1)
    own = (ids[:, :k] == asked.own[:, None]).any(axis=1)
    last: Float32[np.ndarray, " n"] = np.where(own, exact[:, k], exact[:, k - 1])
    return last


def _recalls(
    index: ShardIndex,
    embeddings: Float[np.ndarray, "rows dim"],
    asked: HeldOut,
    k: int,
    truth: Float32[np.ndarray, " n"],
) -> Float64[np.ndarray, " n"]:
    """Give the recall@k of each query."""
    count = min(max(index.settings.reorder, k + SPARE_CANDIDATES), len(embeddings))
    positions, _, valid = index.candidates(unit_rows(asked.queries), count)
    scores = score_candidates(asked.queries, embeddings, None, positions)
    hits = valid & (positions != asked.own[:, None]) & (scores >= truth[:, None])
    recalls: Float64[np.ndarray, " n"] = np.minimum(hits.sum(axis=1), k) / k
    return recalls


def time_searches(searcher: ShardSearcher, asked: HeldOut) -> SearchLatency:
    """Time queries one by one, after one that is not counted.

    Args:
        searcher: A shard with an index of one thread and the effort of the kind.
        asked: Queries of the kind.
    """
    times = []
    for number in range(min(_NUM_TIMED, len(asked.queries)) + 1):
        query = asked.queries[number % len(asked.queries)][None]
        start = time.perf_counter()
        searcher.search(query, min(TUNED_K, searcher.rows))
        times.append(1e3 * (time.perf_counter() - start))
    p50, p99 = np.percentile(times[1:], [50, 99], method="inverted_cdf").tolist()
    return SearchLatency(queries=asked.kind, p50_ms=round(p50, 4), p99_ms=round(p99, 4))
