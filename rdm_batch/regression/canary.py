"""The canary: the first samples of a set, kept whole so that another night's can be held against.

A sample is a function of job, seed and index. Where nothing has changed, neither have the row that
was asked with, the neighbors, the image or its features, byte for byte; and where something has,
the first of these that differs says in which part of the program to look.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64

from rdm_batch.errors import RegressionError
from rdm_batch.evaluation.features import load_features
from rdm_batch.files import UNREADABLE
from rdm_batch.formats.json_text import parse_json
from rdm_batch.inputs.extractors import extractor_digest, scores_by_extractor
from rdm_batch.inputs.image_sets import SampleImages
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.scores import OWN_LAYERS, SCORES
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet

QUERIES, NEIGHBORS, SIMILARITIES, IMAGES = "queries", "neighbors", "similarities", "images"
FEATURES = "features "
_COLUMNS = ["sample_index", "image", "query_id", "neighbor_ids", "neighbor_scores"]
_ASKED = ["label", "prompt"]
_OF = b"rdm_batch.canary"


@dataclass(frozen=True)
class Canary:
    """Hold the first samples of a set, by what they went through.

    Args:
        identity: Everything that defines the samples, as the header of their set has it.
        indices: Of the samples.
        queries: What each was asked with: the row of its query, its class or its prompt.
        neighbors: Database rows of its context. None for a head without.
        similarities: Of the rows to the query. None where there was none.
        images: PNG files.
        features: By extractor and layer.
    """

    identity: dict[str, Any]
    indices: Int64[np.ndarray, " n"]
    queries: tuple[str, ...]
    neighbors: Int64[np.ndarray, "n k"] | None
    similarities: Float32[np.ndarray, "n k"] | None
    images: tuple[bytes, ...]
    features: dict[str, Float32[np.ndarray, "n _"]]

    def stages(self) -> dict[str, Sequence[bytes]]:
        """Return the bytes of every sample, stage after stage in the order they are made in."""
        found: dict[str, Sequence[bytes]] = {QUERIES: [query.encode() for query in self.queries]}
        if self.neighbors is not None:
            found[NEIGHBORS] = [row.tobytes() for row in self.neighbors]
        if self.similarities is not None:
            found[SIMILARITIES] = [row.tobytes() for row in self.similarities]
        # Of the pixels: another PNG encoder changes no sample.
        found[IMAGES] = [decode_png(image).tobytes() for image in self.images]
        for name, rows in self.features.items():
            found[FEATURES + name] = [row.tobytes() for row in rows]
        return found

    def digests(self) -> dict[str, str]:
        """Return a digest of every stage."""
        digests = {}
        for stage, samples in self.stages().items():
            whole = hashlib.sha256()
            for sample in samples:
                whole.update(hashlib.sha256(sample).digest())
            digests[stage] = whole.hexdigest()
        return digests


def take_canary(uri: str, job: JobSpec, count: int) -> Canary:
    """Take the first samples of a finished and judged set.

    Args:
        uri: Of the set.
        job: What made it; its evaluation says which features there are.
        count: How many samples; all where the set has fewer.

    Raises:
        RdmBatchError: The set is incomplete, or features are missing.
    """
    found = SampleSet.open(uri)
    count = min(count, found.header.num_samples)
    shards = range(-(-count // found.header.shard_size))
    rows: list[dict[str, Any]] = []
    for batch in found.iter_batches([*_COLUMNS, *_ASKED], shards):
        rows += batch.to_pylist()
    rows = rows[:count]
    return Canary(
        identity=found.header.spec,
        indices=np.array([row["sample_index"] for row in rows], dtype=np.int64),
        queries=tuple(_query(row) for row in rows),
        neighbors=_matrix([row["neighbor_ids"] for row in rows], np.int64),
        similarities=_matrix([row["neighbor_scores"] for row in rows], np.float32),
        images=tuple(row["image"]["bytes"] for row in rows),
        features=_features(found, job, count),
    )


def canary_bytes(canary: Canary) -> bytes:
    """Write a canary as parquet."""
    columns: dict[str, pa.Array] = {
        "sample_index": pa.array(canary.indices),
        QUERIES: pa.array(canary.queries, pa.string()),
        "image": pa.array(canary.images, pa.binary()),
    }
    matrices = {NEIGHBORS: canary.neighbors, SIMILARITIES: canary.similarities}
    for name, rows in (matrices | _prefixed(canary.features)).items():
        if rows is not None:
            columns[name] = pa.FixedSizeListArray.from_arrays(
                pa.array(np.ascontiguousarray(rows).reshape(-1)), rows.shape[1]
            )
    identity = json.dumps(canary.identity, sort_keys=True)
    table = pa.table(columns).replace_schema_metadata({_OF: identity.encode()})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def parse_canary(data: bytes, where: str) -> Canary:
    """Read what ``canary_bytes`` wrote.

    Args:
        data: The file; whoever calls has compared its digest.
        where: Named in messages.

    Raises:
        RegressionError: It is no canary.
    """
    try:
        table = pq.read_table(io.BytesIO(data))
        identity = parse_json((table.schema.metadata or {})[_OF])
        matrices = {
            name: _read_matrix(table.column(name))
            for name in table.column_names
            if name in (NEIGHBORS, SIMILARITIES) or name.startswith(FEATURES)
        }
        return Canary(
            identity=identity,
            indices=table.column("sample_index").to_numpy(),
            queries=tuple(table.column(QUERIES).to_pylist()),
            neighbors=matrices.get(NEIGHBORS),
            similarities=matrices.get(SIMILARITIES),
            images=tuple(table.column("image").to_pylist()),
            features={
                name.removeprefix(FEATURES): rows
                for name, rows in matrices.items()
                if name.startswith(FEATURES)
            },
        )
    except (pa.ArrowException, *UNREADABLE) as problem:
        raise RegressionError(where, f"is no canary ({problem})") from problem


def _query(row: dict[str, Any]) -> str:
    asked = [row["query_id"], *(row[name] for name in _ASKED)]
    return json.dumps(asked, ensure_ascii=False)


def _matrix(rows: Sequence[Any], dtype: Any) -> Any:
    if not rows or any(row is None for row in rows):
        return None
    return np.array(rows, dtype=dtype)


def _read_matrix(column: pa.ChunkedArray) -> Any:
    whole = column.combine_chunks()
    return whole.flatten().to_numpy().reshape(len(whole), -1)


def _prefixed(features: dict[str, Float32[np.ndarray, "n _"]]) -> dict[str, Any]:
    return {FEATURES + name: rows for name, rows in features.items()}


def _features(found: SampleSet, job: JobSpec, count: int) -> dict[str, Float32[np.ndarray, "n _"]]:
    if job.evaluation is None:
        return {}
    images = SampleImages(found, job.evaluation.resize)
    features = {}
    for extractor, scores in scores_by_extractor(job.evaluation, job.database).items():
        used = {SCORES[score].layer for score in scores}
        rows = load_features(images, extractor_digest(extractor), OWN_LAYERS.keys() - used)
        for layer, values in rows.layers.items():
            features[f"{extractor.name} {layer}"] = values[:count]
    return features
