from __future__ import annotations

from typing import Any

import pytest

import rdm_batch
from rdm_batch.cluster.pool import ClusterResources
from rdm_batch.errors import ClusterError
from rdm_batch.generation.head_worker import HeadResources, encoders_per_head, plan_resources
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.load import parse_job
from tests.worlds import World

LAPTOP = ClusterResources(num_nodes=1, num_cpus=8.0, num_gpus=0.0)
GPU_BOX = ClusterResources(num_nodes=1, num_cpus=16.0, num_gpus=4.0)


def _job(cpu_threads: int = 1, **cluster: Any) -> JobSpec:
    document = {
        "name": "a",
        "model": {"head": "noise", "cpu_threads": cpu_threads},
        "database": {"uri": "db"},
        "conditioning": {"mode": "unconditional"},
        "sampling": {"sampler": "none", "num_samples": 8},
        "output": {"uri": "out"},
        "cluster": cluster,
    }
    return parse_job(document, "job")


@pytest.mark.parametrize(
    ("job", "cluster", "expected"),
    [
        (_job(), LAPTOP, HeadResources(8, 1.0, 0.0)),
        (_job(cpu_threads=3), LAPTOP, HeadResources(2, 3.0, 0.0)),
        (_job(cpus_per_head=0.5), LAPTOP, HeadResources(16, 0.5, 0.0)),
        (_job(cpus_per_head=0), LAPTOP, HeadResources(100, 0.0, 0.0)),
        (_job(heads=3), LAPTOP, HeadResources(3, 1.0, 0.0)),
        (_job(), GPU_BOX, HeadResources(4, 1.0, 1.0)),
        (_job(cpu_threads=3), GPU_BOX, HeadResources(4, 1.0, 1.0)),
        (_job(gpus_per_head=0.5), GPU_BOX, HeadResources(8, 1.0, 0.5)),
        (_job(cpus_per_head=8), GPU_BOX, HeadResources(2, 8.0, 1.0)),
        (_job(gpus_per_head=0), GPU_BOX, HeadResources(16, 1.0, 0.0)),
    ],
)
def test_heads_fill_the_cluster(
    job: JobSpec, cluster: ClusterResources, expected: HeadResources
) -> None:
    assert plan_resources(job, cluster, 100) == expected


def test_no_more_heads_than_shards_are_started() -> None:
    assert plan_resources(_job(), LAPTOP, 3).num_heads == 3
    assert plan_resources(_job(heads=5), LAPTOP, 3).num_heads == 3


@pytest.mark.parametrize(
    ("job", "cluster", "words"),
    [
        (_job(gpus_per_head=1), LAPTOP, "has 0 GPUs, but 1 heads with 1 each"),
        (_job(heads=8), GPU_BOX, "has 4 GPUs, but 8 heads with 1 each"),
        (_job(heads=9), LAPTOP, "has 8 CPUs, but 9 heads with 1 each"),
        (_job(cpus_per_head=9), LAPTOP, "has 8 CPUs, but 1 heads with 9 each"),
        (_job(heads=2, cpu_threads=5), LAPTOP, "has 8 CPUs, but 2 heads with 5 each"),
    ],
)
def test_more_than_the_cluster_has_is_refused(
    job: JobSpec, cluster: ClusterResources, words: str
) -> None:
    with pytest.raises(ClusterError, match=r"lower cluster\.heads or cluster\..pus_per_head") as e:
        plan_resources(job, cluster, 100)
    assert words in str(e.value)


@pytest.mark.parametrize(
    ("job", "device", "expected"),
    [
        (_job(), "cpu", 0),
        (_job(), "cuda", 2),
        (_job(encoders_per_head=0), "cuda", 0),
        (_job(encoders_per_head=3), "cpu", 3),
    ],
)
def test_encoders_leave_the_process_of_a_gpu_alone(
    job: JobSpec, device: str, expected: int
) -> None:
    assert encoders_per_head(job, device) == expected


def test_encoders_store_what_the_head_itself_does(built_world: World) -> None:
    success = []
    for encoders in (0, 2):
        output = {"uri": str(built_world.root / f"encoders-{encoders}"), "shard_size": 4}
        job = parse_job(
            built_world.job(output=output, cluster={"encoders_per_head": encoders}), "job"
        )
        report = rdm_batch.run(job, address="none")
        success.append(rdm_batch.open_sample_set(job.output.uri).success())
        times = report.throughput.heads[0].times
        assert times.encoding_s + times.writing_s + times.model_s > 0
    assert success[0] == success[1]
