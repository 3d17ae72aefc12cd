"""What is measured once the samples are there: recall of the index, pictures for the page."""

from __future__ import annotations

from typing import Any

import numpy as np

from rdm_batch.errors import DatabaseError
from rdm_batch.generation.modes.mode import Conditioner
from rdm_batch.reports.pictures import Pictures
from rdm_batch.reports.run_report import IllustratedSample, Recall
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.exact import recall_at_k
from rdm_batch.retrieval.retriever import ObservedRetriever, Search
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.storage.sample_set import SampleSet

NUM_ILLUSTRATED = 64
NUM_RECALL_QUERIES = 256


def measure_recall(
    retriever: CompositeRetriever, conditioner: Conditioner, seed: int, num_samples: int
) -> Recall | None:
    """Compare the index with exact search on queries of the job itself.

    Args:
        retriever: The database.
        conditioner: What samples are conditioned on; a fresh one, so that it searches again.
        seed: Seed of the job.
        num_samples: Samples of the job; the queries of the first 256 are taken.

    Returns:
        Recall@k with the job's own k; None where the job searches nothing.
    """
    indices = np.arange(min(num_samples, NUM_RECALL_QUERIES), dtype=np.int64)
    searches: list[Search] = []
    conditioner(SampleNoise(seed, indices), ObservedRetriever(retriever, searches.append))
    if not searches:
        return None
    queries, found = searches[-1].queries, searches[-1].found
    k = found.ids.shape[1]
    exact = retriever.search_exactly(queries, k)
    return Recall(k=k, queries=len(queries), value=recall_at_k(found.scores, exact.scores))


def illustrate(
    sample_set: SampleSet, retriever: CompositeRetriever
) -> tuple[tuple[IllustratedSample, ...], Pictures]:
    """Collect the first samples with the neighbors each was conditioned on."""
    columns = ["image", "sample_index", "query_id", "neighbor_ids", "neighbor_scores"]
    rows: list[dict[str, Any]] = []
    for batch in sample_set.iter_batches([*columns, "label", "prompt"]):
        rows += batch.to_pylist()
        if len(rows) >= NUM_ILLUSTRATED:
            break
    rows = rows[:NUM_ILLUSTRATED]
    samples = tuple(_illustrated(row) for row in rows)
    ids = sorted({row_id for sample in samples for row_id in sample.neighbor_ids})
    try:
        thumbnails = retriever.thumbnails(np.array(ids, dtype=np.int64)) if ids else []
    except DatabaseError:
        # A database may be stored without thumbnails; the page shows empty frames.
        thumbnails = []
    return samples, Pictures(
        samples={row["sample_index"]: row["image"]["bytes"] for row in rows},
        neighbors=dict(zip(ids, thumbnails, strict=bool(thumbnails))),
    )


def _illustrated(row: dict[str, Any]) -> IllustratedSample:
    if row["query_id"] is not None:
        caption = f"pseudo-query {row['query_id']}"
    else:
        caption = str(row["label"] or row["prompt"] or "")
    return IllustratedSample(
        sample_index=row["sample_index"],
        caption=caption,
        neighbor_ids=tuple(row["neighbor_ids"] or ()),
        neighbor_scores=tuple(row["neighbor_scores"] or ()),
    )
