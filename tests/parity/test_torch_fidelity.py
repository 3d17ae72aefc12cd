"""The same images through the same Inception weights, here and in torch-fidelity 0.4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from torch_fidelity import calculate_metrics

from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.metrics.compute import ScoreSettings, compute_scores
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.metrics.networks import load_network_extractor
from rdm_batch.metrics.reference import ReferenceStatistics
from tests.metrics.random_networks import write_inception
from tests.tolerances import TORCH_FIDELITY_REL

COUNT = 20


class _Images(Dataset):
    def __init__(self, images: np.ndarray) -> None:
        self._images = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self._images[index]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    write_inception(path)
    return path


@pytest.fixture(scope="module")
def sides() -> tuple[np.ndarray, np.ndarray]:
    source = ShapesSource("reference", 2 * COUNT)
    images = np.stack([source[index].image for index in range(2 * COUNT)])
    # From clean to unrecognizable: some samples lie in the reference manifold, and the distance
    # is far above what torch-fidelity's eigenvalues add with fewer samples than dimensions.
    strength = np.linspace(0, 1, COUNT)[:, None, None, None]
    noise = strength * np.random.default_rng(0).integers(-300, 301, images[:COUNT].shape)
    return np.clip(images[:COUNT] + noise, 0, 255).astype(np.uint8), images[COUNT:]


def test_scores_of_the_same_images_equal(
    weights: Path, sides: tuple[np.ndarray, np.ndarray]
) -> None:
    theirs = calculate_metrics(
        input1=_Images(sides[0]),
        input2=_Images(sides[1]),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        feature_layer_prc="2048",
        **dict.fromkeys(("isc", "fid", "kid", "prc"), True),
        isc_splits=2,
        kid_subsets=8,
        kid_subset_size=15,
        batch_size=16,
        cuda=False,
        save_cpu_ram=True,
        verbose=False,
    )
    extractor = load_network_extractor("inception-v3-compat", weights)
    generated, reference = (
        FeatureSet(
            extractor.description,
            np.arange(COUNT, dtype=np.int64),
            extractor.extract(images),
            "memory",
        )
        for images in sides
    )
    ours = {
        score.id: score
        for score in compute_scores(
            generated,
            ReferenceStatistics.from_features(reference),
            ["fid", "kid", "is", "precision", "recall", "sfid"],
            ScoreSettings(splits=2, subsets=8, subset_size=15),
        )
    }
    expected = {
        "fid": theirs["frechet_inception_distance"],
        "kid": theirs["kernel_inception_distance_mean"],
        "is": theirs["inception_score_mean"],
        "precision": theirs["precision"],
        "recall": theirs["recall"],
    }
    for name, value in expected.items():
        assert ours[name].value == pytest.approx(value, rel=TORCH_FIDELITY_REL), name
    assert ours["kid"].uncertainty == pytest.approx(
        theirs["kernel_inception_distance_std"], rel=1e-4
    )
    # The numbers are those of sets that differ, or little would be tested.
    assert ours["fid"].value > 20
    assert 0 < ours["precision"].value < 1
    assert ours["is"].value > 1.01
    assert ours["sfid"].value > 1
