"""Whole jobs that make given pictures into others."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import rdm_batch
from rdm_batch.datasets.fit import fit_image
from rdm_batch.errors import ImageError
from rdm_batch.generation.modes.edit import OpenedSources
from rdm_batch.inputs.images import open_images
from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.reports.saved import load_run
from rdm_batch.specs.families import Architecture, parse_architecture
from rdm_batch.specs.image_resize import ImageResize
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet
from tests.browser import open_page
from tests.tiny_heads import TINY_KNN_CONTINUOUS, TINY_KNN_DISCRETE, TINY_RARM, random_weights
from tests.worlds import World, assert_says, checked, problem_of, problems_of

PROMPTS = ("a red circle", "a blue square")


def _pictures(path: Path, count: int = 3, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    """Write a table of pictures with captions."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    rows = []
    for number, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": f"{number}.png"})
    captions = pa.array([*(f"picture {number}" for number in range(count - 1)), None])
    pq.write_table(pa.table({"image": rows, "caption": captions}), path)
    return images


def _job(world: World, images: Path | str, **changes: Any) -> dict[str, Any]:
    conditioning = {
        "mode": "edit",
        "k_nn": 3,
        "prompts": list(PROMPTS),
        "images": str(images),
        "edit": {"method": "sdedit", "strength": 0.7},
    }
    conditioning |= changes.pop("conditioning", {})
    job = world.job(conditioning=conditioning, evaluation=None, **changes)
    job["sampling"] |= {"num_samples": 12, "num_steps": 4}
    return job


def _run(job: dict[str, Any]) -> list[dict[str, Any]]:
    rdm_batch.run(rdm_batch.load_job(job), address="none")
    rows: list[dict[str, Any]] = []
    for batch in SampleSet.find(job["output"]["uri"]).iter_batches():
        rows += batch.to_pylist()
    return rows


def test_every_picture_is_edited_by_every_text(world: World, tmp_path: Path) -> None:
    images = _pictures(tmp_path / "given.parquet")
    job = _job(world, tmp_path / "given.parquet")
    rows = _run(job)
    names = [open_images(str(tmp_path / "given.parquet"))[0][at].item_id for at in range(3)]
    order = [0, 0, 1, 1, 2, 2] * 2
    assert [row["query"] for row in rows] == [names[at] for at in order]
    assert [row["prompt"] for row in rows] == list(PROMPTS) * 6
    assert [row["source_caption"] for row in rows[:6:2]] == ["picture 0", "picture 1", None]
    for row, at in zip(rows, order, strict=True):
        assert np.array_equal(decode_png(row["source"]["bytes"]), images[at])
    # The same pair another time has other noise; another text has other neighbors.
    pixels = [row["image"]["bytes"] for row in rows]
    assert len(set(pixels)) == 12
    texts = world.job(conditioning={"mode": "text", "k_nn": 3, "prompts": list(PROMPTS)})
    first = next(iter(rdm_batch.generate(rdm_batch.load_job(texts))))
    assert [row["neighbor_ids"] for row in rows[:4]] == first.neighbor_ids.tolist()

    saved = load_run(job["output"]["uri"])
    assert saved.report.illustrated[3].caption == f"{names[1]}: {PROMPTS[1]}"
    assert saved.report.illustrated[3].is_edit
    page = open_page(
        Path(job["output"]["uri"]) / "report.html",
        script="document.querySelectorAll('img.before').length",
    )
    assert page.value == 12
    assert page.console_errors == ()
    assert "what was given (before) and the sample (after)" in page.dom_text


def test_bytes_are_those_of_any_run_and_of_the_python_interface(
    world: World, tmp_path: Path
) -> None:
    images = _pictures(tmp_path / "given.parquet")
    job = _job(world, tmp_path / "given.parquet")
    rows = _run(job)
    out = Path(job["output"]["uri"])
    shard = out / "data/00001.parquet"
    before = shard.read_bytes()
    shard.unlink()
    (out / "_shards/00001.json").unlink()
    (out / "_SUCCESS.json").unlink()
    _run(job)
    assert shard.read_bytes() == before
    batches = list(rdm_batch.generate(rdm_batch.load_job(job)))
    drawn = np.concatenate([batch.images for batch in batches])
    assert np.array_equal(drawn, [decode_png(row["image"]["bytes"]) for row in rows])
    assert np.array_equal(batches[0].sources, images[[0, 0, 1, 1]])


