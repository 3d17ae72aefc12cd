"""How far samples are from the database they were made from. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from rdm_batch.engine.databases import database_root, fetch_manifest
from rdm_batch.errors import MetricError
from rdm_batch.metrics.clip_score import row_cosines
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.tasks import TaskRunner
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.exact import exact_top_k
from rdm_batch.retrieval.tables import read_embeddings
from rdm_batch.storage.sample_set import SampleSet

_NONE = -1
_PAIRS = 8192


def measure_novelty(
    database_uri: str,
    encoder_digest: str,
    samples: Float32[np.ndarray, "n d"],
    neighbor_ids: Int64[np.ndarray, "n k"],
    held_out: Float32[np.ndarray, "m d"] | None,
    runner: TaskRunner,
) -> NoveltyDistances:
    """Measure distances to the nearest database entries, exactly, shard by shard.

    Args:
        database_uri: The database.
        encoder_digest: Digest of the encoder behind the embeddings; must be the database's.
        samples: Embeddings of the samples.
        neighbor_ids: Database rows each sample was conditioned on, -1 where there are fewer.
        held_out: Embeddings of independent images. None when there are none.
        runner: Where shards are compared.

    Raises:
        MetricError: The database was built with another encoder.
        DatabaseError: It is missing or damaged.
    """
    manifest = fetch_manifest(database_uri)
    if manifest.encoder.digest not in (None, encoder_digest):
        raise MetricError(
            f"novelty against {database_uri}",
            f"it was built with {manifest.encoder.name} (digest "
            f"{str(manifest.encoder.digest)[:12]}), the features are of digest "
            f"{encoder_digest[:12]}",
            "one encoder on both sides",
            "name the database's own encoder",
        )
    queries = samples if held_out is None else np.concatenate([samples, held_out])
    nearest, ids = np.full(len(queries), -np.inf), np.full(len(queries), _NONE)
    own = np.full(len(samples), -np.inf)
    task = partial(_compare_shard, uri=database_uri, manifest=manifest)
    for found in runner(task, (queries, neighbor_ids), range(len(manifest.shards))):
        scores, rows, neighbors = found
        # Of equal scores the smaller row id, whatever the order shards come in.
        better = (scores > nearest) | ((scores == nearest) & (rows < ids))
        nearest[better], ids[better] = scores[better], rows[better]
        own = np.maximum(own, neighbors)
    count = len(samples)
    return NoveltyDistances(
        database=manifest.digest,
        neighbors=1 - own if np.isfinite(own).all() else None,
        nearest=1 - nearest[:count],
        nearest_ids=ids[:count],
        held_out=None if held_out is None else 1 - nearest[count:],
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
    uri: str,
    manifest: DatabaseManifest,
) -> tuple[Float64[np.ndarray, " q"], Int64[np.ndarray, " q"], Float64[np.ndarray, " n"]]:
    record = manifest.shards[shard]
    path = database_root(uri, manifest, [shard]) / record.embeddings.path
    rows = read_embeddings(path, record.rows, manifest.dim, manifest.dtype)
    positions, scores = exact_top_k(rows, queries, 1)
    here: Bool[np.ndarray, "n k"] = (neighbor_ids >= record.first_row) & (
        neighbor_ids < record.first_row + record.rows
    )
    sample, place = np.nonzero(here)
    own = np.full(len(neighbor_ids), -np.inf)
    for start in range(0, len(sample), _PAIRS):
        of = sample[start : start + _PAIRS]
        ids = neighbor_ids[of, place[start : start + _PAIRS]]
        neighbors = rows[ids - record.first_row].astype(np.float32)
        np.maximum.at(own, of, row_cosines(queries[of], neighbors))
    return scores[:, 0].astype(np.float64), positions[:, 0] + record.first_row, own
