from __future__ import annotations

from pathlib import Path

from rdm_batch.models.clip import encoder_digest
from tests.job_kit import write_database, write_encoder
from tests.worlds import World, assert_says, checked, problem_of


def test_texts_are_not_embedded_by_another_encoder(world: World, tmp_path: Path) -> None:
    other = tmp_path / "clip.safetensors"
    other.write_bytes(write_encoder(tmp_path / "x.safetensors").read_bytes() + b"\0")
    document = world.text_job("a red circle")
    document["database"]["encoder"]["weights"] = str(other)
    message = problem_of(document)
    assert_says(
        message,
        "was built with tiny-clip (digest ",
        f"but database.encoder is tiny-clip (digest {encoder_digest(other)[:12]})",
        "name the encoder it was built with",
    )


def test_missing_encoder_weights_are_named(world: World) -> None:
    document = world.text_job("a red circle")
    document["database"]["encoder"]["weights"] = "/nowhere/clip.safetensors"
    assert_says(problem_of(document), "/nowhere/clip.safetensors does not exist")


def test_an_encoder_without_weights_is_refused(world: World) -> None:
    document = world.text_job("a red circle")
    document["database"]["encoder"] = {"name": "ViT-B-32-quickgelu"}
    message = problem_of(document)
    assert_says(message, "encoder ViT-B-32-quickgelu", "no weights file is named", "shapes-clip")


def test_an_encoder_nobody_asks_for_texts_is_not_looked_at(world: World) -> None:
    document = world.document
    document["database"]["encoder"]["weights"] = "/nowhere/clip.safetensors"
    document["evaluation"] = None
    assert checked(document).prompts is None


def test_a_database_of_another_width_than_the_head_is_refused(world: World, tmp_path: Path) -> None:
    write_database(tmp_path / "wide", dim=9)
    message = problem_of(world.job(database__uri=str(tmp_path / "wide")))
    assert_says(
        message,
        str(tmp_path / "wide"),
        "holds 9-dimensional embeddings of tiny-clip",
        "the head rdm attends to 6 dimensions",
        "rebuild the database with that encoder",
    )
