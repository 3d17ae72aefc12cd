"""Start a Ray of our own or join one, quietly, and say what it offers."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# A Ray started here serves this process alone: it binds to loopback (the node address by
# itself would be rewritten), needs no tokens and sends no usage data. Read when ray is
# imported, therefore set before; whoever sets them otherwise is obeyed.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

import ray

from rdm_batch.errors import ClusterError
from rdm_batch.reports.provenance import describe_machine
from rdm_batch.reports.run_report import RayNode


@dataclass(frozen=True)
class ClusterResources:
    """What the joined cluster has in total.

    Args:
        num_nodes: Nodes alive.
        num_cpus: CPUs over all nodes.
        num_gpus: GPUs over all nodes.
    """

    num_nodes: int
    num_cpus: float
    num_gpus: float


def local_resources() -> ClusterResources:
    """Say what a Ray started on this machine will offer, without starting it."""
    machine = describe_machine()
    return ClusterResources(1, float(machine.num_cores), float(len(machine.gpus)))


@contextlib.contextmanager
def connected(address: str) -> Iterator[ClusterResources]:
    """Start or join Ray for the duration of a block.

    Args:
        address: ``local`` starts one on this machine that ends with the block; ``auto``
            joins the running one; anything else is the address of a cluster.

    Raises:
        ClusterError: There is no cluster at the address, or the local one did not start.
    """
    start_here: dict[str, Any] = {"include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    try:
        ray.init(
            address=address,
            logging_level=logging.ERROR,
            log_to_driver=False,
            **(start_here if address == "local" else {}),
        )
    except Exception as error:
        # Ray raises bare Exception when a node does not come up in time.
        reason = " ".join(str(error).split())[:300]
        raise ClusterError(
            f"Ray at {address}",
            f"could not be {'started' if address == 'local' else 'joined'} ({reason})",
            "",
            "start a cluster there, or use --address local",
        ) from None
    try:
        total = ray.cluster_resources()
        alive = sum(node["Alive"] for node in ray.nodes())
        yield ClusterResources(alive, total.get("CPU", 0.0), total.get("GPU", 0.0))
    finally:
        ray.shutdown()


def describe_nodes() -> tuple[RayNode, ...]:
    """Describe the nodes of the cluster this process is connected to."""
    return tuple(
        RayNode(
            name=node["NodeManagerHostname"],
            num_cpus=node["Resources"].get("CPU", 0),
            num_gpus=node["Resources"].get("GPU", 0),
            memory_bytes=int(node["Resources"].get("memory", 0)),
        )
        for node in ray.nodes()
        if node["Alive"]
    )
