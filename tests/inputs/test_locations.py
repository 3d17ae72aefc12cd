from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel, Field

from rdm_batch.errors import SpecError
from rdm_batch.inputs.locations import absolute_locations, from_anywhere
from rdm_batch.specs.base import Location, OutputUri, Spec, Uri
from rdm_batch.specs.job import JobSpec
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


def _marked(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """List the fields of a model, and of those inside, in whose type a mark stands."""
    for name, hint in get_type_hints(model, include_extras=True).items():
        if name in model.model_fields:
            yield from _marked_in(hint, f"{path}.{name}".lstrip("."))


def _marked_in(hint: Any, path: str) -> Iterator[str]:
    if any(isinstance(item, Location) for item in getattr(hint, "__metadata__", ())):
        yield path
    if isinstance(hint, type) and issubclass(hint, BaseModel):
        yield from _marked(hint, path)
    for inner in get_args(hint):
        yield from _marked_in(inner, path)


def _changed(before: Any, after: Any, path: str = "") -> set[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        parts = (_changed(before[key], after[key], f"{path}.{key}".lstrip(".")) for key in before)
        return set().union(*parts)
    if isinstance(before, tuple) and isinstance(after, tuple):
        return set().union(*(_changed(*pair, path) for pair in zip(before, after, strict=True)))
    return set() if before == after else {path}


_CONDITIONINGS: tuple[dict[str, Any], ...] = (
    {"mode": "text", "prompts_file": "e"},
    {"mode": "image", "images": "e"},
    {"mode": "embeddings", "file": "e"},
    {"mode": "rows", "rows_file": "e"},
    {"mode": "interpolate", "through": [{"image": "e"}, {"text": "a star"}]},
)


def test_every_location_of_a_job_is_made_absolute(world: World) -> None:
    changed: set[str] = set()
    for conditioning in _CONDITIONINGS:
        document = world.job(
            model__checkpoint="a",
            model__architecture="b",
            database__uri="c",
            database__encoder__weights="d",
            conditioning=conditioning,
            sampling__guidance_scale=1,
            sampling__autoguidance={"checkpoint": "k", "architecture": "l", "scale": 2},
            evaluation__reference="f",
            evaluation__extractor__weights="g",
            evaluation__encoder={"name": "ViT-B-32", "weights": "h"},
            evaluation__held_out="i",
            output__uri="j",
        )
        spec = parse_job(document, "job")
        located = absolute_locations(spec, INPUTS, OUTPUT)
        changed |= _changed(spec.model_dump(), located.model_dump())
        assert JobSpec.model_validate(located.model_dump()) == located
    assert changed == set(_marked(JobSpec))


class _Part(Spec):
    weights: Uri


class _Other(Spec):
    kind: int
    files: tuple[Uri, ...] = ()


class _New(Spec):
    plain: str
    source: Uri
    maybe: Uri | None = None
    mixed: dict[str, Any] | int | Uri = 3
    several: Annotated[tuple[Uri, ...], Field(min_length=1)] | None = None
    part: _Part | _Other | None = None
    parts: tuple[_Part, ...] = ()
    target: OutputUri = "out"


def test_locations_are_found_in_every_place_a_type_can_hold_one() -> None:
    new = _New(
        plain="a",
        source="a",
        maybe="b",
        mixed="c",
        several=("d", "s3://e"),
        part=_Other(kind=1, files=("f", "shapes:train")),
        parts=(_Part(weights="g"), _Part(weights="/h")),
    )
    assert absolute_locations(new, INPUTS, OUTPUT).model_dump() == {
        "plain": "a",
        "source": "/inputs/a",
        "maybe": "/inputs/b",
        "mixed": "/inputs/c",
        "several": ("/inputs/d", "s3://e"),
        "part": {"kind": 1, "files": ("/inputs/f", "shapes:train")},
        "parts": ({"weights": "/inputs/g"}, {"weights": "/h"}),
        "target": "/output/out",
    }


def test_values_that_are_no_locations_stay() -> None:
    new = _New(plain="a", source="package://a", mixed={"kind": "rdm"})
    located = absolute_locations(new, INPUTS, OUTPUT)
    assert located.mixed == {"kind": "rdm"}
    assert located.source == "package://a"
    assert absolute_locations(_New(plain="a", source="a"), INPUTS, OUTPUT).mixed == 3


def test_the_place_of_the_home_folder_of_nobody_is_named() -> None:
    new = _New(plain="a", source="a", parts=(_Part(weights="a"), _Part(weights="~no-such-user/a")))
    with pytest.raises(SpecError, match=r"parts\.1\.weights: '~no-such-user/a' names the home"):
        absolute_locations(new, INPUTS, OUTPUT)


def test_workers_in_other_folders_are_told_absolute_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_anywhere("photos") == str(tmp_path / "photos")
    for stays in ("s3://bucket/photos", "shapes:train:5", "/photos"):
        assert from_anywhere(stays) == stays
