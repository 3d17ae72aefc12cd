"""Features and scores on a Ray of two nodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.cluster.connect import connected
from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.pool import Cluster
from rdm_batch.errors import MetricError
from rdm_batch.evaluation.evaluate import EvaluationRequest, evaluate
from rdm_batch.evaluation.extraction import extract_features, run_evaluation
from rdm_batch.evaluation.features import load_features, parts_without_features
from rdm_batch.inputs.extractors import extractor_digest
from rdm_batch.inputs.image_sets import ImageSet, open_image_set
from rdm_batch.metrics.kernel_distance import kernel_distance
from rdm_batch.metrics.manifold_scores import manifold_scores
from rdm_batch.specs.job import EvaluationSpec, ExtractorSpec
from rdm_batch.storage.png import encode_png
from tests.job_kit import write_encoder, write_reference
from tests.metrics.examples import cloud
from tests.ray_kit import kill_one
from tests.ray_nodes import TwoNodes
from tests.tolerances import NETWORK_REL

COUNT = 60


@pytest.fixture(scope="module")
def cluster(two_nodes: TwoNodes) -> Iterator[Cluster]:
    with connected(two_nodes.address) as cluster:
        yield cluster


@pytest.fixture
def parts_of_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut small sets into parts; every node gets an actor."""
    monkeypatch.setattr("rdm_batch.inputs.image_sets.PART_IMAGES", 10)
    monkeypatch.setattr("rdm_batch.evaluation.extraction.images_per_worker", lambda _: 30)


@pytest.fixture
def extractor(tmp_path: Path) -> ExtractorSpec:
    weights = write_encoder(tmp_path / "clip.safetensors")
    return ExtractorSpec(name="tiny-clip", weights=str(weights))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    root.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    for index, image in enumerate(images):
        (root / f"{index:03d}.png").write_bytes(encode_png(image))
    return root


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("parts_of_ten")
def test_scores_of_actors_equal_those_of_one_process(
    cluster: Cluster,
    folder: Path,
    extractor: ExtractorSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = Path(str(extractor.weights))
    reference = write_reference(tmp_path / "reference.npz", weights)
    evaluation = EvaluationSpec(
        reference=str(reference), scores=("fid", "kid", "recall"), extractor=extractor
    )
    request = EvaluationRequest(str(folder), evaluation)
    stored: list[int] = []
    scores = run_evaluation(cluster, request, stored.append).scores
    assert sum(stored) == COUNT
    assert len(stored) == 7

    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "another"))

    def extract(images: ImageSet, used: ExtractorSpec) -> None:
        extract_features(LocalCluster(), images, used, lambda *_: None)

    for score, expected in zip(scores, evaluate(request, extract).scores, strict=True):
        assert score.description == expected.description
        assert score.value == pytest.approx(expected.value, rel=100 * NETWORK_REL)


@pytest.mark.usefixtures("parts_of_ten")
def test_extraction_survives_the_death_of_an_actor(
    cluster: Cluster, folder: Path, extractor: ExtractorSpec, two_nodes: TwoNodes
) -> None:
    images = open_image_set(str(folder))
    killed: list[int] = []

    def kill_after_the_first(_images: ImageSet, _extractor: ExtractorSpec, count: int) -> None:
        if count and not killed:
            killed.append(kill_one("ExtractorWorker", two_nodes.folder))

    extract_features(cluster, images, extractor, kill_after_the_first)
    assert killed
    digest = extractor_digest(extractor)
    assert parts_without_features(images, digest) == []
    assert load_features(images, digest).ids.tolist() == list(range(COUNT))


@pytest.mark.usefixtures("parts_of_ten")
def test_a_failure_in_an_actor_is_the_error_it_was(
    cluster: Cluster, folder: Path, extractor: ExtractorSpec
) -> None:
    (folder / "033.png").write_bytes(encode_png(np.zeros((9, 9, 3), np.uint8)))
    with pytest.raises(MetricError, match=r"59 of 16 x 16, 1 of 9 x 9; 033\.png"):
        extract_features(cluster, open_image_set(str(folder)), extractor, lambda *_: None)


def test_large_scores_in_tasks_equal_those_of_one_process(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdm_batch.cluster.ray_cluster._LEAST_SHARED_BYTES", 0)
    generated, reference = cloud(300, 24, seed=0), cloud(250, 24, seed=1)
    tasks = cluster.tasks()
    assert tasks.num_tasks == 4
    here = manifold_scores(generated, reference, 3, 5, block_size=64)
    there = manifold_scores(generated, reference, 3, 5, 64, tasks)
    for mine, theirs in zip(vars(here).values(), vars(there).values(), strict=True):
        for first, second in zip(vars(mine).values(), vars(theirs).values(), strict=True):
            np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(
        kernel_distance(generated, reference, 10, 100).per_subset,
        kernel_distance(generated, reference, 10, 100, runner=tasks).per_subset,
    )
