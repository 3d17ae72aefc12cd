"""Tune how hard a partitioned shard is searched, for each kind of query it will be asked with.

A share of leaves that finds every neighbor of a picture may miss those of a text: texts lie beside
the pictures, not among them, and their neighbors are spread over more leaves (big-ann-benchmarks
2021 and 2023). Each kind is therefore tuned, and its recall stated, on queries of its own.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from rdm_batch.retrieval.database import SearchLatency, TunedSearch
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.index import ShardIndex
from rdm_batch.retrieval.scores import directions_of, score_candidates
from rdm_batch.retrieval.shard import SPARE_CANDIDATES, ShardSearcher
from rdm_batch.specs.database import IndexSettings, Queries

TUNED_K = 20
NUM_QUERIES = 1_024
"""Queries of a kind that the search is tuned on, and as many others that it is measured on. Four
times as many halve what it must find beyond its target to be sure of it."""
_SURE = 1.645
"""Standard errors by which the recall on these queries lies above the target: of a hundred indexes
tuned so, 95 reach it on queries that nobody has seen (the bound of a normal distribution)."""
_NUM_TIMED = 64
_SEED = 20
_GAP = 0.82
"""Distance between the centers of unit embeddings of pictures and of their captions, as measured
for CLIP ViT-B/32 (Liang et al. 2022, arXiv:2203.02053, Section 2)."""
_SPREAD = 0.5
"""Length by which each caption lies aside of its picture, beyond the gap that all share."""
_CANDIDATES = (40, 48, 64, 80, 100, 150, 200, 300, 400, 600, 800)
_ROWS_PER_CANDIDATE = 10
"""Rows whose codes are looked at in the time it takes to propose and rescore one candidate: 0.85 us
for one, 0.08 us for both codes of the other, measured at a million rows of 512 (by numpy, 2 us)."""
_FEWEST_SHARE, _STEP = 0.002, 1.05


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
    database where it has them; else pictures moved by the gap between pictures and texts, each
    judged without its own row: that one is nearer than others would be, and always found.

    Args:
        embeddings: Rows of the shard.
        captions: Embeddings of captions. None where there are none, or no encoder that reads.
    """
    chosen = chosen_rows(len(embeddings))
    pictures = embeddings[chosen].astype(np.float32)
    if captions is not None:
        nobody = np.full(len(captions), -1)
        texts = HeldOut("texts", "captions of the database", captions, nobody)
    else:
        texts = HeldOut("texts", "rows moved by the gap of CLIP", moved(pictures), chosen)
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
        target: Recall@20 to reach, with a confidence of 95 %. Where nothing does, all leaves are
            searched.
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
    """Choose leaves and candidates that reach a target and cost least.

    With most candidates the fewest leaves are bisected: more leaves find more. Fewer candidates
    find less, and go on from there.
    """
    settings = index.settings
    most = min(max(settings.reorder, k), len(embeddings))
    truth = _truth(embeddings, learned, k)
    counts = [most, *(count for count in reversed(_CANDIDATES) if count < most)]
    rows_per_leaf = len(embeddings) / (settings.leaves or 1)
    rungs = list(_ladder(settings.leaves or 1))

    def effort(rung: int, count: int) -> IndexSettings:
        update = {"leaves_to_search": rungs[rung], "reorder": count}
        return settings.model_copy(update=update)

    def cost(rung: int, count: int) -> float:
        return rungs[rung] * rows_per_leaf + count * _ROWS_PER_CANDIDATE

    def reaches(rung: int, count: int) -> bool:
        found = _recalls(index.searching(effort(rung, count)), embeddings, learned, k, truth)
        return bool(found.mean() - _SURE * _error(found) >= target)

    rung = bisect_left(range(len(rungs)), True, key=lambda rung: reaches(rung, most))
    if rung == len(rungs):
        return settings.model_copy(update={"leaves_to_search": settings.leaves})
    best = rung, most
    for count in counts[1:]:
        while rung < len(rungs) and cost(rung, count) < cost(*best):
            if reaches(rung, count):
                best = rung, count
                break
            rung += 1
    return effort(*best)


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
    queries = directions_of(asked.queries, f"queries for {asked.kind}")
    positions, rough = index.candidates(queries.unit, count)
    scores = score_candidates(asked.queries, embeddings, positions)
    hits = np.isfinite(rough) & (positions != asked.own[:, None]) & (scores >= truth[:, None])
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
