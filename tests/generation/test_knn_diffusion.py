"""Whole jobs with a KNN-Diffusion head, and what it asks of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rdm_batch
from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.specs.load import parse_job
from tests.tiny_heads import TINY_KNN_DISCRETE, random_weights
from tests.worlds import World, assert_says, checked, problem_of

SAMPLING = {"sampler": "mask_replace", "num_steps": 3, "num_samples": 10, "batch_size": 4}


@pytest.fixture
def knn_world(world: World, tmp_path: Path) -> World:
    path = tmp_path / "knn.safetensors"
    save_checkpoint(path, TINY_KNN_DISCRETE, random_weights(TINY_KNN_DISCRETE))
    model = {"head": "knn_diffusion", "backbone": "discrete", "checkpoint": str(path)}
    return World(world.root, world.job(model=model, sampling=SAMPLING, evaluation=None))


def _text(context: str, k_nn: int) -> dict[str, Any]:
    return {"mode": "text", "prompts": ["a red circle"], "context": context, "k_nn": k_nn}


@pytest.mark.parametrize(
    "conditioning",
    [
        {"mode": "unconditional", "k_nn": 4},
        _text("text_and_neighbors", 4),
        _text("text", 1),
    ],
)
def test_a_job_makes_its_samples_whatever_their_shards(
    knn_world: World, conditioning: dict[str, Any]
) -> None:
    images = []
    for shard_size in (10, 4):
        document = knn_world.job(conditioning=conditioning, output__shard_size=shard_size)
        batches = list(rdm_batch.generate(parse_job(document, "jobs/a.yaml")))
        images.append(np.concatenate([batch.images for batch in batches]))
    assert images[0].shape == (10, 8, 8, 3)
    assert len(np.unique(images[0].reshape(10, -1), axis=0)) > 5
    # The last batch of a shard has another shape, which moves the last digits of sums.
    assert np.abs(images[0].astype(int) - images[1]).max() <= 1


@pytest.mark.parametrize(
    "conditioning",
    [
        _text("neighbors", 4),
        _text("text", 2),
        {"mode": "class", "labels": ["circle"], "k_nn": 2, "pool_size": 4},
    ],
)
def test_a_context_without_its_query_is_refused(
    knn_world: World, conditioning: dict[str, Any]
) -> None:
    message = problem_of(knn_world.job(conditioning=conditioning))
    assert_says(message, "knn_diffusion no query", "context whose first entry is the query")


def test_more_steps_than_times_are_refused_before_anything_starts(knn_world: World) -> None:
    message = problem_of(knn_world.job(sampling__num_steps=21))
    assert_says(message, "sampling.num_steps: 21 steps; needed 1 to 20 steps")


def test_a_solver_that_overruns_its_schedule_is_refused_before_anything_starts(
    world: World,
) -> None:
    sampling = {
        "sampler": "ddim", "num_steps": 999, "timesteps": "published", "num_samples": 24,
    }  # fmt: skip
    assert_says(problem_of(world.job(sampling=sampling)), "999 steps overrun the schedule")


def test_the_unconditional_query_leads_its_context(knn_world: World) -> None:
    job = checked(knn_world.job(conditioning={"mode": "unconditional", "k_nn": 3}))
    batch = next(iter(rdm_batch.generate(job.spec)))
    assert np.array_equal(batch.neighbor_ids[:, 0], batch.query_ids)