def test_aligned_pictures_and_texts_go_together(world: World, tmp_path: Path) -> None:
    _pictures(tmp_path / "given.parquet", 2)
    aligned = {"pairing": "aligned", "samples_per_query": 2}
    rows = _run(_job(world, tmp_path / "given.parquet", conditioning=aligned))
    pairs = [(row["source_caption"], row["prompt"]) for row in rows[:6]]
    one, two = ("picture 0", PROMPTS[0]), (None, PROMPTS[1])
    assert pairs == [one, one, two, two, one, one]
    _pictures(tmp_path / "three.parquet", 3)
    message = problem_of(_job(world, tmp_path / "three.parquet", conditioning=aligned))
    assert_says(message, "conditioning.pairing", "3 pictures and 2 prompts")


@pytest.mark.parametrize(("rule", "crop"), [("crop", "center"), ("stretch", "none")])
def test_pictures_of_other_sizes_are_brought_to_the_heads_by_rule(
    world: World, tmp_path: Path, rule: str, crop: str
) -> None:
    images = _pictures(tmp_path / "given.parquet", size=(30, 24))
    message = problem_of(_job(world, tmp_path / "given.parquet"))
    assert_says(message, "3 of 3 pictures have another size", "24 x 30", "16 x 16", "other_sizes")
    job = _job(world, tmp_path / "given.parquet", conditioning={"other_sizes": rule})
    batch = next(iter(rdm_batch.generate(rdm_batch.load_job(job))))
    resize = ImageResize(size=16, crop=crop, filter="bicubic")
    assert batch.sources is not None
    assert np.array_equal(batch.sources[2], fit_image(images[1], resize))


def test_a_sample_set_can_be_edited_itself(world: World, tmp_path: Path) -> None:
    _pictures(tmp_path / "given.parquet")
    first = _job(world, tmp_path / "given.parquet", output__uri=str(tmp_path / "first"))
    before = _run(first)
    rows = _run(_job(world, tmp_path / "first", output__uri=str(tmp_path / "second")))
    assert rows[2]["source"]["bytes"] == before[1]["image"]["bytes"]
    assert rows[2]["source_caption"] == PROMPTS[1]
    (tmp_path / "first/_SUCCESS.json").unlink()
    message = problem_of(_job(world, tmp_path / "first", output__uri=str(tmp_path / "third")))
    assert_says(message, "sample set that is not complete")


def _other_head(world: World, tmp_path: Path, architecture: Architecture) -> str:
    save_checkpoint(tmp_path / "head.safetensors", architecture, random_weights(architecture))
    return str(tmp_path / "head.safetensors")


def test_knn_diffusion_over_latents_edits_with_the_text_as_its_query(
    world: World, tmp_path: Path
) -> None:
    _pictures(tmp_path / "given.parquet")
    head = _other_head(world, tmp_path, TINY_KNN_CONTINUOUS)
    model = {"head": "knn_diffusion", "backbone": "continuous", "checkpoint": head}
    queried = {"context": "query_and_neighbors"}
    job = _job(world, tmp_path / "given.parquet", conditioning=queried, model=model)
    batch = next(iter(rdm_batch.generate(rdm_batch.load_job(job))))
    assert batch.neighbor_ids.shape == (4, 2)
    message = problem_of(_job(world, tmp_path / "given.parquet", model=model))
    assert_says(message, "gives the head knn_diffusion no query")


def test_heads_over_codes_cannot_edit_by_noise(world: World, tmp_path: Path) -> None:
    _pictures(tmp_path / "given.parquet")
    rarm = {"head": "rarm", "checkpoint": _other_head(world, tmp_path, TINY_RARM)}
    fitted = {"other_sizes": "crop"}
    job = _job(world, tmp_path / "given.parquet", conditioning=fitted, model=rarm)
    job["sampling"] = {"sampler": "autoregressive", "num_samples": 4}
    assert_says(problem_of(job), "conditioning.edit", "head rarm", "rdm, or knn_diffusion")
    discrete = {"head": "knn_diffusion", "backbone": "discrete"}
    discrete["checkpoint"] = _other_head(world, tmp_path, TINY_KNN_DISCRETE)
    fitted["context"] = "query_and_neighbors"
    job = _job(world, tmp_path / "given.parquet", conditioning=fitted, model=discrete)
    job["sampling"] = {"sampler": "mask_replace", "num_samples": 4, "num_steps": 2}
    assert_says(problem_of(job), "conditioning.edit", "backbone continuous")


