"""What is measured once the samples are there: recall of the index, pictures for the page."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rdm_batch.errors import DatabaseError
from rdm_batch.generation.modes.interpolate import END_COLUMN, WEIGHT_COLUMN
from rdm_batch.generation.modes.mode import Conditioner, QueryPicture
from rdm_batch.generation.modes.queried import QUERY_COLUMN
from rdm_batch.reports.pictures import Pictures
from rdm_batch.reports.run_report import IllustratedSample, Recall
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.exact import recall_at_k
from rdm_batch.retrieval.retriever import ObservedRetriever, Search
from rdm_batch.retrieval.row_records import RowRecord
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import SOURCE_COLUMN

NUM_ILLUSTRATED = 64
NUM_RECALL_QUERIES = 256
QUERY_SIDE = 192
"""Side of a query picture that is kept for the page."""


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
    sample_set: SampleSet,
    retriever: CompositeRetriever,
    picture_of: QueryPicture | None = None,
) -> tuple[tuple[IllustratedSample, ...], Pictures]:
    """Collect the first samples with what each was conditioned on.

    Args:
        sample_set: The set.
        retriever: Gives the thumbnails of neighbors, and what is known of them.
        picture_of: Gives the query picture of a sample. None where there are none.
    """
    rows: list[dict[str, Any]] = []
    for batch in sample_set.iter_batches():
        rows += batch.to_pylist()
        if len(rows) >= NUM_ILLUSTRATED:
            break
    rows = rows[:NUM_ILLUSTRATED]
    ids = sorted({row_id for row in rows for row_id in row["neighbor_ids"] or ()})
    # Of the retrievers, whose machines have the tables: not of a bucket, range by range.
    known = retriever.records(np.array(ids, dtype=np.int64)) if ids else []
    records = dict(zip(ids, known, strict=True))
    samples = tuple(_illustrated(row, records) for row in rows)
    try:
        thumbnails = retriever.thumbnails(np.array(ids, dtype=np.int64)) if ids else []
    except DatabaseError:
        # A database may be stored without thumbnails; the page shows empty frames.
        thumbnails = []
    return samples, Pictures(
        samples={row["sample_index"]: row["image"]["bytes"] for row in rows},
        neighbors=dict(zip(ids, thumbnails, strict=bool(thumbnails))),
        queries=_queries(rows, picture_of),
    )


def _queries(rows: list[dict[str, Any]], picture_of: QueryPicture | None) -> dict[int, bytes]:
    """Give the picture that each sample was made from; of edits the set holds it."""
    edited = {row["sample_index"]: row[SOURCE_COLUMN]["bytes"] for row in rows if _is_edit(row)}
    if edited or picture_of is None:
        return edited
    return {row["sample_index"]: _small(picture_of(row["sample_index"])) for row in rows}


def _is_edit(row: dict[str, Any]) -> bool:
    return row.get(SOURCE_COLUMN) is not None


def _small(image: UInt8[np.ndarray, "height width 3"]) -> bytes:
    small = Image.fromarray(image)
    small.thumbnail((QUERY_SIDE, QUERY_SIDE))
    return encode_png(np.asarray(small))


def _illustrated(row: dict[str, Any], records: dict[int, RowRecord]) -> IllustratedSample:
    ids = row["neighbor_ids"] or ()
    captions = tuple(records[row_id].text for row_id in ids)
    return IllustratedSample(
        sample_index=row["sample_index"],
        caption=_asked_for(row),
        neighbor_ids=tuple(ids),
        # Rows that were given have no query they could be similar to.
        neighbor_scores=()
        if any(score != score for score in row["neighbor_scores"] or ())
        else tuple(row["neighbor_scores"] or ()),
        neighbor_captions=captions if any(captions) else (),
        is_edit=_is_edit(row),
    )


def _asked_for(row: dict[str, Any]) -> str:
    """Say what a sample was conditioned on, as its row tells."""
    if row["query_id"] is not None:
        return f"pseudo-query {row['query_id']}"
    query = row.get(QUERY_COLUMN)
    if _is_edit(row):
        return f"{query}: {row['prompt']}"
    if query is not None and row.get(END_COLUMN) is not None:
        return f"{query} \u2192 {row[END_COLUMN]}, {row[WEIGHT_COLUMN]:.2f}"
    return str(row["label"] or row["prompt"] or query or "")
