from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.files import canonical_digest
from rdm_batch.generation.identity import ContentDigests, job_identity
from rdm_batch.generation.preflight import preflight
from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.specs.load import load_job, parse_job
from tests.tiny_heads import TINY_RDM, random_weights
from tests.worlds import World, checked

JOBS = Path(__file__).parents[2] / "jobs"


def _digest(document: dict[str, Any]) -> str:
    return checked(document).header.digest


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"},
        {"cluster": {"heads": 2, "cpus_per_head": 0.5}},
        {"output__uri": "/tmp/rdm_batch-nowhere"},
        {"database__retriever_shards": 2},
        {"database__encoder": None},
        {"evaluation": None},
    ],
)
def test_what_does_not_define_the_samples_keeps_the_digest(
    world: World, changes: dict[str, Any]
) -> None:
    assert _digest(world.job(**changes)) == _digest(world.document)


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling__seed": 6},
        {"sampling__num_samples": 23},
        {"sampling__batch_size": 4},
        {"sampling__num_steps": 4},
        {"sampling__eta": 0.5},
        {"sampling__guidance_scale": 2.0},
        {"sampling__timesteps": "published", "sampling__num_steps": 4},
        {"sampling__guidance_scale": 2.0, "sampling__guidance_interval": [0.3, 5.0]},
        {"sampling__reuse_deep_features": 2},
        {"output__shard_size": 5},
        {"conditioning__top_m": 0.25},
        {"conditioning__k_nn": 2},
        {"conditioning__weighting": "uniform"},
        {"database__leaves_to_search": 2},
        {"model__precision": "bfloat16"},
        {"model__weights": "raw"},
        {"model__cpu_threads": 2},
    ],
)
def test_what_defines_the_samples_changes_the_digest(world: World, changes: dict[str, Any]) -> None:
    assert _digest(world.job(**changes)) != _digest(world.document)


def test_files_count_by_content_not_by_place(world: World, tmp_path: Path) -> None:
    moved = shutil.copy(world.root / "head.safetensors", tmp_path / "other.safetensors")
    database = world.copied_database(tmp_path)
    document = world.job(model__checkpoint=str(moved), database__uri=str(database))
    assert _digest(document) == _digest(world.document)


def test_prompts_count_by_content_not_by_place(world: World, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("a red circle\na blue square\n")
    from_file = world.job(conditioning={"mode": "text", "k_nn": 3, "prompts_file": str(path)})
    inline = world.text_job("a red circle", "a blue square")
    assert _digest(from_file) == _digest(inline)
    assert _digest(inline) != _digest(world.text_job("a blue square", "a red circle"))
    assert _digest(inline) != _digest(world.document)


def test_prompts_with_line_breaks_are_not_confused(world: World) -> None:
    spec = parse_job(world.text_job("a"), "job")
    first, second = (
        canonical_digest(job_identity(spec, ContentDigests("c", "d", "e", prompts)), escape=False)
        for prompts in (("a\nb", "c"), ("a", "b\nc"))
    )
    assert first != second


def test_an_identity_is_the_same_for_every_order_of_its_keys() -> None:
    assert canonical_digest({"a": 1, "b": {"c": 2, "d": 3}}, escape=False) == canonical_digest(
        {"b": {"d": 3, "c": 2}, "a": 1}, escape=False
    )


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("in256_cfg", "d09f159e69ed4b28b65b92132b1ec865c1150df7308e74f963c6dc253d791689"),
        ("shapes_class", "d177ca7b6cffe91ac104eb0497a6da359977ccd04814172052d1f6f9e8f4952a"),
        ("shapes_rarm", "073e86fda24babfca6e76d55a6764d90a2c5f0eac50bb4806727573a7704e325"),
        ("shapes_text", "daeeb1a3573dcbdfce12a0a49237daf34b391879b91d11f77e753698d5582186"),
    ],
)
def test_a_job_keeps_the_identity_it_had_when_its_samples_were_made(name: str, digest: str) -> None:
    spec = load_job(JOBS / f"{name}.yaml")
    texts = ("ein Gefäß", "a") if spec.conditioning.embeds_text else None
    contents = ContentDigests("c", "d", None if texts is None else "e", texts)
    assert canonical_digest(job_identity(spec, contents), escape=False) == digest


def test_the_quickstart_keeps_the_digest_of_the_sets_it_made() -> None:
    spec = load_job(JOBS / "quickstart.yaml", ["output.uri=/tmp/rdm_batch-nowhere"])
    digest = "e1a082f8844abe2ab3ef6401c57cb15f73308aa187eccfae184d5031027de40b"
    assert preflight(spec, "quickstart", {}).header.digest == digest


def test_search_effort_enters_an_identity_once_it_is_asked_for(world: World) -> None:
    header = checked(world.document).header
    assert "reorder" not in header.spec["database"]
    harder = checked(world.job(database__reorder=400)).header
    assert harder.spec["database"]["reorder"] == 400
    assert harder.digest != header.digest
    assert harder.digest != checked(world.job(database__reorder=500)).header.digest


def test_an_identity_holds_no_location(world: World) -> None:
    assert str(world.root) not in str(checked(world.text_job("a red circle")).header.spec)


def test_cheaper_sampling_enters_an_identity_once_it_is_asked_for(
    world: World, tmp_path: Path
) -> None:
    added = {"guidance_interval", "autoguidance", "reuse_deep_features"}
    assert not added & checked(world.document).header.spec["sampling"].keys()
    default = world.job(sampling__reuse_deep_features=1, sampling__guidance_interval=None)
    assert _digest(default) == _digest(world.document)
    weaker = str(world.root / "head.safetensors")

    def job(checkpoint: str, scale: float) -> dict[str, Any]:
        autoguidance = {"checkpoint": checkpoint, "scale": scale}
        return world.job(sampling__guidance_scale=1.0, sampling__autoguidance=autoguidance)

    guided = job(weaker, 2.0)
    header = checked(guided).header
    found = header.spec["sampling"]["autoguidance"]
    assert found.keys() == {"scale", "weights", "checkpoint_digest"}
    assert header.content_digests["weaker"] == found["checkpoint_digest"]
    moved = shutil.copy(weaker, tmp_path / "other.safetensors")
    assert _digest(job(str(moved), 2.0)) == header.digest
    assert _digest(job(weaker, 2.5)) != header.digest
    doubled = {name: 2 * value for name, value in random_weights(TINY_RDM).items()}
    save_checkpoint(tmp_path / "weaker.safetensors", TINY_RDM, doubled)
    assert _digest(job(str(tmp_path / "weaker.safetensors"), 2.0)) != header.digest
