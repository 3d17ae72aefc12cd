from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.retrieval.database import (
    DatabaseManifest,
    EncoderRecord,
    SourceRecord,
)
from rdm_batch.retrieval.index import IndexSettings
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.writer import write_shard
from tests.job_kit import write_manifest

Vectors = Callable[..., np.ndarray]
WriteDatabase = Callable[..., DatabaseManifest]


@pytest.fixture
def vectors() -> Vectors:
    """Clustered vectors of norm about 10, as raw CLIP embeddings have."""

    def make(rows: int, dim: int = 16, seed: int = 0, clusters: int = 40) -> np.ndarray:
        random = np.random.default_rng(seed)
        centers = np.random.default_rng(4711).normal(size=(clusters, dim))
        points = centers[random.integers(0, clusters, rows)]
        points = points + 0.4 * random.normal(size=(rows, dim))
        lengths = random.uniform(8.5, 11.5, size=(rows, 1))
        return (points / np.linalg.norm(points, axis=1, keepdims=True) * lengths).astype(np.float32)

    return make


@pytest.fixture
def write_database() -> WriteDatabase:
    """Write a local database of given embeddings, cut into shards of unequal size."""

    def write(
        root: Path,
        embeddings: np.ndarray,
        shards: int = 1,
        settings: IndexSettings | None = None,
        thumbnails: bool = True,
    ) -> DatabaseManifest:
        ends = np.linspace(0, 1, shards + 1) ** 1.3 * len(embeddings)
        bounds = np.round(ends).astype(int)
        entries = []
        for number in range(shards):
            first, last = int(bounds[number]), int(bounds[number + 1])
            rows = ShardRows(
                first_row=first,
                embeddings=embeddings[first:last],
                item_ids=[f"item-{row}" for row in range(first, last)],
                patch_coords=[(0, 0, 8, 8)] * (last - first),
                captions=[None] * (last - first),
                thumbnails=[b"png-%d" % row for row in range(first, last)] if thumbnails else None,
            )
            entries.append(write_shard(root, number, rows, settings or IndexSettings()))
        return write_manifest(
            root,
            DatabaseManifest(
                rows=len(embeddings),
                dim=embeddings.shape[1],
                dtype=embeddings.dtype.name,
                encoder=EncoderRecord(name="fake", digest="0"),
                source=SourceRecord(description="synthetic", images=len(embeddings)),
                build={},
                shards=tuple(entries),
            ),
        )

    return write
