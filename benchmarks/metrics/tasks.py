"""What ``benchmarks.metrics.scores`` measures, each task to be run in a process of its own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.timing import best_time, once, peak_memory_bytes

DIM = 2048
# Images torch-fidelity and the floor take at a time.
BATCH = 32


def features(count: int, seed: int, dim: int = DIM) -> np.ndarray:
    """Draw features as Inception makes them: non-negative, correlated."""
    mix = np.random.default_rng(7).standard_normal((64, dim)).astype(np.float32)
    rng = np.random.default_rng(seed)
    made = np.empty((count, dim), np.float32)
    for start in range(0, count, 4096):
        rows = made[start : start + 4096]
        rng.standard_normal(out=rows, dtype=np.float32)
        rows *= 0.5
        rows += rng.standard_normal((len(rows), 64), dtype=np.float32) @ mix / 8
        np.abs(rows, out=rows)
    return made


def product_speed(dtype: torch.dtype) -> float:
    """Measure the multiply-adds per second of a matrix product."""
    left = torch.randn(2048, DIM, dtype=dtype)
    return 2048 * 2048 * DIM / best_time(lambda: left @ left.T, 4)


def pairs_ours(count: int, other: int) -> dict[str, Any]:
    from rdm_batch.metrics.manifold_scores import manifold_scores

    generated, reference = features(count, 0), features(other, 1)
    seconds, result = once(lambda: manifold_scores(generated, reference).precision_recall)
    values = [result.precision, result.recall]
    return {"seconds": seconds, "value": values, "peak_bytes": peak_memory_bytes()}


def pairs_torch_fidelity(count: int, other: int) -> dict[str, Any]:
    from torch_fidelity.metric_prc import prc_features_to_metric

    sides = [torch.from_numpy(features(n, seed)) for n, seed in ((count, 0), (other, 1))]
    seconds, found = once(lambda: prc_features_to_metric(*sides, verbose=False))
    values = [found["precision"], found["recall"]]
    return {"seconds": seconds, "value": values, "peak_bytes": peak_memory_bytes()}


def features_ours(folder: str, weights: str) -> dict[str, Any]:
    from rdm_batch.evaluation.features import extract_part
    from rdm_batch.inputs.extractors import load_extractor
    from rdm_batch.inputs.image_sets import open_image_set
    from rdm_batch.specs.job import ExtractorSpec

    extractor = load_extractor(ExtractorSpec(name="inception-v3-compat", weights=weights))
    images = open_image_set(folder)
    extractor.extract(next(images.batches(images.parts[0]))[1][:8])
    seconds, parts = once(lambda: [extract_part(images, p, extractor) for p in images.parts])
    return {"seconds": seconds, "mean": float(parts[0].layer("2048").mean())}


def features_torch_fidelity(folder: str, weights: str) -> dict[str, Any]:
    from torch_fidelity.utils import create_feature_extractor, extract_featuresdict_from_input_id

    extractor = create_feature_extractor(
        "inception-v3-compat",
        ["2048", "logits_unbiased"],
        cuda=False,
        feature_extractor_weights_path=weights,
        verbose=False,
    )
    with torch.no_grad():
        extractor(torch.zeros(8, 3, 64, 64, dtype=torch.uint8))
    settings = {"input1": folder, "cuda": False, "verbose": False, "batch_size": BATCH}
    seconds, found = once(lambda: extract_featuresdict_from_input_id(1, extractor, **settings))
    return {"seconds": seconds, "mean": float(found["2048"].mean())}


def features_floor(folder: str, weights: str) -> dict[str, Any]:
    """Run the network alone, on as many images, resized and in memory."""
    from rdm_batch.inputs.extractors import load_extractor
    from rdm_batch.specs.job import ExtractorSpec

    extractor = load_extractor(ExtractorSpec(name="inception-v3-compat", weights=weights))
    size, left = extractor.description.image_size, len(list(Path(folder).iterdir()))
    images = np.random.default_rng(0).integers(0, 256, (BATCH, size, size, 3), np.uint8)
    extractor.extract(images[:8])
    batches = [images[: left - start] for start in range(0, left, len(images))]
    seconds, _ = once(lambda: [extractor.extract(batch) for batch in batches])
    return {"seconds": seconds}


def fid_ours(count: int) -> dict[str, Any]:
    from rdm_batch.metrics.frechet import frechet_distance
    from rdm_batch.metrics.moments import gaussian_statistics

    generated, other = features(count, 0), features(count, 1)
    seconds, value = once(
        lambda: frechet_distance(gaussian_statistics(generated), gaussian_statistics(other))
    )
    return {"seconds": seconds, "value": value}


def fid_torch_fidelity(count: int) -> dict[str, Any]:
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    sides = [torch.from_numpy(features(count, seed)) for seed in (0, 1)]
    seconds, found = once(
        lambda: fid_statistics_to_metric(*map(fid_features_to_statistics, sides), verbose=False)
    )
    return {"seconds": seconds, "value": found["frechet_inception_distance"]}


def fid_floor(count: int) -> dict[str, Any]:
    """Time what cannot be left out: two covariances, a root, its products and eigenvalues."""
    sides = [features(count, seed).astype(np.float64) for seed in (0, 1)]

    def run() -> None:
        first, second = (rows.T @ rows for rows in sides)
        _, vectors = np.linalg.eigh(first)
        np.linalg.eigvalsh(vectors.T @ second @ vectors)

    return {"seconds": once(run)[0]}


def scores(count: int) -> dict[str, Any]:
    """Compute every score of Inception features, group by group, from memory."""
    from rdm_batch.metrics.compute import compute_scores
    from rdm_batch.metrics.features import FeatureSet
    from rdm_batch.metrics.reference import ReferenceStatistics

    generated = feature_set(count, 0, "0" * 64)
    reference = ReferenceStatistics.from_features(feature_set(count, 1, "0" * 64))
    assert isinstance(generated, FeatureSet)
    groups = ["fid"], ["sfid"], ["is"], ["kid"], ["precision", "recall", "density", "coverage"]
    seconds = {
        ", ".join(names): once(lambda names=names: compute_scores(generated, reference, names))[0]
        for names in groups
    }
    return {"seconds": sum(seconds.values()), "per_score": seconds}


def feature_set(count: int, seed: int, digest: str) -> Any:
    """Make features of every Inception layer."""
    from rdm_batch.metrics.features import ExtractorDescription, FeatureSet
    from rdm_batch.metrics.networks import InceptionFeatures

    description = ExtractorDescription(
        name="inception-v3-compat",
        digest=digest,
        image_size=InceptionFeatures.IMAGE_SIZE,
        resize="tensorflow-bilinear",
        layers=InceptionFeatures.LAYERS,
    )
    layers = {name: features(count, seed, dim) for name, dim in description.layers.items()}
    return FeatureSet(description, np.arange(count), layers, "benchmark")


def keep_features(images: str, weights: str, seed: int) -> dict[str, Any]:
    """Store made-up features of every image of a set, as an extraction would."""
    from rdm_batch.evaluation.features import store_features
    from rdm_batch.inputs.extractors import extractor_digest
    from rdm_batch.inputs.image_sets import open_image_set
    from rdm_batch.metrics.features import FeatureSet
    from rdm_batch.specs.job import ExtractorSpec

    opened = open_image_set(images)
    digest = extractor_digest(ExtractorSpec(name="inception-v3-compat", weights=weights))
    whole = feature_set(opened.num_images, seed, digest)
    for part in opened.parts:
        rows = slice(part.first, part.first + part.num_images)
        layers = {name: found[rows] for name, found in whole.layers.items()}
        found = FeatureSet(whole.extractor, whole.ids[rows], layers, images)
        store_features(opened, part, found)
    return {"parts": len(opened.parts)}


def workers(folder: str, weights: str, actors: int) -> dict[str, Any]:
    """Extract by Ray actors of one thread; count from the first part each has finished."""
    import rdm_batch.inputs.image_sets as image_sets
    from rdm_batch.cluster.connect import connected
    from rdm_batch.evaluation.extraction import extract_features
    from rdm_batch.specs.job import ExtractorSpec

    image_sets.PART_IMAGES = 16
    spec = ExtractorSpec(name="inception-v3-compat", weights=weights)
    marks: list[tuple[float, int]] = []
    with tempfile.TemporaryDirectory() as cache, connected("local") as cluster:
        os.environ["RDM_BATCH_CACHE"] = cache
        extract_features(
            cluster,
            image_sets.open_image_set(folder),
            spec,
            lambda _images, _spec, count: marks.append((time.perf_counter(), count)),
            max_workers=actors,
        )
    # The first mark is of what was stored before; then actors take seconds to start.
    steady = marks[1:][actors - 1 :]
    images = sum(count for _, count in steady[1:])
    return {"seconds": steady[-1][0] - steady[0][0], "images": images}


def write_images(folder: Path, count: int, size: int) -> None:
    """Write smooth pictures with some noise: PNG files of ordinary size."""
    from rdm_batch.storage.png import encode_png

    rng = np.random.default_rng(0)
    for index in range(count):
        coarse = torch.from_numpy(rng.random((1, 3, 8, 8), dtype=np.float32))
        smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic")
        pixels = 255 * smooth[0].permute(1, 2, 0).numpy() + rng.normal(0, 4, (size, size, 3))
        image = np.clip(pixels, 0, 255).astype(np.uint8)
        (folder / f"{index:05d}.png").write_bytes(encode_png(image))


TASKS: dict[str, Callable[..., dict[str, Any]]] = {
    "pairs-ours": pairs_ours,
    "pairs-torch-fidelity": pairs_torch_fidelity,
    "features-ours": features_ours,
    "features-torch-fidelity": features_torch_fidelity,
    "features-floor": features_floor,
    "fid-ours": fid_ours,
    "fid-torch-fidelity": fid_torch_fidelity,
    "fid-floor": fid_floor,
    "scores": scores,
    "keep-features": keep_features,
    "workers": workers,
}
