"""``rdm-batch evaluate`` on every form of images, on every store."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdm_batch.cli import main
from rdm_batch.storage.manifest import SampleSetHeader
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.store import Store
from rdm_batch.storage.table import make_table
from tests.job_kit import write_encoder
from tests.tolerances import NETWORK_REL

COUNT = 25


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.fixture
def extractor(tmp_path: Path) -> list[str]:
    weights = write_encoder(tmp_path / "clip.safetensors")
    return ["--extractor", "tiny-clip", "--extractor-weights", str(weights)]


def _write(store: Store, images: np.ndarray) -> list[str]:
    """Write the same images in every form; give the forms' names."""
    files = [encode_png(image) for image in images]
    for index, data in enumerate(files):
        store.write_bytes(f"folder/{index:03d}.png", data)
    table, npz = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table({"image": [{"bytes": data, "path": None} for data in files]}), table)
    np.savez(npz, images)
    store.write_bytes("table/train-00000-of-00001.parquet", table.getvalue())
    store.write_bytes("images.npz", npz.getvalue())
    header = SampleSetHeader(
        spec={}, digest="0" * 64, seed=1, num_samples=COUNT, shard_size=10, image_size=16
    )
    made = SampleSet.create_or_resume(store.child_uri("set"), header)
    for shard in range(header.num_shards):
        rows = np.array(header.rows_of(shard))
        pixels = [files[row] for row in rows]
        made.commit_shard(shard, make_table(sample_indices=rows, images=pixels, seed=1))
    made.finish()
    return ["folder", "table", "table/train-00000-of-00001.parquet", "images.npz", "set"]


def test_the_same_images_score_the_same_in_every_form_on_every_store(
    storage_uri: str, tmp_path: Path, extractor: list[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    forms = _write(open_store(storage_uri), images)
    saved = f"{storage_uri}/saved.npz"
    assert (
        main(["reference", "build", f"{storage_uri}/images.npz", "--out", saved, *extractor]) == 0
    )
    values = {}
    for form in [*forms, "saved.npz"]:
        out = tmp_path / "scores.json"
        command = ["evaluate", f"{storage_uri}/{form}", "--reference", "shapes:reference:40"]
        assert main([*command, "--scores", "fid", "recall", *extractor, "--json", str(out)]) == 0
        values[form] = [score["value"] for score in json.loads(out.read_text())]
    expected = values.pop("images.npz")
    for form, found in values.items():
        # A set is extracted by shards: float32 sums depend on the shape of a batch.
        assert found == pytest.approx(expected, rel=100 * NETWORK_REL), form
    for form in ("folder", "saved.npz"):
        command = ["evaluate", "shapes:reference:40", "--reference", f"{storage_uri}/{form}"]
        assert main([*command, "--scores", "fid", *extractor, "--json", str(out)]) == 0
        (score,) = json.loads(out.read_text())
        assert score["value"] == pytest.approx(expected[0], rel=100 * NETWORK_REL)


def test_a_page_shows_what_was_judged(
    tmp_path: Path, extractor: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 16, 16, 3), dtype=np.uint8)
    _write(open_store(str(tmp_path)), images)
    page = tmp_path / "page.html"
    command = ["evaluate", str(tmp_path / "set"), "--reference", "shapes:reference:80"]
    assert main([*command, "--scores", "fid", "precision", "recall", *extractor]) == 0
    assert main([*command, "--scores", "precision", "recall", *extractor, "--page", str(page)]) == 0
    assert f"page: {page}" in capsys.readouterr().out
    text = page.read_text()
    assert "Where the samples lie" in text
    assert "Coverage of the reference" in text
    assert text.count("data:image/png;base64,") > 10
    nowhere = tmp_path / "none" / "page.html"
    assert main([*command, "--scores", "fid", *extractor, "--page", str(nowhere)]) == 1
    assert "cannot be written" in capsys.readouterr().err
