"""Small sample sets for tests."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa

from rdm_batch.export import check_samples
from rdm_batch.reports.progress import Progress
from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import make_table

SIZE = 8


def image_of(index: int, size: int = SIZE) -> np.ndarray:
    return np.random.default_rng(index).integers(0, 256, (size, size, 3), dtype=np.uint8)


def make_header(num_samples: int = 25, shard_size: int = 10, **spec: Any) -> SampleSetHeader:
    spec = {"sampling": {"num_samples": num_samples, "eta": 0.0}, **spec}
    return SampleSetHeader(
        spec=spec,
        digest=hashlib.sha256(repr(spec).encode()).hexdigest(),
        seed=3,
        num_samples=num_samples,
        shard_size=shard_size,
        image_size=SIZE,
    )


def make_rows(header: SampleSetHeader, shard: int, size: int = SIZE) -> pa.Table:
    rows = header.rows_of(shard)
    indices = np.asarray(rows, dtype=np.int64)
    return make_table(
        sample_indices=indices,
        images=[encode_png(image_of(index, size)) for index in rows],
        seed=header.seed,
        query_ids=indices * 7,
        neighbor_ids=np.stack([indices, indices + 1], axis=1),
        neighbor_scores=np.full((len(rows), 2), 0.5, np.float32),
        sampler="ddim",
        num_steps=5,
        eta=0.0,
        guidance_scale=1.0,
    )


def write_set(uri: str, header: SampleSetHeader | None = None) -> SampleSet:
    """Run a whole job: make what is missing, then finish."""
    header = header or make_header()
    sample_set = SampleSet.create_or_resume(uri, header)
    for shard in sample_set.missing_shards():
        sample_set.commit_shard(shard, make_rows(header, shard))
    sample_set.finish()
    return sample_set


def damage_of(uri: str) -> list[str]:
    """List what `samples check` finds wrong with a set; a sound one has nothing."""
    with Progress() as progress:
        return check_samples(uri, progress)
