"""What is left and said when parts of Ray are lost that nobody brings back."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest

from rdm_batch.cluster.connect import connected
from rdm_batch.cluster.pool import Cluster, RetrieverNeeds, WorkerNeeds
from rdm_batch.cluster.ray_watch import RayWatch
from rdm_batch.errors import ClusterError
from rdm_batch.inputs.databases import Database
from tests.campaign.processes import SERVERS, Family
from tests.cluster.kit import PlainWorker, failure
from tests.job_kit import DIM, job_document, write_database, write_job
from tests.ray_kit import actor_processes, started_job, wait_for_shards
from tests.ray_nodes import TwoNodes

NOISE = re.compile(r"\.cc:\d+:|Traceback|^Ray: |raylet\)", re.MULTILINE)


@pytest.fixture(scope="module")
def slow_job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    document: dict[str, Any] = job_document(folder)
    document["sampling"]["num_steps"] = 300
    del document["evaluation"]
    return write_job(folder / "job.yaml", document)


@pytest.fixture(scope="module")
def cluster(two_nodes: TwoNodes) -> Iterator[Cluster]:
    with connected(two_nodes.address) as cluster:
        yield cluster


@pytest.mark.parametrize("server", SERVERS)
def test_a_lost_server_is_one_error_and_leaves_nothing_running(
    slow_job: Path, tmp_path: Path, server: str
) -> None:
    with started_job(slow_job, "--address", "local", "--set", f"output.uri={tmp_path}") as process:
        wait_for_shards(tmp_path, 1, process)
        family = Family(process.pid)
        family.look()
        (victim,) = family.members(server)
        os.kill(victim.pid, signal.SIGKILL)
        killed = time.monotonic()
        printed, _ = process.communicate(timeout=60)
        took_s = time.monotonic() - killed
    assert process.returncode == 1, printed
    lines = printed.splitlines()
    assert lines[-1] == (
        f"error: Ray at local: its process {SERVERS[server]} has died; what is stored is safe: "
        "run the same command again"
    )
    assert NOISE.search(printed) is None, printed
    assert len(lines) < 20, printed
    assert took_s < 30
    assert [member.name() for member in family.living()] == []


def test_a_killed_driver_leaves_nothing_running(slow_job: Path, tmp_path: Path) -> None:
    with started_job(slow_job, "--address", "local", "--set", f"output.uri={tmp_path}") as process:
        wait_for_shards(tmp_path, 1, process)
        family = Family(process.pid)
        family.look()
        assert {"gcs_server", "raylet"} <= {member.name() for member in family.living()}
        process.kill()
        process.communicate(timeout=60)
    deadline = time.monotonic() + 12
    while family.living() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [member.name() for member in family.living()] == []


def test_a_server_that_dies_while_ray_starts_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in for what Ray starts, below the folder its package is said to lie in.
    server = Path(shutil.copy(shutil.which("sleep") or "", tmp_path / "gcs_server"))
    package = SimpleNamespace(__file__=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("rdm_batch.cluster.ray_watch.ray", package)
    monkeypatch.setattr("rdm_batch.cluster.ray_watch._STARTS_AGAIN_WITHIN_S", 0.5)
    left: list[str] = []
    monkeypatch.setattr(RayWatch, "_leave", lambda _, found: left.append(found))
    watch = RayWatch("local", local=True)
    first, second = (subprocess.Popen([server, "60"]) for _ in range(2))
    with watch.starting():
        time.sleep(1.2)
        first.kill()
        first.wait()
        time.sleep(1.5)
        assert left == []  # a second try has its own
        second.kill()
        second.wait()
        deadline = time.monotonic() + 20
        while not left and time.monotonic() < deadline:
            time.sleep(0.1)
    watch.dismiss()
    assert left[0] == "its process gcs_server has died while it started"


def test_a_retriever_lost_for_good_is_an_error_in_the_worker_that_asks(
    cluster: Cluster, two_nodes: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_database(tmp_path)
    queries = np.random.default_rng(1).normal(size=(5, DIM)).astype(np.float32)
    monkeypatch.setattr("rdm_batch.cluster.ray_cluster.RESTARTS", 0)
    needs = RetrieverNeeds(num_actors=1)
    with (
        cluster.retriever(Database.open(str(tmp_path)), needs) as retriever,
        cluster.workers(PlainWorker, 1, WorkerNeeds()) as pool,
    ):
        retriever.search(queries, 3)
        for process_id in actor_processes("RetrieverWorker", two_nodes.folder):
            psutil.Process(process_id).kill()
        error = failure(
            lambda: list(pool.map(PlainWorker.search, [queries], where=str, shared=(retriever,)))
        )
        here = failure(lambda: retriever.search(queries, 3))
    for found in (error, here):
        assert isinstance(found, ClusterError)
        assert found.where == "shards 0 to 1 of the database (rows 0 and following)"
        assert "its worker died and could not be brought back" in found.found


def test_memory_that_runs_out_in_a_worker_is_told_by_what_it_did(cluster: Cluster) -> None:
    with cluster.workers(PlainWorker, 1, WorkerNeeds()) as pool:
        error = failure(lambda: list(pool.map(PlainWorker.exhaust, [7], where="item {}".format)))
    assert error is not None
    assert error.where == "item 7"
    assert error.found == "there is none left (no room for item 7)"
