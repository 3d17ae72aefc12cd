"""A weaker head that a job names: found, checked against the head, and used by a whole job."""

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
from tests.tiny_heads import TINY_KNN_CONTINUOUS, TINY_RDM, random_weights
from tests.worlds import World, assert_says, problem_of, problems_of


def _guided_by(world: World, path: Path, **settings: Any) -> dict[str, Any]:
    return world.job(
        sampling__guidance_scale=1.0,
        sampling__autoguidance={"checkpoint": str(path), "scale": 1.5, **settings},
    )


def _saved(path: Path, architecture: Architecture) -> Path:
    save_checkpoint(path, architecture, random_weights(architecture))
    return path


def _images(document: dict[str, Any]) -> np.ndarray:
    batches = rdm_batch.generate(rdm_batch.load_job(document))
    return np.concatenate([batch.images for batch in batches])


def test_a_job_is_guided_away_from_the_weaker_head(world: World, tmp_path: Path) -> None:
    weights = {
        name: value if name.startswith("first_stage_model.") else 0.5 * value
        for name, value in random_weights(TINY_RDM).items()
    }
    save_checkpoint(tmp_path / "weaker.safetensors", TINY_RDM, weights)
    plain = _images(world.job(sampling__guidance_scale=1.0))
    guided = _images(_guided_by(world, tmp_path / "weaker.safetensors", scale=4.0))
    assert plain.shape == guided.shape
    assert not np.array_equal(plain, guided)


def test_weights_that_are_not_there_are_listed_beside_other_problems(world: World) -> None:
    document = _guided_by(world, Path("/nowhere/weaker.safetensors"))
    document["model"]["checkpoint"] = "/nowhere/head.safetensors"
    said = "\n".join(map(str, problems_of(document)))
    assert_says(said, "/nowhere/weaker.safetensors", "/nowhere/head.safetensors")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        (TINY_KNN_CONTINUOUS, "names a 'knn_continuous' head"),
        (TINY_RDM.model_copy(update={"scale_factor": 0.5}), "its scale_factor differ"),
        (
            TINY_RDM.model_copy(
                update={"unet": TINY_RDM.unet.model_copy(update={"context_dim": 9})}
            ),
            "attends to 9 dimensions; needed 6 dimensions",
        ),
    ],
)
def test_a_head_that_does_not_fit_is_refused_before_anything_runs(
    world: World, tmp_path: Path, changed: Architecture, found: str
) -> None:
    path = _saved(tmp_path / "weaker.safetensors", changed)
    assert_says(problem_of(_guided_by(world, path)), "sampling.autoguidance", found)


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({"guidance_scale": 2.0, "autoguidance": {"checkpoint": "a", "scale": 2.0}}, "exclude"),
        ({"autoguidance": {"checkpoint": "a", "scale": 1.0}}, "scale"),
        ({"guidance_scale": 2.0, "guidance_interval": [5.0, 0.3]}, "smaller one"),
        ({"guidance_scale": 2.0, "guidance_interval": [0.3]}, "guidance_interval"),
        ({"guidance_scale": 2.0, "guidance_interval": ["a", 1.0]}, "guidance_interval"),
        ({"guidance_scale": 1.0, "guidance_interval": [0.3, 5.0]}, "there is none"),
        ({"reuse_deep_features": 0}, "reuse_deep_features"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_the_job_file(
    world: World, settings: dict[str, Any], found: str
) -> None:
    document = world.job(**{f"sampling__{name}": value for name, value in settings.items()})
    with pytest.raises(InvalidJobError) as caught:
        parse_job(document, "jobs/a.yaml")
    assert_says(str(caught.value), "sampling", found)


def test_heads_without_a_solver_do_not_know_them(world: World) -> None:
    document = world.job()
    document["sampling"] = {
        "sampler": "autoregressive",
        "num_samples": 4,
        "reuse_deep_features": 2,
    }
    document["model"]["head"] = "rarm"
    with pytest.raises(InvalidJobError, match="reuse_deep_features"):
        parse_job(document, "jobs/a.yaml")
