"""Options are what the model says: default, choices, bounds, help and refusals."""

from __future__ import annotations

import argparse
from typing import Annotated, Literal

import pytest
from pydantic import Field, model_validator

from rdm_batch.cli.options import Options
from rdm_batch.errors import SpecError
from rdm_batch.specs.base import Spec, Uri


class Ink(Spec):
    name: str = Field(description="What it is called.")
    shade: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="How dark. None: as it comes."
    )


class Print(Spec):
    source: Uri = Field(description="FITS or `PNG` files, 100% of them.")
    copies: Annotated[int, Field(ge=1)] = Field(default=3, description="How many.")
    paper: Literal["plain", "glossy"] = Field(default="plain", description="On what.")
    pages: tuple[int, ...] | None = Field(default=None, description="Which ones.")
    tags: tuple[str, ...] = Field(default=("a", "b"), description="Words.")
    draft: bool = Field(default=False, description="Save ink.")
    ink: Ink = Field(description="The ink.")
    spare: Ink | None = Field(default=None, description="Other ink.")

    @model_validator(mode="after")
    def _fits(self) -> Print:
        if self.draft and self.paper == "glossy":
            raise ValueError("drafts go on plain paper")
        return self


NAMES = {"source": "SOURCE", "ink.name": "--ink NAME", "ink.shade": "--shade"}
NAMES |= {"spare.name": "--spare NAME", "spare.shade": "--spare-shade"}
OPTIONS = Options(Print, NAMES, defaults={"ink.name": "black"})


def build(*arguments: str, options: Options[Print] = OPTIONS) -> Print:
    parser = argparse.ArgumentParser(prog="print")
    options.add_to(parser)
    return options.build(parser.parse_args(arguments))


def help_text(options: Options[Print] = OPTIONS) -> str:
    parser = argparse.ArgumentParser(prog="print")
    options.add_to(parser)
    return " ".join(parser.format_help().split())


def test_what_is_not_given_is_left_to_the_model() -> None:
    assert build("a") == Print(source="a", ink=Ink(name="black"))


def test_every_kind_of_value_arrives() -> None:
    made = build(
        *("s3://b/a", "--copies", "4", "--paper", "glossy", "--pages", "1", "5"),
        *("--tags", "x", "--ink", "red", "--shade", "0.5", "--spare", "blue"),
    )
    assert made == Print(
        source="s3://b/a",
        copies=4,
        paper="glossy",
        pages=(1, 5),
        tags=("x",),
        ink=Ink(name="red", shade=0.5),
        spare=Ink(name="blue"),
    )
    assert build("a", "--draft").draft


def test_help_says_what_the_model_says() -> None:
    text = help_text()
    assert "SOURCE FITS or PNG files, 100% of them" in text
    assert "--copies N how many (at least 1; default: 3)" in text
    assert "--paper {plain,glossy} on what (default: plain)" in text
    assert "--tags URI [URI ...] words (default: a b)" in text
    assert "--draft save ink --ink NAME" in text
    assert "--shade N how dark. Default: as it comes (more than 0; at most 1)" in text
    assert "--ink NAME the ink. What it is called (default: black)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--copies", "0"], "--copies: 0; needed at least 1"),
        (["--shade", "0"], "--shade: 0.0; needed more than 0.0"),
        (["--spare", "red", "--spare-shade", "2"], "--spare-shade: 2.0; needed at most 1.0"),
        (["--spare-shade", "1"], "--spare: is missing; needed a value"),
        (["--draft", "--paper", "glossy"], "command line: drafts go on plain paper"),
    ],
)
def test_a_wrong_value_is_named_by_its_option(arguments: list[str], message: str) -> None:
    with pytest.raises(SpecError) as raised:
        build("a", *arguments)
    assert str(raised.value) == message


def test_a_text_is_not_repeated() -> None:
    with pytest.raises(SpecError) as raised:
        build("s3://name:secret@bucket/a")
    assert str(raised.value).startswith("SOURCE: carries credentials")
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_command_may_take_some_fields_alone() -> None:
    some = Options(Print, {}, only=("copies", "spare"))
    text = help_text(some)
    assert "--copies" in text
    assert "--shade" in text
    assert "--paper" not in text
    parser = argparse.ArgumentParser()
    some.add_to(parser)
    assert some.given(parser.parse_args(["--name", "red"])) == {"spare": {"name": "red"}}


def test_a_required_field_is_a_required_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build(options=Options(Print, {"spare.name": "--spare", "spare.shade": "--other"}))
    error = capsys.readouterr().err
    assert "required: --source, --name" in error
