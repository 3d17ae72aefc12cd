"""Workers compute on what was reserved for them, not on what happens to be visible."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from rdm_batch.cluster.pool import ClusterResources
from rdm_batch.errors import ClusterError, SampleSetError, SpecError
from rdm_batch.evaluation import extraction
from rdm_batch.generation import batches, head_worker
from rdm_batch.generation.head_worker import plan_resources
from rdm_batch.generation.job import run
from rdm_batch.heads.devices import require_device
from rdm_batch.inputs.weights import OpenedCheckpoint
from rdm_batch.reports.table import print_summary
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.sample_set import SampleSet
from tests.worlds import World

ONE_GPU = ClusterResources(num_nodes=1, num_cpus=8.0, num_gpus=1.0)


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Pretend a machine with a GPU; collect where heads and extractors are put."""
    used: list[str] = []

    def on_cpu(load: Callable[..., Any], place: int) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            used.append(args[place])
            return load(*args[:place], "cpu")

        return run

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in ("cluster.local", "generation.job", "generation.batches"):
        monkeypatch.setattr(f"rdm_batch.{module}.local_resources", lambda: ONE_GPU)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(head_worker, "measure_peak", lambda precision, device: 1e14)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    monkeypatch.setattr(torch._C, "_cuda_getDriverVersion", lambda: 13000, raising=False)
    monkeypatch.setattr(OpenedCheckpoint, "load_head", on_cpu(OpenedCheckpoint.load_head, 3))
    monkeypatch.setattr(extraction, "load_extractor", on_cpu(extraction.load_extractor, 1))
    return used


@pytest.mark.parametrize(("cluster", "device"), [({}, "cuda"), ({"gpus_per_head": 0}, "cpu")])
def test_a_head_computes_on_the_gpu_it_reserves_and_else_on_the_cpu(
    world: World, one_gpu: list[str], cluster: dict[str, Any], device: str
) -> None:
    report = run(parse_job(world.job(cluster=cluster), "job"), "none")
    # The extractor takes the GPU of this process, which is the user's alone.
    assert one_gpu == [device, "cuda"]
    assert report.throughput.heads[0].device.startswith(f"{device} on ")


@pytest.mark.parametrize(("cluster", "device"), [({}, "cuda"), ({"gpus_per_head": 0}, "cpu")])
def test_images_made_here_come_from_the_same_device(
    world: World, one_gpu: list[str], cluster: dict[str, Any], device: str
) -> None:
    next(batches.generate(parse_job(world.job(cluster=cluster), "job")))
    assert one_gpu == [device]


def test_the_driver_leaves_the_gpus_of_a_shared_cluster_alone(
    world: World, one_gpu: list[str], tmp_path: Path
) -> None:
    spec = parse_job(world.job(), "job")
    run(spec, "none")
    shutil.rmtree(tmp_path / "out" / "_features")
    one_gpu.clear()
    assert spec.evaluation is not None
    images = extraction.open_image_set(spec.output.uri)
    cluster = MagicMock(resources=ONE_GPU)  # any cluster but this process
    extraction.extract_features(cluster, images, spec.evaluation.extractor, lambda *_: None)
    assert one_gpu == ["cpu"]


def test_a_gpu_that_was_reserved_and_cannot_be_used_is_an_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    assert require_device("cpu") == "cpu"
    with pytest.raises(ClusterError, match=r"one is reserved, but PyTorch .* finds none"):
        require_device("cuda")


def test_tf32_is_refused_before_heads_start_without_gpus(world: World) -> None:
    spec = parse_job(world.job(model__precision="tf32"), "job")
    assert plan_resources(spec, ONE_GPU, 4).num_gpus == 1
    for cluster, wanted in ((ClusterResources(1, 8.0, 0.0), {}), (ONE_GPU, {"gpus_per_head": 0})):
        spec = parse_job(world.job(model__precision="tf32", cluster=wanted), "job")
        with pytest.raises(SpecError, match="is tf32, an arithmetic of NVIDIA GPUs"):
            plan_resources(spec, cluster, 4)


def test_what_was_begun_on_a_gpu_goes_on_on_a_cpu_only_if_asked_to(
    world: World, one_gpu: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = run(parse_job(world.job(evaluation=None), "job"), "none")
    assert begun.sample_set.device_classes == ("cuda sm90 NVIDIA H200",)
    measured = SampleSet.open(str(tmp_path / "out")).entries()[0].measured
    assert measured is not None
    assert set(measured.device_software) == {"torch", "cuda", "cudnn", "driver"}
    for name in ("_shards/00001.json", "_SUCCESS.json"):
        (tmp_path / "out" / name).unlink()
    on_cpu = {"gpus_per_head": 0}
    with pytest.raises(SampleSetError, match=r"begun on cuda sm90 NVIDIA H200, .* computes on cpu"):
        run(parse_job(world.job(evaluation=None, cluster=on_cpu), "job"), "none")
    # The same job with the same digest, told to go on.
    mixed = world.job(evaluation=None, cluster={**on_cpu, "mixed_devices": True})
    report = run(parse_job(mixed, "job"), "none")
    assert report.sample_set.device_classes == ("cpu", "cuda sm90 NVIDIA H200")
    assert report.spec_digest == begun.spec_digest
    print_summary(report)
    assert "made on cpu and cuda sm90 NVIDIA H200" in " ".join(capsys.readouterr().out.split())
