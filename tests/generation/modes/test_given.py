"""Whole jobs over what users give: tables of prompts, pictures, embeddings, rows, paths."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import rdm_batch
from rdm_batch.inputs.databases import open_database
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.reports.saved import load_run
from rdm_batch.retrieval.mixtures import between
from rdm_batch.storage.sample_set import SampleSet
from tests.browser import open_page
from tests.job_kit import DIM, ROWS
from tests.worlds import World, assert_says, checked, problem_of, problems_of

K = 3


def _run(world: World, conditioning: dict[str, Any], **changes: Any) -> list[dict[str, Any]]:
    """Run a whole job in this process; give the rows of its sample set."""
    job = world.job(conditioning={"k_nn": K, **conditioning}, evaluation=None, **changes)
    job["sampling"] |= {"num_samples": 12, "num_steps": 1}
    rdm_batch.run(rdm_batch.load_job(job), address="none")
    rows: list[dict[str, Any]] = []
    for batch in SampleSet.find(job["output"]["uri"]).iter_batches():
        rows += batch.to_pylist()
    return rows


def _pictures(folder: Path, count: int = 3) -> list[np.ndarray]:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (16, 20, 3), dtype=np.uint8) for _ in range(count)]
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number}.png")
    return images


def _embed(world: World, images: list[np.ndarray]) -> np.ndarray:
    encoder = world.document["database"]["encoder"]
    return load_named_encoder(encoder["name"], encoder["weights"]).encode_images(images)


def _neighbors(world: World, queries: np.ndarray, k: int = K) -> list[list[int]]:
    found = open_database(world.root / "database").search(queries.astype(np.float32), k)
    return found.ids.tolist()


# Pictures


def test_pictures_of_a_folder_are_followed_in_turn(world: World, tmp_path: Path) -> None:
    images = _pictures(tmp_path / "queries")
    rows = _run(world, {"mode": "image", "images": str(tmp_path / "queries")})
    expected = _neighbors(world, _embed(world, images))
    assert [row["neighbor_ids"] for row in rows] == expected * 4
    assert [row["query"] for row in rows] == ["0.png", "1.png", "2.png"] * 4
    assert rows[0]["query_id"] is None
    assert rows[0]["prompt"] is None


def test_pictures_of_a_table_and_one_file_serve_as_well(world: World, tmp_path: Path) -> None:
    (image, *_) = _pictures(tmp_path / "queries")
    one = tmp_path / "queries/0.png"
    table = {"image": [{"bytes": one.read_bytes(), "path": None}]}
    pq.write_table(pa.table(table), tmp_path / "queries.parquet")
    for number, name in enumerate(("queries/0.png", "queries.parquet")):
        conditioning = {"mode": "image", "images": str(tmp_path / name)}
        rows = _run(world, conditioning, output__uri=str(tmp_path / f"out{number}"))
        assert rows[11]["neighbor_ids"] == _neighbors(world, _embed(world, [image]))[0]


@pytest.mark.parametrize(
    ("context", "found"), [("image", 0), ("image_and_neighbors", K - 1), ("mixed", K)]
)
def test_the_picture_itself_can_be_in_its_context(
    world: World, tmp_path: Path, context: str, found: int
) -> None:
    images = _pictures(tmp_path / "queries")
    conditioning: dict[str, Any] = {"mode": "image", "images": str(tmp_path / "queries")}
    conditioning |= {"context": context, "k_nn": K}
    if context == "mixed":
        conditioning["query_weight"] = 0.5
    job = rdm_batch.load_job(world.job(conditioning=conditioning, evaluation=None))
    batch = next(iter(rdm_batch.generate(job)))
    assert batch.neighbor_ids.shape == (4, found)
    if found:
        expected = _neighbors(world, _embed(world, images[:1]), found)
        assert batch.neighbor_ids[0].tolist() == expected[0]
    assert batch.columns["query"] == ("0.png", "1.png", "2.png", "0.png")


def test_query_pictures_stand_on_the_page(world: World, tmp_path: Path) -> None:
    _pictures(tmp_path / "queries")
    _run(world, {"mode": "image", "images": str(tmp_path / "queries")})
    out = world.document["output"]["uri"]
    saved = load_run(out)
    assert [sample.caption for sample in saved.report.illustrated[:3]] == [
        "0.png",
        "1.png",
        "2.png",
    ]
    assert set(saved.pictures.queries) == set(range(12))
    page = open_page(Path(out) / "report.html", script="document.querySelectorAll('.asked').length")
    assert page.value == 12
    assert page.console_errors == ()
    assert "framed before them the picture that was asked with" in page.dom_text


def test_pictures_that_do_not_decode_are_one_error_before_work(
    world: World, tmp_path: Path
) -> None:
    _pictures(tmp_path / "queries")
    for name in ("1.png", "2.png"):
        (tmp_path / "queries" / name).write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    conditioning = {"mode": "image", "k_nn": K, "images": str(tmp_path / "queries")}
    message = problem_of(world.job(conditioning=conditioning))
    assert_says(message, "conditioning.images", "1.png: not a readable image", "(2 of 3 pictures")


def test_pictures_without_an_encoder_are_refused(world: World, tmp_path: Path) -> None:
    conditioning = {"mode": "image", "images": str(tmp_path)}
    document = world.job(conditioning=conditioning, database__encoder=None)
    with pytest.raises(rdm_batch.errors.InvalidJobError, match="embeds texts or pictures, but"):
        checked(document)


def test_other_pictures_are_another_job_and_moved_ones_are_not(
    world: World, tmp_path: Path
) -> None:
    def digest(folder: Path) -> str:
        conditioning = {"mode": "image", "k_nn": K, "images": str(folder)}
        return checked(world.job(conditioning=conditioning)).header.digest

    for name in ("a", "b", "c"):
        _pictures(tmp_path / name)
    Image.new("RGB", (20, 16), "red").save(tmp_path / "c" / "1.png")
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


# Embeddings


def _embeddings(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(*shape, DIM)).astype(np.float32)


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_given_embeddings_are_queries(world: World, tmp_path: Path, kind: str) -> None:
    queries = _embeddings(5)
    path = tmp_path / f"queries.{kind}"
    if kind == "npy":
        np.save(path, queries)
    else:
        pq.write_table(pa.table({"id": range(5), "vector": queries.tolist()}), path)
    rows = _run(world, {"mode": "embeddings", "file": str(path)})
    expected = _neighbors(world, queries)
    assert [row["neighbor_ids"] for row in rows] == [expected[i % 5] for i in range(12)]
    assert rows[6]["query"] == f"queries.{kind}#1"


def test_given_contexts_are_taken_as_they_are(world: World, tmp_path: Path) -> None:
    contexts = _embeddings(2, K)
    np.save(tmp_path / "contexts.npy", contexts)
    conditioning = {"mode": "embeddings", "file": str(tmp_path / "contexts.npy")}
    rows = _run(world, {**conditioning, "context": "embeddings", "samples_per_query": 4})
    assert [row["query"] for row in rows[:5]] == ["contexts.npy#0"] * 4 + ["contexts.npy#1"]
    assert rows[0]["neighbor_ids"] == []
    mode = {**conditioning, "k_nn": K + 1}
    messages = [str(problem) for problem in problems_of(world.job(conditioning=mode))]
    assert len(messages) == 2
    assert_says(messages[0], "conditioning.context: is 'neighbors'", "three axes")
    assert_says(messages[1], f"conditioning.k_nn: is {K + 1}", f"needed k_nn: {K}")


def _bad_embeddings(path: Path, what: str) -> None:
    queries = _embeddings(4)
    match what:
        case "width":
            queries = np.ones((4, DIM + 1), np.float32)
        case "zero":
            queries[2] = 0
        case "nan":
            queries[3, 0] = np.nan
        case "integers":
            queries = queries.astype(np.int64)
        case "empty":
            queries = queries[:0]
        case "flat":
            queries = queries[0]
    np.save(path, queries)
    if what == "half":
        path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("width", (f"holds {DIM + 1}-dimensional embeddings", f"holds {DIM}-dimensional")),
        ("zero", ("row 2 has norm 0", "(1 of 4 rows do)")),
        ("nan", ("row 3 holds NaN",)),
        ("half", ("unreadable", "bytes, but", "are there")),
        ("integers", ("int64 of shape (4,",)),
        ("empty", ("holds nothing (shape (0,",)),
        ("flat", ("floats of shape (N, width)",)),
    ],
)
def test_embeddings_that_cannot_be_used_are_one_error(
    world: World, tmp_path: Path, what: str, words: tuple[str, ...]
) -> None:
    path = tmp_path / "queries.npy"
    _bad_embeddings(path, what)
    conditioning = {"mode": "embeddings", "k_nn": K, "file": str(path)}
    assert_says(problem_of(world.job(conditioning=conditioning)), "conditioning.file", *words)


@pytest.mark.parametrize(
    ("columns", "column", "words"),
    [
        ({"id": [1]}, None, ("a column of lists",)),
        ({"a": [[1.0]], "b": [[1.0]]}, None, ("name one of a, b",)),
        ({"a": [[1.0, 2.0], [1.0]]}, "a", ("vectors of several widths",)),
        ({"a": [[1.0], None]}, "a", ("hold no vector",)),
        ({"a": [[1.0]]}, "c", ("no vectors in 'c'", "name one of a")),
    ],
)
def test_tables_of_embeddings_that_cannot_be_used_are_one_error(
    world: World, tmp_path: Path, columns: dict[str, Any], column: str | None, words: tuple[str]
) -> None:
    path = tmp_path / "queries.parquet"
    pq.write_table(pa.table(columns), path)
    conditioning = {"mode": "embeddings", "k_nn": K, "file": str(path), "column": column}
    assert_says(problem_of(world.job(conditioning=conditioning)), *words)


# Rows


def test_given_rows_are_pseudo_queries(world: World) -> None:
    rows = _run(world, {"mode": "rows", "rows": [7, 30], "samples_per_query": 2})
    retriever = open_database(world.root / "database")
    expected = _neighbors(world, retriever.fetch(np.array([7, 30])))
    assert [row["query_id"] for row in rows[:6]] == [7, 7, 30, 30, 7, 7]
    assert [row["neighbor_ids"] for row in rows[:4]] == [expected[i // 2] for i in range(4)]


def test_given_rows_are_whole_contexts(world: World) -> None:
    given = [[1, 2, 3], [39, 0, 5]]
    rows = _run(world, {"mode": "rows", "context": "rows", "rows": given})
    assert [row["neighbor_ids"] for row in rows] == given * 6
    assert all(np.isnan(row["neighbor_scores"]).all() for row in rows)
    assert rows[0]["query_id"] is None
    (sample, *_) = load_run(world.document["output"]["uri"]).report.illustrated
    assert (sample.neighbor_ids, sample.neighbor_scores) == ((1, 2, 3), ())


@pytest.mark.parametrize("kind", ["txt", "npy", "parquet"])
def test_rows_stand_in_files(world: World, tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"rows.{kind}"
    match kind:
        case "txt":
            path.write_text("7\n\n30\n")
        case "npy":
            np.save(path, np.array([7, 30], dtype=np.uint16))
        case _:
            pq.write_table(pa.table({"row_id": [7, 30], "note": ["a", "b"]}), path)
    from_file = checked(world.job(conditioning={"mode": "rows", "k_nn": K, "rows_file": str(path)}))
    inline = checked(world.job(conditioning={"mode": "rows", "k_nn": K, "rows": [7, 30]}))
    assert from_file.queries is not None
    assert from_file.queries.row_ids.tolist() == [[7], [30]]
    assert from_file.header.digest == inline.header.digest


@pytest.mark.parametrize(
    ("conditioning", "words"),
    [
        ({"rows": [3, ROWS, 99]}, ("conditioning.rows", f"row id {ROWS} (2 of 3 ids)")),
        ({"rows": [[1, 2], 3]}, ("conditioning.rows, entry 1: 1 rows", "2, as the first has")),
        ({"rows": [[1, 2]], "context": "rows"}, ("gives 2 rows for each entry", f"needed {K}")),
        ({"rows": [[1, 2]]}, ("gives 2 rows for each entry", "needed 1, for context 'neighbors'")),
        ({"rows_file": "x.txt", "text": "1\n-3\n"}, ("line 2 holds '-3'",)),
        ({"rows_file": "x.txt", "text": "1 2\n3\n"}, ("line 2 holds 1 rows",)),
        ({"rows_file": "x.txt", "text": ""}, ("holds no rows",)),
        ({"rows_file": "x.csv", "text": "1"}, ("is of no known kind",)),
        ({"rows_file": "x.p", "text": "cos\nsystem\n"}, ("unreadable",)),
    ],
)
def test_rows_that_cannot_be_used_are_one_error(
    world: World, tmp_path: Path, conditioning: dict[str, Any], words: tuple[str, ...]
) -> None:
    if "text" in conditioning:
        path = tmp_path / conditioning["rows_file"]
        path.write_text(conditioning["text"])
        conditioning = {"rows_file": str(path)}
    document = world.job(conditioning={"mode": "rows", "k_nn": K, **conditioning})
    assert_says(problem_of(document), *words)


# Tables of prompts


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_columns_of_a_table_of_prompts_travel_into_the_sample_set(
    world: World, tmp_path: Path, kind: str
) -> None:
    rows = [
        {"prompt": "a red circle", "id": 3, "by": "x"},
        {"prompt": "a square", "id": 5, "by": None},
    ]
    path = tmp_path / f"prompts.{kind}"
    match kind:
        case "csv":
            path.write_text("prompt,id,by\na red circle,3,x\n\na square,5,\n")
        case "jsonl":
            path.write_text("\n".join(map(json.dumps, rows)))
        case _:
            pq.write_table(pa.Table.from_pylist(rows), path)
    found = _run(world, {"mode": "text", "prompts_file": str(path), "samples_per_query": 2})
    assert [row["prompt"] for row in found[:5]] == [
        *("a red circle", "a red circle", "a square", "a square", "a red circle")
    ]
    numbers = [3, 3, 5, 5, 3]
    expected: list[Any] = list(map(str, numbers)) if kind == "csv" else numbers
    assert [row["prompt.id"] for row in found[:5]] == expected
    assert [row["prompt.by"] for row in found[:4]] == ["x", "x", None, None]
    shard = next((Path(world.document["output"]["uri"]) / "data").glob("*.parquet"))
    assert pq.read_schema(shard).names[-2:] == ["prompt.id", "prompt.by"]


def test_a_table_of_prompts_alone_is_the_same_job_as_its_prompts(
    world: World, tmp_path: Path
) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("caption,x\na red circle,1\na square,2\n")
    table = {"mode": "text", "k_nn": K, "prompts_file": str(path), "prompt_column": "caption"}
    inline = checked(world.text_job("a red circle", "a square")).header.digest
    assert checked(world.job(conditioning={**table, "columns": []})).header.digest == inline
    assert checked(world.job(conditioning=table)).header.digest != inline


@pytest.mark.parametrize(
    ("name", "text", "more", "words"),
    [
        ("a.csv", "text\nx\n", {}, ("no column 'prompt' among 'text'", "conditioning.prompt_col")),
        ("a.csv", "prompt\nx,y\n", {}, ("line 2 has 2 values",)),
        ("a.csv", 'prompt\n"x\n', {}, ("line 2: unexpected end of data",)),
        ("a.csv", "prompt,a\nx,1\n,2\n", {}, ("row 2 has no prompt",)),
        ("a.csv", "prompt,prompt\nx,1\n", {}, ("stands twice",)),
        ("a.csv", "", {}, ("no column 'prompt' among none",)),
        ("a.csv", "prompt\n", {}, ("holds no prompt",)),
        ("a.csv", "prompt,a\nx,1\n", {"columns": ["b"]}, ("no column 'b'", "'prompt', 'a'")),
        ("a.jsonl", "[]\n", {}, ("line 1 holds no object",)),
        ("a.jsonl", '{"prompt": "a"}\n{', {}, ("line 2: its JSON is damaged",)),
        ("a.jsonl", '{"prompt": "a", "x": [1]}', {}, ("column 'x' holds list",)),
        ("a.jsonl", '{"prompt": "a", "x": 1}\n{"prompt": "b", "x": "c"}', {}, ("several kinds",)),
        ("a.jsonl", '{"prompt": 3}', {}, ("column 'prompt' holds int64; needed texts",)),
        ("a.parquet", "PAR1", {}, ("unreadable",)),
        ("a.txt", "a\n", {"columns": ["b"]}, ("is no table", ".csv, .jsonl, .parquet")),
    ],
)
def test_tables_of_prompts_that_cannot_be_used_are_one_error(
    world: World, tmp_path: Path, name: str, text: str, more: dict[str, Any], words: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(text)
    conditioning = {"mode": "text", "k_nn": K, "prompts_file": str(tmp_path / name), **more}
    assert_says(
        problem_of(world.job(conditioning=conditioning)), "conditioning.prompts_file", *words
    )


def test_a_weight_belongs_to_the_mixed_context(world: World) -> None:
    mixed = {"mode": "text", "k_nn": K, "prompts": ["a circle"], "context": "mixed"}
    for conditioning in (mixed, {**mixed, "context": "text", "query_weight": 0.5}):
        with pytest.raises(rdm_batch.errors.InvalidJobError, match="query_weight"):
            checked(world.job(conditioning=conditioning))
    digests = {
        checked(world.job(conditioning={**mixed, "query_weight": weight})).header.digest
        for weight in (0.0, 0.5, 1.0)
    }
    assert len(digests) == 3


def test_samples_per_query_enters_an_identity_once_it_is_asked_for(world: World) -> None:
    plain = checked(world.text_job("a circle", "a square"))
    assert "samples_per_query" not in plain.header.spec["conditioning"]
    document = copy.deepcopy(world.text_job("a circle", "a square"))
    document["conditioning"]["samples_per_query"] = 2
    assert checked(document).header.digest != plain.header.digest


def test_classes_take_several_samples_in_a_row(world: World) -> None:
    conditioning = {"mode": "class", "labels": ["circle", "square"], "pool_size": 8}
    rows = _run(world, {**conditioning, "samples_per_query": 3})
    assert [row["label"] for row in rows[:7]] == ["circle"] * 3 + ["square"] * 3 + ["circle"]


# Paths


def test_a_path_goes_from_one_query_to_the_other(world: World, tmp_path: Path) -> None:
    images = _pictures(tmp_path / "queries", 1)
    conditioning = {
        "mode": "interpolate",
        "through": [{"row": 7}, {"image": str(tmp_path / "queries/0.png")}],
        "steps": 5,
        "samples_per_query": 2,
    }
    rows = _run(world, conditioning)
    assert [row["query_weight"] for row in rows[:10:2]] == [0, 0.25, 0.5, 0.75, 1]
    assert rows[0]["query_weight"] == rows[1]["query_weight"] == rows[10]["query_weight"]
    assert {(row["query"], row["query_end"]) for row in rows} == {("row 7", "0.png")}
    start = open_database(world.root / "database").fetch(np.array([7]))
    end = _embed(world, images)
    for place, row in enumerate(rows[:10:2]):
        mixed = between(start, end, np.array([place / 4]))
        assert row["neighbor_ids"] == _neighbors(world, mixed)[0]
    captions = [s.caption for s in load_run(world.document["output"]["uri"]).report.illustrated]
    assert captions[4] == "row 7 → 0.png, 0.50"


def test_a_path_meets_what_lies_between_its_ends(world: World) -> None:
    points = [{"text": "a red circle"}, {"row": 3}, {"text": "a square"}]
    conditioning = {"mode": "interpolate", "k_nn": K, "through": points, "steps": 5}
    job = rdm_batch.load_job(world.job(conditioning=conditioning, evaluation=None))
    batches = list(rdm_batch.generate(job))[:2]
    weights = [weight for batch in batches for weight in batch.columns["query_weight"]][:5]
    starts = [name for batch in batches for name in batch.columns["query"]][:5]
    assert weights == [0, 0.5, 0, 0.5, 1]
    assert starts == ["a red circle", "a red circle", "row 3", "row 3", "row 3"]
    assert batches[0].neighbor_ids[2, 0] == 3


@pytest.mark.parametrize(
    ("through", "words"),
    [
        ([{"row": 1}, {"row": ROWS}], ("conditioning.through", f"row id {ROWS}")),
        ([{"row": 1}, {"image": "/nowhere/a.png"}], ("/nowhere/a.png", "does not exist")),
        ([{"text": "a giraffe"}, {"row": 1}], ("unknown words: giraffe",)),
    ],
)
def test_paths_that_cannot_be_gone_are_one_error(
    world: World, through: list[dict[str, Any]], words: tuple[str, ...]
) -> None:
    conditioning = {"mode": "interpolate", "k_nn": K, "through": through}
    assert_says(problem_of(world.job(conditioning=conditioning)), *words)
