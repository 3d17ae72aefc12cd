"""From ``--address`` to a cluster: this process, a Ray started here, or one that is running."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.pool import Cluster

NONE = "none"
"""The address that means: no Ray, work in this process."""


@contextmanager
def connected(address: str) -> Iterator[Cluster]:
    """Give a cluster to work on for the duration of a block.

    Args:
        address: ``none`` works in this process, and never imports Ray; ``local`` starts one on
            this machine that ends with the block; ``auto`` joins the running one; anything
            else is the address of a cluster.

    Raises:
        ClusterError: There is no cluster at the address, or the local one did not start.
    """
    if address == NONE:
        yield LocalCluster()
        return
    from rdm_batch.cluster.ray_cluster import joined  # imports ray, which takes 2 s

    with joined(address) as cluster:
        yield cluster