def test_what_cannot_be_edited_is_said_at_once(world: World, tmp_path: Path) -> None:
    weak = {"edit": {"method": "sdedit", "strength": 0.0001}}
    job = _job(world, tmp_path / "nowhere", conditioning=weak)
    found = "\n".join(map(str, problems_of(job)))
    assert_says(found, "nowhere", "conditioning.edit.strength: is 0.0001, below the last of 4")
    for wrong in (0, 1.5, "half"):
        job = _job(world, tmp_path, conditioning={"edit": {"method": "sdedit", "strength": wrong}})
        with pytest.raises(rdm_batch.errors.InvalidJobError, match="strength"):
            checked(job)


def test_pictures_captions_and_strength_define_a_job_and_places_do_not(
    world: World, tmp_path: Path
) -> None:
    def digest(name: str, **changes: Any) -> str:
        return checked(_job(world, tmp_path / name, conditioning=changes)).header.digest

    for name in ("a.parquet", "b.parquet"):
        _pictures(tmp_path / name)
    table = pq.read_table(tmp_path / "a.parquet")
    said = table.set_column(1, "caption", pa.array(["one", "two", "three"]))
    (tmp_path / "c").mkdir()
    pq.write_table(said, tmp_path / "c/a.parquet")
    first = digest("a.parquet")
    (tmp_path / "d").mkdir()
    (tmp_path / "a.parquet").rename(tmp_path / "d/a.parquet")
    assert digest("d/a.parquet") == first
    others = {digest("c/a.parquet"), digest("d/a.parquet", pairing="every", k_nn=2)}
    others.add(digest("d/a.parquet", edit={"method": "sdedit", "strength": 0.6}))
    assert len(others | {first}) == 4


def test_pictures_are_opened_where_they_are_needed(tmp_path: Path) -> None:
    images = _pictures(tmp_path / "given.parquet")
    sources = OpenedSources(str(tmp_path / "given.parquet"), 3, ImageResize(size=16))
    chosen = np.array([2, 0, 2, 1])
    assert np.array_equal(sources(chosen), images[chosen])
    sent = pickle.loads(pickle.dumps(sources))
    assert np.array_equal(sent(chosen), images[chosen])
    _pictures(tmp_path / "given.parquet", 5)
    with pytest.raises(ImageError, match="5 pictures, which were 3 when the job began"):
        pickle.loads(pickle.dumps(sources))(chosen)


def test_a_head_that_was_trained_to_edit_does_that_and_nothing_else(
    world: World, tmp_path: Path
) -> None:
    _pictures(tmp_path / "given.parquet")
    unet = TINY_KNN_CONTINUOUS.unet.model_copy(update={"source_channels": 3})
    head = _other_head(world, tmp_path, TINY_KNN_CONTINUOUS.model_copy(update={"unet": unet}))
    model = {"head": "knn_diffusion", "backbone": "continuous", "checkpoint": head}
    trained = {"context": "query_and_neighbors", "edit": {"method": "trained"}}
    job = _job(world, tmp_path / "given.parquet", conditioning=trained, model=model)
    batch = next(iter(rdm_batch.generate(rdm_batch.load_job(job))))
    assert batch.sources is not None
    assert not np.array_equal(batch.images[0], batch.images[2])
    noised = {**trained, "edit": {"method": "sdedit"}}
    message = problem_of(_job(world, tmp_path / "given.parquet", conditioning=noised, model=model))
    assert_says(message, "the head edits given pictures, and is given none", "edit.method trained")
    message = problem_of(
        _job(world, tmp_path / "given.parquet", conditioning={"edit": {"method": "trained"}})
    )
    assert_says(message, "this one was never shown", "rdm-batch train knn_edit", "sdedit")


def test_architectures_of_before_say_nothing_of_given_pictures() -> None:
    written = TINY_KNN_CONTINUOUS.model_dump(mode="json")
    assert "source_channels" not in written["unet"]
    unet = TINY_KNN_CONTINUOUS.unet.model_copy(update={"source_channels": 3})
    assert unet.model_dump()["source_channels"] == 3
    with pytest.raises(rdm_batch.errors.SpecError, match=r"source_channels is 2"):
        parse_architecture({**written, "unet": {**written["unet"], "source_channels": 2}}, "here")
