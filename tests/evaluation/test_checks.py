from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.models.clip import build_clip, save_clip
from tests.job_kit import DIM, TINY_CLIP
from tests.metrics.examples import cloud, feature_set
from tests.worlds import World, assert_says, checked, problem_of, problems_of


def test_clip_score_of_a_job_without_prompts_is_refused(world: World) -> None:
    message = problem_of(world.job(evaluation__scores=["clip_score"]))
    assert_says(message, "evaluation.scores: clip_score", "conditioning.mode is unconditional")


def test_an_unknown_score_suggests_a_known_one(world: World) -> None:
    message = problem_of(world.job(evaluation__scores=["precison"]))
    assert_says(message, "evaluation.scores: 'precison' is not a score", "did you mean precision?")


def test_every_unknown_score_is_named(world: World) -> None:
    problems = problems_of(world.job(evaluation__scores=["fidd", "fid", "beauty"]))
    assert ["fidd" in str(problems[0]), "beauty" in str(problems[1])] == [True, True]


@pytest.mark.parametrize(
    ("score", "num_samples", "needed"),
    [("fid", 1, 2), ("precision", 3, 4), ("recall", 3, 4), ("coverage", 5, 6)],
)
def test_a_set_too_small_for_a_score_is_refused(
    world: World, score: str, num_samples: int, needed: int
) -> None:
    document = world.job(evaluation__scores=[score], sampling__num_samples=num_samples)
    message = problem_of(document)
    assert_says(message, f"sampling.num_samples: is {num_samples}", score, f"at least {needed}")
    document["sampling"]["num_samples"] = needed
    assert checked(document).header.num_samples == needed


def test_a_missing_reference_is_named(world: World) -> None:
    message = problem_of(world.job(evaluation__reference="/nowhere/reference.npz"))
    assert_says(message, "/nowhere/reference.npz: does not exist")


def _pickled(path: Path) -> None:
    np.savez(path, header=np.array([{"format": "rdm_batch reference 1"}], dtype=object))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a reference"),
        lambda path: path.write_bytes(pickle.dumps({"mu": 1})),
        _pickled,
        lambda path: np.savez(path, arr_0=np.zeros(3)),
        lambda path: path.mkdir(),
    ],
    ids=["empty", "text", "pickle", "pickle inside", "other arrays", "folder"],
)
def test_a_file_that_is_no_reference_is_refused(world: World, tmp_path: Path, write: Any) -> None:
    path = tmp_path / "reference.npz"
    write(path)
    message = problem_of(world.job(evaluation__reference=str(path)))
    assert_says(message, str(path), "not readable", "rdm-batch reference build")


def test_a_reference_of_another_extractor_is_refused(world: World, tmp_path: Path) -> None:
    other = tmp_path / "clip.safetensors"
    architecture = TINY_CLIP.model_copy(update={"name": "other-clip"})
    save_clip(build_clip(architecture), architecture, other)
    extractor = {"name": "other-clip", "weights": str(other)}
    message = problem_of(world.job(evaluation__extractor=extractor))
    assert_says(
        message,
        f"evaluation.reference {world.root}/reference.npz",
        "holds features of tiny-clip (digest ",
        "but evaluation.extractor is other-clip",
        "build the reference again, name its extractor, or name the images themselves",
    )


def test_a_reference_without_features_serves_moments_only(world: World, tmp_path: Path) -> None:
    whole = ReferenceStatistics.load(world.root / "reference.npz")
    path = tmp_path / "moments.npz"
    ReferenceStatistics(whole.extractor, whole.source, whole.moments, {}, whole.digest).save(path)
    message = problem_of(world.job(evaluation__reference=str(path)))
    assert_says(message, str(path), "no features, which the score 'precision' needs")
    checked(world.job(evaluation__reference=str(path), evaluation__scores=["fid"]))


def test_too_few_held_out_images_for_a_share_of_copies_are_refused(world: World) -> None:
    document = world.job(evaluation__scores=["copy_share"])
    message = problem_of(document)
    assert_says(
        message,
        f"evaluation.reference {world.root}/reference.npz: holds 32 images, too few for the score "
        "'copy_share'",
        "100 or more",
    )
    document["evaluation"]["held_out"] = "shapes:held_out:99"
    assert_says(problem_of(document), "evaluation.held_out shapes:held_out:99: holds 99 images")
    document["evaluation"]["held_out"] = "shapes:held_out:100"
    checked(document)


@pytest.mark.parametrize("score", ["is", "sfid"])
def test_a_score_of_a_layer_the_extractor_lacks_is_refused(world: World, score: str) -> None:
    message = problem_of(world.job(evaluation__scores=[score]))
    assert_says(message, f"evaluation.scores: '{score}' is made from", "tiny-clip does not have")


def test_an_extractor_without_weights_is_refused(world: World) -> None:
    message = problem_of(world.job(evaluation__extractor={"name": "inception-v3-compat"}))
    assert_says(message, "inception-v3-compat", "no weights file is named")


def test_a_reference_of_another_encoder_is_no_held_out_set(world: World, tmp_path: Path) -> None:
    saved = ReferenceStatistics.from_features(feature_set(cloud(30, DIM, seed=0)))
    saved.save(tmp_path / "other.npz")
    document = world.job(
        evaluation__scores=["fid", "novelty_held_out"],
        evaluation__held_out=str(tmp_path / "other.npz"),
    )
    message = problem_of(document)
    assert_says(
        message,
        f"evaluation.held_out {tmp_path}/other.npz: holds features of test",
        "but the encoder of 'novelty_held_out' is tiny-clip",
    )
    document["evaluation"]["held_out"] = None
    checked(document)
