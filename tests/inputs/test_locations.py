from __future__ import annotations

from pathlib import Path

import pytest

from rdm_batch.errors import SpecError
from rdm_batch.inputs.locations import absolute_locations
from rdm_batch.specs.load import parse_job
from tests.worlds import World

INPUTS, OUTPUT = Path("/inputs"), Path("/output")


def test_relative_paths_start_where_the_caller_says(world: World) -> None:
    document = world.job(
        model__checkpoint="head.safetensors",
        model__architecture="config.yaml",
        database__uri="../database",
        database__encoder__weights="clip.safetensors",
        conditioning={"mode": "text", "prompts_file": "prompts.txt"},
        evaluation__reference="reference.npz",
        evaluation__extractor__weights="extractor.safetensors",
        evaluation__encoder={"name": "ViT-B-32", "weights": "vit.safetensors"},
        evaluation__held_out="held_out",
        output__uri="out/a",
    )
    spec = absolute_locations(parse_job(document, "job"), INPUTS, OUTPUT)
    found = spec.model_dump()
    assert found["model"]["checkpoint"] == "/inputs/head.safetensors"
    assert found["model"]["architecture"] == "/inputs/config.yaml"
    assert found["database"]["uri"] == "/inputs/../database"
    assert found["database"]["encoder"]["weights"] == "/inputs/clip.safetensors"
    assert found["conditioning"]["prompts_file"] == "/inputs/prompts.txt"
    assert found["evaluation"]["reference"] == "/inputs/reference.npz"
    assert found["evaluation"]["extractor"]["weights"] == "/inputs/extractor.safetensors"
    assert found["evaluation"]["encoder"]["weights"] == "/inputs/vit.safetensors"
    assert found["evaluation"]["held_out"] == "/inputs/held_out"
    assert found["output"]["uri"] == "/output/out/a"


@pytest.mark.parametrize("uri", ["s3://bucket/a", "package://a", "/absolute/a"])
def test_absolute_locations_stay(world: World, uri: str) -> None:
    document = world.job(model__checkpoint=uri, database__uri=uri, output__uri=uri)
    spec = absolute_locations(parse_job(document, "job"), INPUTS, OUTPUT)
    assert {spec.model.checkpoint, spec.database.uri, spec.output.uri} == {uri}


def test_the_shapes_world_is_no_path(world: World) -> None:
    document = world.job(evaluation__reference="shapes:reference:12")
    spec = absolute_locations(parse_job(document, "job"), INPUTS, OUTPUT)
    assert spec.evaluation is not None
    assert spec.evaluation.reference == "shapes:reference:12"


def test_parts_a_job_leaves_out_stay_out(world: World) -> None:
    document = world.job(evaluation=None, database__encoder=None)
    spec = absolute_locations(parse_job(document, "job"), INPUTS, OUTPUT)
    assert spec.evaluation is None
    assert spec.database.encoder is None


def test_an_inline_architecture_is_no_location(world: World) -> None:
    document = world.job(model__architecture={"kind": "rdm"})
    spec = absolute_locations(parse_job(document, "job"), INPUTS, OUTPUT)
    assert spec.model_dump()["model"]["architecture"] == {"kind": "rdm"}


def test_a_home_folder_is_found(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    spec = absolute_locations(parse_job(world.job(output__uri="~/out"), "job"), INPUTS, OUTPUT)
    assert spec.output.uri == "/home/somebody/out"


def test_the_home_folder_of_nobody_is_refused(world: World) -> None:
    document = world.job(output__uri="~no-such-user/out")
    with pytest.raises(SpecError, match=r"output\.uri: '~no-such-user/out' names the home"):
        absolute_locations(parse_job(document, "job"), INPUTS, OUTPUT)
