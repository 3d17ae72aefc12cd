"""How far samples are from the database they were made from. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rdm_batch.errors import MetricError
from rdm_batch.inputs.databases import Database
from rdm_batch.metrics.clip_score import row_cosines
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.tasks import TaskRunner
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.rows import shard_rows
from rdm_batch.storage.sample_set import SampleSet

_NONE = -1
_PAIRS = 8192

Found = tuple[Float64[np.ndarray, " _"], Int64[np.ndarray, " _"]]
"""Best cosine of each query, and the row it belongs to."""


def measure_novelty(
    database: Database,
    encoder_digest: str,
    samples: Float32[np.ndarray, "n d"],
    neighbor_ids: Int64[np.ndarray, "n k"] | None,
    held_out: Float32[np.ndarray, "m d"] | None,
    runner: TaskRunner,
) -> NoveltyDistances:
    """Measure distances to the nearest database entries, exactly, shard by shard.

    Args:
        database: The database.
        encoder_digest: Digest of the encoder behind the embeddings; must be the database's.
        samples: Embeddings of the samples.
        neighbor_ids: Database rows each sample was conditioned on, -1 where there are fewer.
            None when distances to them are not wanted.
        held_out: Embeddings of independent images. None when there are none.
        runner: Where shards are compared.

    Raises:
        MetricError: The database was built with another encoder, or a sample was conditioned on
            no row of it.
        DatabaseError: It is damaged.
    """
    manifest = database.manifest
    if manifest.encoder.digest not in (None, encoder_digest):
        raise MetricError(
            f"novelty against {database.uri}",
            f"it was built with {manifest.encoder.name} (digest "
            f"{str(manifest.encoder.digest)[:12]}), the features are of digest "
            f"{encoder_digest[:12]}",
            "one encoder on both sides",
            "name the database's own encoder",
        )
    queries = samples if held_out is None else np.concatenate([samples, held_out])
    whole, own = _Nearest(len(queries)), _Nearest(len(samples))
    wanted = np.empty((len(samples), 0), np.int64) if neighbor_ids is None else neighbor_ids
    task = partial(_compare_shard, database=database)
    for nearest, neighbors in runner(task, (queries, wanted), range(len(manifest.shards))):
        whole.update(*nearest)
        own.update(*neighbors)
    if neighbor_ids is not None and (own.ids == _NONE).any():
        alone = np.flatnonzero(own.ids == _NONE)
        raise MetricError(
            "novelty_neighbors, copy_share",
            f"{len(alone):,} of {len(samples):,} samples were conditioned on no row of "
            f"{database.uri}, the {alone[0] + 1:,}. sample first",
            "samples that were made from neighbors",
            "leave these scores out",
        )
    count = len(samples)
    return NoveltyDistances(
        database=manifest.digest,
        neighbors=None if neighbor_ids is None else 1 - own.scores,
        neighbor_ids=None if neighbor_ids is None else own.ids,
        nearest=1 - whole.scores[:count],
        nearest_ids=whole.ids[:count],
        held_out=None if held_out is None else 1 - whole.scores[count:],
    )


class _Nearest:
    """Keep the best score of each query and the row it came from."""

    def __init__(self, count: int) -> None:
        self.scores = np.full(count, -np.inf)
        self.ids = np.full(count, _NONE)

    def update(self, scores: Float64[np.ndarray, " n"], ids: Int64[np.ndarray, " n"]) -> None:
        # Of equal scores the smaller row id, whatever the order shards come in.
        tied = (scores == self.scores) & (ids < self.ids) & (ids != _NONE)
        better = (scores > self.scores) | tied
        self.scores[better], self.ids[better] = scores[better], ids[better]


def require_database(sample_set: SampleSet, database: Database) -> None:
    """Refuse a database other than the one the samples' neighbors were taken from.

    Raises:
        MetricError: It is another.
    """
    made_from = sample_set.header.content_digests.get("database")
    digest = database.manifest.digest
    if made_from not in (None, digest):
        raise MetricError(
            f"novelty_neighbors, copy_share of {sample_set.uri}",
            f"the samples were made from the database of digest {str(made_from)[:12]}, "
            f"{database.uri} is of digest {digest[:12]}",
            "the database they were made from",
            "name that one, or leave these scores out",
        )


def read_neighbor_ids(sample_set: SampleSet) -> Int64[np.ndarray, "n k"]:
    """Read the database rows each stored sample was conditioned on, padded with -1."""
    lists: list[Sequence[int]] = []
    for batch in sample_set.iter_batches(["neighbor_ids"]):
        lists += [row or () for row in batch.column("neighbor_ids").to_pylist()]
    ids = np.full((len(lists), max(map(len, lists), default=0)), _NONE, dtype=np.int64)
    for row, found in enumerate(lists):
        ids[row, : len(found)] = found
    return ids


def _compare_shard(
    queries: Float32[np.ndarray, "q d"],
    neighbor_ids: Int64[np.ndarray, "n k"],
    shard: int,
    *,
    database: Database,
) -> tuple[Found, Found]:
    """Find the nearest row of a shard to each query, and to each sample among its neighbors."""
    manifest = database.manifest
    record = manifest.shards[shard]
    rows = shard_rows(database.root([shard]), record, manifest)
    positions, scores = exact_top_k(rows, queries, 1)
    here: Bool[np.ndarray, "n k"] = (neighbor_ids >= record.first_row) & (
        neighbor_ids < record.first_row + record.rows
    )
    cosines = np.full(neighbor_ids.shape, -np.inf)
    sample, place = np.nonzero(here)
    for start in range(0, len(sample), _PAIRS):
        at = sample[start : start + _PAIRS], place[start : start + _PAIRS]
        neighbors = rows[neighbor_ids[at] - record.first_row].astype(np.float32)
        cosines[at] = row_cosines(queries[at[0]], neighbors)
    nearest = scores[:, 0].astype(np.float64), positions[:, 0] + record.first_row
    return nearest, _best(cosines, neighbor_ids)


def _best(cosines: Float64[np.ndarray, "n k"], ids: Int64[np.ndarray, "n k"]) -> Found:
    if not ids.shape[1]:
        return np.full(len(ids), -np.inf), np.full(len(ids), _NONE)
    best = cosines.max(axis=1)
    chosen = np.where(cosines == best[:, None], ids, np.iinfo(np.int64).max).min(axis=1)
    return best, np.where(np.isneginf(best), _NONE, chosen)
