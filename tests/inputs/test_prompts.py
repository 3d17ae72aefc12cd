from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdm_batch.errors import InvalidJobError
from rdm_batch.inputs.prompts import MAX_FILE_BYTES
from rdm_batch.specs.conditioning import MAX_PROMPT_CHARACTERS
from rdm_batch.specs.load import parse_job
from tests.worlds import World, assert_says, checked, problem_of


def _from_file(world: World, path: Path) -> dict[str, object]:
    return world.job(conditioning={"mode": "text", "k_nn": 3, "prompts_file": str(path)})


def test_a_prompts_file_gives_one_prompt_a_line(world: World, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"\xef\xbb\xbfa red circle\r\n\n   a blue square  \n")
    job = checked(_from_file(world, path))
    assert job.prompts is not None
    assert job.prompts.texts == ("a red circle", "a blue square")
    assert job.prompts.labels is None


def test_labels_are_embedded_in_their_template(world: World) -> None:
    conditioning = {
        "mode": "class",
        "labels": ["circle", "square"],
        "template": "a red {label}",
        "k_nn": 3,
        "pool_size": 5,
    }
    job = checked(world.job(conditioning=conditioning))
    assert job.prompts is not None
    assert job.prompts.texts == ("a red circle", "a red square")
    assert job.prompts.labels == ("circle", "square")


def test_a_missing_prompts_file_is_named(world: World) -> None:
    message = problem_of(_from_file(world, Path("/nowhere/prompts.txt")))
    assert_says(message, "/nowhere/prompts.txt: does not exist")


def test_a_folder_is_no_prompts_file(world: World, tmp_path: Path) -> None:
    message = problem_of(_from_file(world, tmp_path))
    assert_says(message, f"conditioning.prompts_file {tmp_path}", "needed a text file")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a red circle\n\xff\n", "byte 13 is not UTF-8"),
        (b"", "holds no prompt"),
        (b"\n  \n\t\n", "holds no prompt"),
    ],
)
def test_a_file_that_holds_no_prompts_is_refused(
    world: World, tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "prompts.txt"
    path.write_bytes(content)
    message = problem_of(_from_file(world, path))
    assert_says(message, f"conditioning.prompts_file {path}", words)


def test_words_the_encoder_does_not_know_are_refused(world: World) -> None:
    message = problem_of(world.text_job("a red circle", "a green dog", "a dog"))
    assert_says(
        message,
        "conditioning, text 'a green dog': unknown words: green, dog",
        "2 of 3 texts cannot be embedded",
        "words among a, an, blue, circle",
        "another encoder than tiny-clip",
    )


def test_a_text_longer_than_the_encoder_reads_is_refused(world: World) -> None:
    message = problem_of(world.text_job("a " * 11))
    assert_says(message, "11 words", "needed 1 to 10 words")


def test_a_label_with_an_unknown_word_is_refused(world: World) -> None:
    conditioning = {"mode": "class", "labels": ["circle", "dog"], "k_nn": 3, "pool_size": 5}
    message = problem_of(world.job(conditioning=conditioning))
    assert_says(message, "text 'An image of a dog.': unknown words: dog (1 of 2 texts")


def test_what_is_no_file_is_refused_at_once(world: World, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", Path("/dev/zero")):
        assert_says(problem_of(_from_file(world, path)), str(path), "neither a file nor a folder")


def test_an_endless_line_is_told_shortly(world: World, tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("fine\n\n" + "x" * 10_000_000)
    message = problem_of(_from_file(world, path))
    assert_says(message, "prompt 2 has 10,000,000 characters", "needed at most 10,000")
    assert len(message) < 2_000
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    assert_says(problem_of(_from_file(world, path)), "has more than 134,217,728 bytes")


def test_prompts_and_labels_in_a_job_have_the_limit_of_a_line(world: World) -> None:
    long = "x" * (MAX_PROMPT_CHARACTERS + 1)
    template = "{label}" * 1_000
    labels = ["x" * MAX_PROMPT_CHARACTERS]
    for conditioning in (
        {"mode": "text", "prompts": [long]},
        {"mode": "class", "labels": [long]},
        {"mode": "class", "labels": labels, "template": template},
    ):
        with pytest.raises(InvalidJobError, match="characters"):
            parse_job(world.job(conditioning=conditioning), "job")
