"""What an opened shard keeps in memory, and what is stored as it always was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import rdm_batch
from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import open_database
from rdm_batch.retrieval import residency, shard
from rdm_batch.retrieval.database import DatabaseManifest, parse_manifest, render_manifest
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.residency import anonymous_bytes, resident_bytes_of
from rdm_batch.retrieval.shard import open_shard
from rdm_batch.specs.database import IndexSettings

Vectors = Callable[..., np.ndarray]
WriteDatabase = Callable[..., DatabaseManifest]
WORLD = Path(rdm_batch.__file__).parent / "assets/shapes/database/database.json"


def test_a_manifest_of_before_is_written_as_it_was() -> None:
    stored = WORLD.read_bytes()
    manifest = parse_manifest(stored, "world")
    assert render_manifest(manifest) == stored
    assert manifest.content_digest() == manifest.digest


def test_times_are_in_no_digest(
    vectors: Vectors, write_database: WriteDatabase, tmp_path: Path
) -> None:
    settings = IndexSettings(kind="tree_soar", leaves=8)
    manifest = write_database(tmp_path, vectors(300), settings=settings)
    (timed,) = manifest.shards
    assert timed.latency
    slower = timed.latency[0].model_copy(update={"p50_ms": 9.0})
    other = manifest.model_copy(
        update={"shards": (timed.model_copy(update={"latency": (slower,)}),)}
    )
    assert other.content_digest() == manifest.digest
    assert parse_manifest(render_manifest(other), "db").shards[0].latency == (slower,)


def test_what_there_is_no_memory_for_is_not_opened(
    vectors: Vectors,
    write_database: WriteDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest = write_database(tmp_path, vectors(300), thumbnails=False)
    needed = resident_bytes_of(manifest.shards[0], manifest, SearchEffort())
    assert needed == 300 * 16 * (4 + 4)
    monkeypatch.setattr(residency, "available_bytes", lambda: needed - 1)
    with pytest.raises(DatabaseError, match=r"set database\.engine: exact"):
        open_shard(tmp_path, 0, manifest=manifest)
    monkeypatch.setattr(residency, "available_bytes", lambda: needed)
    open_shard(tmp_path, 0, manifest=manifest)


def test_opening_says_what_it_took(
    vectors: Vectors,
    write_database: WriteDatabase,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_database(tmp_path, vectors(100), shards=2, thumbnails=False)
    counts = iter([1000, 1500, 1500, 1580])
    monkeypatch.setattr(shard, "anonymous_bytes", lambda: next(counts))
    assert open_database(tmp_path).resident_bytes() == 580
    assert anonymous_bytes() > 1 << 20
