"""Published databases and neighbor memories, imported by the command, in whole jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rdm_batch
from rdm_batch.cli import main
from rdm_batch.generation.batches import Batch
from rdm_batch.retrieval.neighbor_memory import read_neighbor_memory


@pytest.fixture(scope="module")
def published_database(published_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("published") / "database"
    folder = published_files / "rdm_mini"
    parts = sorted((folder / "database/openimages").glob("*.npz"))
    memory = folder / "nn_memory/oi_imagenet.p"
    command = ["database", "import-npz", *map(str, parts), "--neighbor-memory", str(memory)]
    assert main([*command, "--shards", "2", "--out", str(out)]) == 0
    return out


def _batch(files: Path, database: Path, **conditioning: Any) -> Batch:
    """Make the first samples of a job in this process."""
    folder = files / "rdm_mini"
    document = {
        "name": "published",
        "model": {
            "head": "rdm",
            "checkpoint": str(folder / "model.ckpt"),
            "architecture": str(folder / "config.yaml"),
        },
        "database": {"uri": str(database)},
        "conditioning": conditioning,
        "sampling": {"sampler": "ddim", "num_steps": 1, "num_samples": 3, "batch_size": 3},
        "output": {"uri": "nowhere", "shard_size": 3},
    }
    (batch,) = rdm_batch.generate(rdm_batch.load_job(document))
    assert batch.images.shape == (3, 64, 64, 3)
    return batch


def test_rows_of_the_recorded_queries_have_the_recorded_neighbors(
    published_files: Path, published_database: Path
) -> None:
    with np.load(published_files / "rdm_mini/oracle.npz") as oracle:
        queries, neighbors, scores = (
            oracle[f"rdata_k7/{name}"] for name in ("qids", "nns", "scores")
        )
    batch = _batch(published_files, published_database, mode="rows", k_nn=7, rows=queries.tolist())
    np.testing.assert_array_equal(batch.query_ids, queries)
    np.testing.assert_array_equal(batch.neighbor_ids, neighbors)
    np.testing.assert_allclose(batch.neighbor_scores, scores, atol=1e-6)


def test_a_neighbor_memory_gives_its_most_frequent_rows(
    published_files: Path, published_database: Path
) -> None:
    memory = published_files / "rdm_mini/nn_memory/oi_imagenet.p"
    batch = _batch(published_files, published_database, mode="rows", k_nn=4, rows_file=str(memory))
    np.testing.assert_array_equal(batch.query_ids, read_neighbor_memory(memory).row_ids[:3])


def test_pseudo_queries_are_drawn_from_the_imported_memory(
    published_files: Path, published_database: Path
) -> None:
    memory = read_neighbor_memory(published_files / "rdm_mini/nn_memory/oi_imagenet.p")
    batch = _batch(published_files, published_database, mode="unconditional", k_nn=4, top_m=0.1)
    assert batch.query_ids is not None
    assert set(batch.query_ids.tolist()) <= set(memory.truncate(0.1).row_ids.tolist())


def test_given_text_embeddings_have_the_recorded_neighbors(
    published_files: Path, published_database: Path, tmp_path: Path
) -> None:
    with np.load(published_files / "rdm_mini/oracle.npz") as oracle:
        queries, neighbors = oracle["text_query"], oracle["text_query_nns"]
    np.save(tmp_path / "texts.npy", queries)
    given = {"mode": "embeddings", "file": str(tmp_path / "texts.npy"), "k_nn": 4}
    found = {
        context: _batch(published_files, published_database, **given, context=context)
        for context in ("embeddings_and_neighbors", "neighbors")
    }
    np.testing.assert_array_equal(found["neighbors"].neighbor_ids, neighbors)
    np.testing.assert_array_equal(found["embeddings_and_neighbors"].neighbor_ids, neighbors[:, :3])
