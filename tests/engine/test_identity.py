from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.engine.identity import ContentDigests, identity_digest, job_identity
from rdm_batch.specs.load import parse_job
from tests.worlds import World, checked


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
        {"sampling__timesteps": "published"},
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
        identity_digest(job_identity(spec, ContentDigests("c", "d", "e", prompts)))
        for prompts in (("a\nb", "c"), ("a", "b\nc"))
    )
    assert first != second


def test_an_identity_is_the_same_for_every_order_of_its_keys() -> None:
    assert identity_digest({"a": 1, "b": {"c": 2, "d": 3}}) == identity_digest(
        {"b": {"d": 3, "c": 2}, "a": 1}
    )


def test_an_identity_holds_no_location(world: World) -> None:
    assert str(world.root) not in str(checked(world.text_job("a red circle")).header.spec)
