"""What is left and said when retrievers die, with a real index of ScaNN."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from ray.exceptions import RaySystemError
from rich.console import Console

from rdm_batch.cluster import ray_retrievers
from rdm_batch.cluster.connect import connected
from rdm_batch.cluster.pool import Cluster, RetrieverNeeds
from rdm_batch.cluster.retrievers import RemotePart
from rdm_batch.databases.build import build_database
from rdm_batch.errors import ClusterError, DatabaseError
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.progress import Progress
from rdm_batch.reports.run_report import LostRetriever
from rdm_batch.reports.table import lost_retriever
from rdm_batch.retrieval.database import StoredFile, stored_file
from rdm_batch.specs.database import DatabaseBuild, IndexSettings
from tests.fixtures.fake_encoder import FakeEncoder
from tests.job_kit import write_manifest
from tests.ray_kit import actor_processes
from tests.ray_nodes import TwoNodes

QUERIES = np.random.default_rng(1).normal(size=(5, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def cluster(two_nodes: TwoNodes) -> Iterator[Cluster]:
    with connected(two_nodes.address) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("built") / "db"
    settings = IndexSettings(kind="tree_soar", leaves=4, leaves_to_search=4)
    request = DatabaseBuild(images="shapes:database:60", shards=2, index=settings, out=str(root))
    with Progress(Console(file=io.StringIO())) as progress:
        build_database(request, FakeEncoder, progress)
    return root


def with_changed_index(built: Path, to: Path, name: str, content: bytes) -> Database:
    """Copy a database; change a file of its second index, and the manifest with it."""
    root = Path(shutil.copytree(built, to / "db"))
    changed = root / "index/shard-00001" / name
    changed.write_bytes(content)
    record = stored_file(root, changed)
    manifest = Database.open(str(root)).manifest
    shard = manifest.shards[1]
    files = tuple(_changed(file, record) for file in shard.index_files)
    shards = (manifest.shards[0], shard.model_copy(update={"index_files": files}))
    write_manifest(root, manifest.model_copy(update={"shards": shards}))
    return Database.open(str(root))


def _changed(file: StoredFile, record: StoredFile) -> StoredFile:
    return record if file.path == record.path else file


def test_a_retriever_that_dies_is_brought_back_and_counted(
    cluster: Cluster, two_nodes: TwoNodes, built: Path
) -> None:
    database = Database.open(str(built))
    with cluster.retriever(database, RetrieverNeeds()) as retriever:
        expected = retriever.search(QUERIES, 4)
        assert cluster.lost_retrievers(retriever) == ()
        for process_id in actor_processes("RetrieverWorker", two_nodes.folder):
            psutil.Process(process_id).kill()
        found = retriever.search(QUERIES, 4)
        lost = cluster.lost_retrievers(retriever)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.scores, expected.scores)
    assert lost == (
        LostRetriever(holds="shard 0 of the database (rows 0 and following)", times=1),
        LostRetriever(holds="shard 1 of the database (rows 30 and following)", times=1),
    )


def test_ray_that_does_not_tell_is_no_proof_that_none_was_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def silent(actor_id: str) -> dict[str, object]:
        raise RaySystemError(f"no answer for {actor_id}")

    monkeypatch.setattr(ray_retrievers, "actors", silent)
    actor = SimpleNamespace(_actor_id=b"actor")
    (lost,) = ray_retrievers.losses([RemotePart(actor, 0, 9, 9, 4, "shard 0")])
    assert lost == LostRetriever(holds="shard 0", times=None)
    assert "Ray did not tell" in lost_retriever(lost)


def test_a_shard_that_kills_every_retriever_that_opens_it_is_named(
    cluster: Cluster, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ScaNN 1.4 ends the process that loads an index whose configuration is empty.
    database = with_changed_index(built, tmp_path, "scann_config.pb", b"")
    monkeypatch.setattr("rdm_batch.cluster.ray_cluster.RESTARTS", 1)
    with (
        pytest.raises(ClusterError) as caught,
        cluster.retriever(database, RetrieverNeeds(num_actors=1)) as retriever,
    ):
        retriever.search(QUERIES, 4)
    assert caught.value.where == f"{database.uri} shard 1"
    assert caught.value.found == "ends every process that opens it"
    assert "database check" in caught.value.action
    assert "database.engine: exact" in caught.value.action


def test_an_index_that_scann_refuses_is_one_error(
    cluster: Cluster, built: Path, tmp_path: Path
) -> None:
    codes = (built / "index/shard-00001/hashed_dataset.npy").read_bytes()
    half = codes[: len(codes) // 2]
    database = with_changed_index(built, tmp_path, "hashed_dataset.npy", half)
    with (
        pytest.raises(DatabaseError, match=r"shard-00001: ScaNN cannot load it \("),
        cluster.retriever(database, RetrieverNeeds()) as retriever,
    ):
        retriever.search(QUERIES, 4)
