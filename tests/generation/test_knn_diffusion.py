"""Whole jobs with a KNN-Diffusion head, and what it asks of a job."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rdm_batch
from rdm_batch.errors import InvalidJobError
from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.load import parse_job
from tests.tiny_heads import TINY_KNN_CONTINUOUS, TINY_KNN_DISCRETE, random_weights
from tests.worlds import World, assert_says, checked, problem_of

SAMPLING = {"num_steps": 3, "num_samples": 10, "batch_size": 4}


BACKBONES: dict[str, tuple[Architecture, dict[str, Any]]] = {
    "discrete": (TINY_KNN_DISCRETE, {"sampler": "mask_replace"}),
    "continuous": (TINY_KNN_CONTINUOUS, {"sampler": "ddim"}),
}


def _world(world: World, folder: Path, backbone: str) -> World:
    architecture, sampler = BACKBONES[backbone]
    path = folder / f"{backbone}.safetensors"
    save_checkpoint(path, architecture, random_weights(architecture))
    model = {"head": "knn_diffusion", "backbone": backbone, "checkpoint": str(path)}
    sampling = {**SAMPLING, **sampler}
    return World(world.root, world.job(model=model, sampling=sampling, evaluation=None))


@pytest.fixture(params=BACKBONES)
def any_knn_world(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    return _world(world, tmp_path, request.param)


@pytest.fixture
def knn_world(world: World, tmp_path: Path) -> World:
    return _world(world, tmp_path, "discrete")


def _text(context: str, k_nn: int) -> dict[str, Any]:
    return {"mode": "text", "prompts": ["a red circle"], "context": context, "k_nn": k_nn}


@pytest.mark.parametrize(
    "conditioning",
    [
        {"mode": "unconditional", "k_nn": 4},
        _text("query_and_neighbors", 4),
        _text("text", 1),
    ],
)
def test_a_job_makes_its_samples_whatever_their_shards(
    any_knn_world: World, conditioning: dict[str, Any]
) -> None:
    images = []
    for shard_size in (10, 4):
        document = any_knn_world.job(conditioning=conditioning, output__shard_size=shard_size)
        batches = list(rdm_batch.generate(parse_job(document, "jobs/a.yaml")))
        images.append(np.concatenate([batch.images for batch in batches]))
    assert len(images[0]) == 10
    assert len(np.unique(images[0].reshape(10, -1), axis=0)) > 5
    # The last batch of a shard has another shape, which moves the last digits of sums.
    assert np.abs(images[0].astype(int) - images[1]).max() <= 1


def test_query_and_neighbors_is_another_name_for_the_modes_own(knn_world: World) -> None:
    one, other = (
        parse_job(knn_world.job(conditioning=_text(name, 3)), "jobs/a.yaml")
        for name in ("query_and_neighbors", "text_and_neighbors")
    )
    assert one == other
    assert one.conditioning.query_leads


def test_more_entries_than_the_database_can_give_are_refused(knn_world: World) -> None:
    for conditioning in ({"mode": "unconditional", "k_nn": 100}, _text("query_and_neighbors", 100)):
        message = problem_of(knn_world.job(conditioning=conditioning))
        assert_says(message, "conditioning.k_nn: is 100 but", "rows; needed at most")


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


@pytest.mark.parametrize(
    ("backbone", "other"), [("discrete", "continuous"), ("continuous", "discrete")]
)
def test_a_checkpoint_of_the_other_backbone_is_refused(
    world: World, tmp_path: Path, backbone: str, other: str
) -> None:
    sampler = BACKBONES[other][1]["sampler"]
    knn_world = _world(world, tmp_path, backbone)
    document = knn_world.job(model__backbone=other, sampling__sampler=sampler)
    assert_says(problem_of(document), f"is 'knn_{other}'", f"holds a 'knn_{backbone}' head")


def test_an_unknown_backbone_or_field_is_named(knn_world: World) -> None:
    with pytest.raises(InvalidJobError, match=r"model.backbone: is 'discreet'.*did you mean disc"):
        parse_job(knn_world.job(model__backbone="discreet"), "jobs/a.yaml")
    with pytest.raises(InvalidJobError, match=r"model.presett: is not a field; did you mean prese"):
        parse_job(knn_world.job(model__presett="a"), "jobs/a.yaml")
