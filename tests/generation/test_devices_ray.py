"""Heads on a Ray that counts GPUs which are not there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rdm_batch.cluster.connect import connected
from rdm_batch.errors import ClusterError
from rdm_batch.generation import head_worker
from rdm_batch.generation.head_worker import HeadWorker
from rdm_batch.generation.job import run
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.sample_set import SampleSet
from tests.worlds import World


class BesideGpus(HeadWorker):
    """A head in a process that sees GPUs, as Ray leaves them visible."""

    def __init__(self, *args: Any) -> None:
        torch.cuda.is_available = lambda: True
        super().__init__(*args)


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[str]:
    """Start a Ray of one node with two GPUs by name alone."""
    from ray.cluster_utils import Cluster

    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        node = {
            "num_cpus": 2,
            "num_gpus": 2,
            "node_ip_address": "127.0.0.1",
            "object_store_memory": 100 * 2**20,
            "include_dashboard": False,
            "temp_dir": name,
        }
        cluster = Cluster(initialize_head=True, head_node_args=node)
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


def test_heads_follow_what_they_reserve(
    two_gpus: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(two_gpus) as cluster:
        assert cluster.resources.num_gpus == 2
    with pytest.raises(ClusterError, match=r"one is reserved, but PyTorch .* finds none"):
        run(parse_job(world.job(evaluation=None), "job"), two_gpus)
    monkeypatch.setattr(head_worker, "HeadWorker", BesideGpus)
    spec = parse_job(world.job(cluster={"gpus_per_head": 0}, evaluation=None), "job")
    run(spec, two_gpus)
    measured = [entry.measured for entry in SampleSet.open(spec.output.uri).entries()]
    assert {entry.device.split()[0] for entry in measured if entry is not None} == {"cpu"}
