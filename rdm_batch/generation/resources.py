"""How many heads a job gets of a cluster, and what each of them reserves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rdm_batch.cluster.pool import ClusterResources
from rdm_batch.errors import ClusterError
from rdm_batch.specs.job import JobSpec


@dataclass(frozen=True)
class HeadResources:
    """Heads to start and what each reserves."""

    num_heads: int
    num_cpus: float
    num_gpus: float


def plan_resources(spec: JobSpec, cluster: ClusterResources, num_shards: int) -> HeadResources:
    """Divide a cluster between heads.

    Args:
        spec: The job.
        cluster: What there is.
        num_shards: Shards to make; more heads than shards would idle.

    Raises:
        ClusterError: The cluster has too few GPUs or CPUs for the heads asked for.
    """
    wanted = spec.cluster
    num_gpus = wanted.gpus_per_head
    if num_gpus is None:
        num_gpus = 1.0 if cluster.num_gpus else 0.0
    num_cpus = wanted.cpus_per_head
    if num_cpus is None:
        num_cpus = 1.0 if num_gpus else float(spec.model.cpu_threads)
    by_gpus = cluster.num_gpus / num_gpus if num_gpus else math.inf
    by_cpus = cluster.num_cpus / num_cpus if num_cpus else math.inf
    room = min(by_gpus, by_cpus, num_shards)
    num_heads = wanted.heads or max(1, math.floor(room))
    for name, each, has in (
        ("GPU", num_gpus, cluster.num_gpus),
        ("CPU", num_cpus, cluster.num_cpus),
    ):
        if num_heads * each > has:
            raise ClusterError(
                "cluster",
                f"has {has:g} {name}s, but {num_heads} heads with {each:g} each were asked for",
                f"at most {has:g} {name}s in all",
                f"lower cluster.heads or cluster.{name.lower()}s_per_head, or use a larger cluster",
            )
    return HeadResources(min(num_heads, num_shards), num_cpus, num_gpus)
