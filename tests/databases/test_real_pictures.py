"""Databases of photographs and of handwriting, built by the command and searched."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from rdm_batch.cli import main
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.retrieval.composite import CompositeRetriever
from tests.fixtures.pictures import PHOTOGRAPHS, write_digits, write_photographs


def item_ids(root: Path) -> np.ndarray:
    table = pq.read_table(root / "embeddings", columns=["row_id", "item_id"]).sort_by("row_id")
    return np.array(table.column("item_id").to_pylist())


def share_of_like_neighbors(retriever: CompositeRetriever, kinds: np.ndarray) -> float:
    """Share of the five nearest other rows that are of a row's own kind."""
    rows = retriever.fetch(np.arange(retriever.rows))
    found = retriever.search(rows, 6).ids
    np.testing.assert_array_equal(found[:, 0], np.arange(retriever.rows))
    return float((kinds[found[:, 1:]] == kinds[:, None]).mean())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photographs, 24 patches each, in two shards."""
    folder = tmp_path_factory.mktemp("photographs")
    write_photographs(folder / "files")
    command = ["database", "build", "--images", str(folder / "files"), "--patches", "24"]
    assert main([*command, "--shards", "2", "--out", str(folder / "db")]) == 0
    return folder


def test_patches_find_patches_of_their_own_photograph(photographs: Path) -> None:
    root = photographs / "db"
    assert Database.open(str(root)).manifest.rows == 24 * len(PHOTOGRAPHS)
    # By chance one neighbor in eight would be of the same photograph; measured: 0.90.
    assert share_of_like_neighbors(open_database(root), item_ids(root)) > 0.6


def test_a_new_crop_finds_its_photograph_and_shows_it(photographs: Path) -> None:
    root = photographs / "db"
    retriever, ids = open_database(root), item_ids(root)
    encoder = load_named_encoder("shapes-clip", None)
    with Image.open(photographs / "files/chelsea.png") as file:
        crop = np.asarray(file.convert("RGB"))[:240, :240]
    found = retriever.search(encoder.encode_images([crop]), 5)
    assert (ids[found.ids[0]] == "chelsea.png").sum() >= 4
    for png in retriever.thumbnails(found.ids[0]):
        assert Image.open(io.BytesIO(png)).size == (64, 64)


def test_digits_find_digits_alike(tmp_path: Path) -> None:
    write_digits(tmp_path / "files", count=600)
    command = ["database", "build", "--images", str(tmp_path / "files")]
    assert main([*command, "--out", str(tmp_path / "db")]) == 0
    digits = np.array([name.split("/")[0] for name in item_ids(tmp_path / "db")])
    assert len(digits) == 600
    # By chance one neighbor in ten would be the same digit; measured: 0.58.
    assert share_of_like_neighbors(open_database(tmp_path / "db"), digits) > 0.35
