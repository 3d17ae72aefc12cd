"""What each engine would cost a job."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdm_batch.generation import engines
from rdm_batch.generation.engines import scann_cost
from rdm_batch.retrieval.index import IndexSettings
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.writer import write_shard
from rdm_batch.specs.load import parse_job
from tests.worlds import World, checked


def codes_stored(root: Path) -> int:
    """Count the rows' codes in the files of all indexes."""
    files = root.glob("index/shard-*/*hashed_dataset*.npy")
    return sum(len(np.load(file)) for file in files)


@pytest.mark.parametrize(("kind", "codes"), [("tree_soar", 2), ("tree_ah", 1)])
def test_the_time_of_an_index_is_that_of_the_codes_it_stores(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, codes: int
) -> None:
    monkeypatch.setattr(engines, "_SECONDS_PER_CANDIDATE", 0.0)
    settings = IndexSettings.model_validate({"kind": kind, "leaves": 2, "leaves_to_search": 1})
    embeddings = np.random.default_rng(0).normal(size=(64, 16)).astype(np.float32)
    none: list[None] = [None] * len(embeddings)
    rows = ShardRows(0, embeddings, [""] * len(embeddings), none, none, None)
    shard = write_shard(tmp_path, 0, rows, settings)
    assert codes_stored(tmp_path) == codes * len(embeddings)
    spec = parse_job(world.document, "job")
    manifest = checked(world.document).database.manifest
    manifest = manifest.model_copy(update={"rows": 64, "dim": 16, "shards": (shard,)})
    cost = scann_cost(spec, manifest, 1000)
    assert cost is not None
    # Half of the codes, and both centers.
    looked_at = codes * 64 / 2 * 16 / 512 + 2
    assert cost.seconds == pytest.approx(1000 * looked_at / engines._SCANNED_CODES_PER_S)
