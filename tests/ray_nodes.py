"""A Ray of two nodes, shared by all tests that need one."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class TwoNodes:
    """A Ray cluster of two nodes on this machine, with room for one head on each."""

    address: str
    folder: Path


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[TwoNodes]:
    from ray.cluster_utils import Cluster

    # Ray's sockets live in this folder, and the path of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        common = {
            "num_cpus": 1,
            "num_gpus": 0,
            "node_ip_address": "127.0.0.1",
            "object_store_memory": 200 * 2**20,
            "include_dashboard": False,
        }
        cluster = Cluster(initialize_head=True, head_node_args={**common, "temp_dir": name})
        try:
            cluster.add_node(**common)
            yield TwoNodes(cluster.address, Path(name))
        finally:
            cluster.shutdown()
