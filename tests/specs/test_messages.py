"""What is said of files that do not fit their models."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from rdm_batch.errors import InvalidJobError
from rdm_batch.specs.messages import MAX_DESCRIBED, first_problem, problems_of
from rdm_batch.specs.training import load_training


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Circle(_Strict):
    kind: Literal["circle"]
    radius: float = Field(gt=0)


class Square(_Strict):
    kind: Literal["square"]
    width: float

    @model_validator(mode="after")
    def _fits(self) -> Square:
        if self.width > 10:
            raise ValueError("is wider than the page")
        return self


Shape = Annotated[Circle | Square, Field(discriminator="kind")]


class Drawing(_Strict):
    uri: str = ""
    shapes: tuple[Shape, ...] = ()


def problems(model: Any, document: object, given: bool = True) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(model).validate_python(document)
    shown = document if given else None
    return [str(item) for item in problems_of(caught.value, model, shown, "drawing")]


CASES: list[tuple[Any, object, str]] = [
    (Shape, {"kind": "circle", "raduis": 1}, "raduis: is not a field; did you mean radius?"),
    (Shape, {"kind": "cirle"}, "kind: is 'cirle'; needed one of 'circle', 'square'; did you mean"),
    (Shape, {}, "kind: is missing; needed one of circle, square"),
    (Shape, {"kind": "square", "width": 11}, "drawing: is wider than the page"),
    (Drawing, {"shapes": [{"kind": "circle", "radius": 0}]}, "shapes.0.radius: is 0; needed great"),
    (
        Drawing,
        {"shapes": [{"kind": "square", "width": 1, "wdith": 2}]},
        "shapes.0.wdith: is not a field; did you mean width?",
    ),
    (Drawing, {"shapes": [{}]}, "shapes.0.kind: is missing; needed one of circle, square"),
    (Drawing, {"color": 1}, "color: is not a field; known here: uri, shapes"),
    (Drawing, [], "drawing: is []"),
]


@pytest.mark.parametrize(("model", "document", "message"), CASES)
def test_any_model_gets_the_same_messages(model: Any, document: object, message: str) -> None:
    assert any(message in problem for problem in problems(model, document))


def test_every_problem_is_listed_in_order() -> None:
    found = problems(Drawing, {"uri": 3, "shapes": [{"kind": "circle", "radius": -1}]})
    assert [problem.partition(":")[0] for problem in found] == ["uri", "shapes.0.radius"]


@pytest.mark.parametrize("where", ["s3://name:pass/word@bucket/a", "s3://name:word@bucket/a b@c"])
def test_no_message_repeats_credentials(where: str) -> None:
    for document in ({"shapes": where}, {"uri": [where, where]}, {"shapes": [{"kind": where}]}):
        found = " ".join(problems(Drawing, document))
        assert "bucket" in found or "@c" in found
        assert "word" not in found
        assert "name" not in found


def test_a_file_of_a_program_is_named_by_its_first_problem() -> None:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate_json('{"uri": 3, "color": 1}')
    assert first_problem(caught.value) == "uri: is 3; needed string"
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate_json('{"uri": "s3://name:word@bucket"')
    message = first_problem(caught.value, "the manifest")
    assert message.startswith("the manifest: Invalid JSON")
    assert "word" not in message


def test_a_training_file_is_told_what_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "clip.yaml"
    path.write_text("train: clip\noptimisation: {}\n")
    with pytest.raises(InvalidJobError, match="did you mean optimization"):
        load_training(path, "clip")
    path.write_text("train: clpi\n")
    with pytest.raises(InvalidJobError, match=r"train: is 'clpi'.* did you mean clip"):
        load_training(path, "clip")


class _Named(_Strict):
    name: int = 0


def _messages_of(document: dict[str, Any]) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        _Named.model_validate(document)
    return [str(problem) for problem in problems_of(caught.value, _Named, document)]


def test_no_credentials_are_repeated_wherever_they_stand() -> None:
    for value in (
        "s3://user:pass@host/x",
        ["a", "http://user:pass@host s3://me:pass@x"],
        "s3://user:p://ass@host",
    ):
        (message,) = _messages_of({"name": value})
        assert "pass" not in message
        assert "ass@" not in message
        assert "***" in message


def test_a_text_made_to_slow_the_search_for_credentials_is_told_at_once() -> None:
    start = time.process_time()
    (message,) = _messages_of({"name": ["://" * 300_000]})
    assert time.process_time() - start < 20.0
    assert len(message) < 200


def test_thousands_of_mistakes_are_told_at_once() -> None:
    start = time.process_time()
    messages = _messages_of({f"nme{number}": 1 for number in range(40_000)})
    assert time.process_time() - start < 20.0
    assert len(messages) == MAX_DESCRIBED + 1
    assert messages[-1].startswith("job: 39,8")
