"""Import the parity set's published files and answer as the published code does."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from rdm_batch.cli import main
from rdm_batch.inputs.databases import Database, open_database

RECORDED = Path(__file__).parents[1] / "parity/data/search.npz"
PARTS = {"200x512-part_1": slice(0, 200), "300x512-part_2": slice(200, 500)}


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORDED) as file:
        return dict(file)


@pytest.fixture
def published(recorded: dict[str, np.ndarray], tmp_path: Path) -> Path:
    for name, rows in PARTS.items():
        arrays = {
            key: recorded[f"database/{key}"][rows]
            for key in ("embedding", "img_id", "patch_coords")
        }
        np.savez(tmp_path / f"{name}.npz", **arrays)
    ids, counts = recorded["rdm/nn_memory"].tolist(), recorded["rdm/counts"].tolist()
    memory = {"nn_memory": ids, "id_count": dict(zip(ids, counts, strict=True))}
    (tmp_path / "memory.p").write_bytes(pickle.dumps(memory))
    return tmp_path


def run(published: Path, *extra: str, order: Any = tuple(PARTS)) -> int:
    return main(
        [
            "database",
            "import-npz",
            str(published),
            "--order",
            *order,
            "--out",
            str(published / "db"),
            *extra,
        ]
    )


@pytest.mark.parametrize("shards", ["1", "3"])
def test_an_imported_database_answers_as_published(
    published: Path, recorded: dict[str, np.ndarray], shards: str
) -> None:
    assert run(published, "--neighbor-memory", str(published / "memory.p"), "--shards", shards) == 0
    root = published / "db"
    manifest = Database.open(str(root)).manifest
    assert (manifest.rows, manifest.dim, manifest.dtype) == (500, 512, "float16")
    assert len(manifest.shards) == int(shards)
    retriever = open_database(root)
    for case in ("rdata_top0.5", "rdata_k7"):
        queries = retriever.fetch(recorded[f"rdm/{case}/qids"])
        expected = recorded[f"rdm/{case}/nns"]
        found = retriever.search(queries, expected.shape[1])
        np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_array_equal(
        retriever.fetch(np.arange(500)), recorded["database/embedding"].astype(np.float32)
    )
    proposal = Database.open(str(root)).proposal()
    assert proposal is not None
    np.testing.assert_array_equal(proposal.row_ids, recorded["rdm/nn_memory"])
    np.testing.assert_array_equal(proposal.counts, recorded["rdm/counts"])
    rows = pq.read_table(root / "embeddings").to_pylist()
    assert [row["row_id"] for row in rows] == list(range(500))
    assert [int(row["item_id"]) for row in rows] == recorded["database/img_id"].tolist()
    coords = [row["patch_coords"] for row in rows]
    np.testing.assert_array_equal(coords, recorded["database/patch_coords"])


def test_importing_again_changes_nothing_and_another_order_is_refused(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(published) == 0
    before = (published / "db/database.json").read_bytes()
    assert run(published) == 0
    assert run(published, order=list(PARTS)[::-1]) == 1
    assert "order" in capsys.readouterr().err
    assert (published / "db/database.json").read_bytes() == before


def test_parts_given_one_by_one_are_the_folder_in_that_order(
    published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(published / f"{name}.npz") for name in PARTS]
    assert main(["database", "import-npz", *files, "--out", str(published / "db")]) == 0
    before = (published / "db/database.json").read_bytes()
    assert run(published) == 0  # the same database: nothing to do
    assert (published / "db/database.json").read_bytes() == before
    backwards = ["database", "import-npz", *files[::-1], "--out", str(published / "db")]
    assert main(backwards) == 1
    assert "order" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["a.npz", "a.npz"], "a.npz: stands twice; needed every part exactly once"),
        (["."], "is not the name of an .npz part; give every part in row order, or their folder"),
        (["a.npz", "b.npz", "--order", "a", "b"], "order names the parts of one folder"),
        (["a.npz", "nothing.npz"], "nothing.npz"),
        (["s3://name:secret@bucket/a.npz"], "PART: carries credentials"),
    ],
)
def test_parts_without_one_clear_order_are_refused(
    published: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    parts: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(published)
    np.savez("a.npz", embedding=np.ones((4, 8), dtype=np.float16), img_id=np.arange(4))
    assert main(["database", "import-npz", *parts, "--out", "db"]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "secret" not in error
    assert not Path("db/database.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "memory.p").write_bytes(pickle.dumps(eval)), "builtins.eval"),
        (lambda folder: np.savez(folder / "x.npz", embedding=np.ones(3)), "every part exactly"),
        (
            lambda folder: (folder / "memory.p").write_bytes(
                pickle.dumps({"nn_memory": [500], "id_count": {500: 1}})
            ),
            "row id 500",
        ),
        (
            lambda folder: np.savez(
                folder / f"{next(iter(PARTS))}.npz",
                embedding=np.ones((4, 8), dtype=np.float16),
                img_id=np.arange(4),
            ),
            "widths and types",
        ),
    ],
    ids=["pickle", "unknown part", "foreign memory", "mixed widths"],
)
def test_unusable_publications_are_refused(
    published: Path, capsys: pytest.CaptureFixture[str], change: Any, message: str
) -> None:
    change(published)
    assert run(published, "--neighbor-memory", str(published / "memory.p")) == 1
    assert message in capsys.readouterr().err
    assert not (published / "db/database.json").exists()
