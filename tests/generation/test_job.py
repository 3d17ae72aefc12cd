"""The main job on a real Ray: two nodes, one head on each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from rdm_batch.reports.saved import load_run
from rdm_batch.storage.sample_set import SampleSet
from tests.browser import open_page
from tests.job_kit import job_document, write_job
from tests.ray_kit import (
    ROOT,
    actor_processes,
    kill_one,
    run_job,
    shard_digests,
    started_job,
    wait_for_shards,
)
from tests.ray_nodes import TwoNodes
from tests.storage.sets import damage_of

SLOW_STEPS = 100
"""Solver steps that make a shard last long enough to be interrupted."""

NO_RAY = ("--address", "none")
RUN_AND_LOOK_FOR_RAY = """
import sys
from rdm_batch.run import main
status = main(sys.argv[1:])
print("modules of ray:", [name for name in sys.modules if name.split(".")[0] == "ray"])
sys.exit(status)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_job(folder / "job.yaml", job_document(folder))
    return folder


@pytest.fixture(scope="module")
def finished(world: Path, two_nodes: TwoNodes) -> Path:
    """The output of an undisturbed run with two heads."""
    run_job(world / "job.yaml", "--address", two_nodes.address, "--set", "cluster.heads=2")
    return world / "out"


@pytest.fixture(scope="module")
def slow_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job whose shards take long enough to be interrupted."""
    folder = tmp_path_factory.mktemp("slow")
    document: dict[str, Any] = job_document(folder)
    document["sampling"]["num_steps"] = SLOW_STEPS
    del document["evaluation"]
    write_job(folder / "job.yaml", document)
    return folder


@pytest.fixture(scope="module")
def undisturbed(slow_world: Path, two_nodes: TwoNodes) -> dict[str, str]:
    out = slow_world / "undisturbed"
    run_job(slow_world / "job.yaml", *at(two_nodes, out))
    return shard_digests(out)


def at(cluster: TwoNodes | None, out: Path) -> list[str]:
    address = NO_RAY if cluster is None else ("--address", cluster.address)
    return [*address, "--set", f"output.uri={out}"]


def sample_indices(out: Path) -> list[int]:
    files = sorted((out / "data").glob("*.parquet"))
    return [i for file in files for i in pq.read_table(file)["sample_index"].to_pylist()]


def test_every_sample_is_there_once_in_order(finished: Path) -> None:
    assert sample_indices(finished) == list(range(24))
    assert damage_of(str(finished)) == []


def test_both_heads_worked(finished: Path) -> None:
    entries = SampleSet.open(str(finished)).entries()
    assert {entry.measured.head for entry in entries if entry.measured} == {"head-0", "head-1"}


def test_the_report_holds_what_was_measured(finished: Path) -> None:
    report = load_run(str(finished)).report
    assert report.sample_set.rows == 24
    assert report.throughput.images == 24
    assert report.retrieval is not None
    assert report.retrieval.per_batch.count == 6
    assert report.retrieval.per_query.count == 24
    assert report.retrieval.recall is not None
    assert report.retrieval.recall.value == 1.0
    assert [score.label for score in report.scores] == ["CLIP-FID", "precision", "recall"]
    assert len(report.provenance.ray_nodes) == 2
    assert len(report.illustrated) == 24
    assert all(len(sample.neighbor_ids) == 3 for sample in report.illustrated)


def test_the_page_opens_without_complaint(finished: Path) -> None:
    page = open_page(finished / "report.html")
    assert page.console_errors == ()
    assert page.requests == ()
    assert "precision" in page.dom_text


def test_one_head_makes_the_same_bytes_as_two(
    world: Path, finished: Path, two_nodes: TwoNodes, tmp_path: Path
) -> None:
    run_job(world / "job.yaml", *at(two_nodes, tmp_path), "--set", "cluster.heads=1")
    assert shard_digests(tmp_path) == shard_digests(finished)


def test_one_retriever_makes_the_same_bytes_as_two(
    world: Path, finished: Path, two_nodes: TwoNodes, tmp_path: Path
) -> None:
    one = ["--set", "database.retriever_shards=1", "--set", "evaluation=null"]
    run_job(world / "job.yaml", *at(two_nodes, tmp_path), *one)
    assert shard_digests(tmp_path) == shard_digests(finished)


TEXT = ("--set", "conditioning={mode: text, k_nn: 3, prompts: [a red circle, a blue square]}")


@pytest.mark.parametrize("conditioning", [(), TEXT], ids=["unconditional", "text"])
def test_a_job_without_ray_makes_the_same_bytes(
    world: Path,
    finished: Path,
    two_nodes: TwoNodes,
    tmp_path: Path,
    conditioning: tuple[str, ...],
) -> None:
    expected = finished
    if conditioning:
        expected = tmp_path / "on-ray"
        run_job(world / "job.yaml", *at(two_nodes, expected), *conditioning)
    out = tmp_path / "out"
    job = [str(world / "job.yaml"), *NO_RAY, "--set", f"output.uri={out}", *conditioning]
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LOOK_FOR_RAY, *job], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "modules of ray: []"
    assert shard_digests(out) == shard_digests(expected)
    report, on_ray = load_run(str(out)).report, load_run(str(expected)).report
    assert [head.name for head in report.throughput.heads] == ["head-0"]
    assert report.provenance.ray_nodes == ()
    assert [stage.name for stage in report.start_up] == ["checks", "first shard"]
    assert report.retrieval is not None
    assert on_ray.retrieval is not None
    assert report.retrieval.recall == on_ray.retrieval.recall
    assert report.scores == on_ray.scores
    assert report.illustrated == on_ray.illustrated


def test_running_again_does_nothing(world: Path, finished: Path, two_nodes: TwoNodes) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    printed = run_job(world / "job.yaml", "--address", "local")
    assert "nothing was done" in printed
    assert {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()} == before


def test_lost_shards_are_made_again_and_no_others(
    world: Path, finished: Path, two_nodes: TwoNodes, tmp_path: Path
) -> None:
    shutil.copytree(finished, tmp_path / "out")
    out = tmp_path / "out"
    kept = json.loads((out / "_shards" / "00000.json").read_text())
    (out / "_shards" / "00002.json").unlink()
    (out / "data" / "00004.parquet").unlink()
    (out / "_SUCCESS.json").unlink()
    run_job(world / "job.yaml", *at(two_nodes, out))
    assert shard_digests(out) == shard_digests(finished)
    assert json.loads((out / "_shards" / "00000.json").read_text()) == kept
    summary = load_run(str(out)).report.sample_set
    assert (summary.shards, summary.resumed_shards) == (6, 4)


def test_another_job_is_refused_and_nothing_changes(
    world: Path, finished: Path, two_nodes: TwoNodes
) -> None:
    before = shard_digests(finished)
    changed = ["--address", two_nodes.address, "--set", "sampling.seed=6"]
    with started_job(world / "job.yaml", *changed) as process:
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "sampling.seed: 5 -> 6" in printed
    assert shard_digests(finished) == before


def test_more_gpus_than_the_cluster_has_are_refused_before_anything_is_written(
    world: Path, two_nodes: TwoNodes, tmp_path: Path
) -> None:
    wanted = ["--set", "cluster.gpus_per_head=1", "--set", "cluster.heads=3"]
    with started_job(world / "job.yaml", *at(two_nodes, tmp_path / "out"), *wanted) as process:
        printed, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "has 0 GPUs, but 3 heads with 1 each were asked for" in printed
    assert "Traceback" not in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("class_name", ["HeadWorker", "RetrieverWorker"])
def test_a_killed_actor_costs_nothing_but_time(
    slow_world: Path,
    undisturbed: dict[str, str],
    two_nodes: TwoNodes,
    tmp_path: Path,
    class_name: str,
) -> None:
    with started_job(slow_world / "job.yaml", *at(two_nodes, tmp_path)) as process:
        wait_for_shards(tmp_path, 1, process)
        killed = kill_one(class_name, two_nodes.folder)
        printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert killed not in actor_processes(class_name, two_nodes.folder)
    assert shard_digests(tmp_path) == undisturbed
    assert sample_indices(tmp_path) == list(range(24))
    retrieval = load_run(str(tmp_path)).report.retrieval
    assert retrieval is not None
    assert [lost.times for lost in retrieval.lost] == [1] * (class_name == "RetrieverWorker")
    assert retrieval.resident_bytes is not None


@pytest.mark.parametrize("with_ray", [True, False], ids=["ray", "no ray"])
def test_a_killed_driver_resumes_with_the_same_command(
    slow_world: Path,
    undisturbed: dict[str, str],
    two_nodes: TwoNodes,
    tmp_path: Path,
    with_ray: bool,
) -> None:
    arguments = at(two_nodes if with_ray else None, tmp_path)
    with started_job(slow_world / "job.yaml", *arguments) as process:
        wait_for_shards(tmp_path, 1, process)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
    stored = sorted((tmp_path / "_shards").glob("*.json"))
    assert 0 < len(stored) < 6
    assert not (tmp_path / "_SUCCESS.json").exists()
    run_job(slow_world / "job.yaml", *arguments)
    assert shard_digests(tmp_path) == undisturbed
    assert sample_indices(tmp_path) == list(range(24))
    assert load_run(str(tmp_path)).report.sample_set.resumed_shards >= len(stored)


@pytest.mark.parametrize("with_ray", [True, False], ids=["ray", "no ray"])
def test_an_interrupted_job_ends_cleanly_and_says_how_to_resume(
    slow_world: Path,
    undisturbed: dict[str, str],
    two_nodes: TwoNodes,
    tmp_path: Path,
    with_ray: bool,
) -> None:
    arguments = at(two_nodes if with_ray else None, tmp_path)
    with started_job(slow_world / "job.yaml", *arguments) as process:
        wait_for_shards(tmp_path, 1, process)
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    resume = f"python -m rdm_batch.run {slow_world / 'job.yaml'} {' '.join(arguments)}"
    assert resume in printed
    run_job(slow_world / "job.yaml", *arguments)
    assert shard_digests(tmp_path) == undisturbed


def test_a_report_lost_before_it_was_written_is_made_from_what_is_stored(
    world: Path, finished: Path, two_nodes: TwoNodes, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    for name in ("report.json", "report.html", "latencies.parquet"):
        (out / name).unlink()
    run_job(world / "job.yaml", *at(two_nodes, out))
    report = load_run(str(out)).report
    before = load_run(str(finished)).report
    assert report.throughput.images == 24
    assert report.throughput.generation_s == before.throughput.generation_s
    assert report.retrieval is not None
    assert before.retrieval is not None
    assert report.retrieval.per_batch == before.retrieval.per_batch
    assert report.scores == before.scores
