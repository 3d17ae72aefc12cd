from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rdm_batch.cli import main
from rdm_batch.databases.search import search_database
from rdm_batch.errors import RdmBatchError
from rdm_batch.inputs.databases import open_database
from rdm_batch.reports.search_page import (
    Found,
    Query,
    SearchReport,
    render_search,
    search_tables,
)
from rdm_batch.specs.database_search import DatabaseSearch
from tests.browser import open_page
from tests.job_kit import ROWS, write_database

SHAPES = "package://shapes/database"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("search") / "database"
    write_database(root)
    return root


def test_rows_are_found_with_what_is_known_of_them(database: Path) -> None:
    report = search_database(DatabaseSearch(uri=str(database), rows=(3, 30), k=4))
    first, second = report.queries
    assert first.label == "row 3: item-3"
    assert [query.found[0].row_id for query in (first, second)] == [3, 30]
    retriever = open_database(database)
    expected = retriever.search(retriever.fetch(np.array([3, 30])), 4)
    assert [[found.row_id for found in query.found] for query in report.queries] == (
        expected.ids.tolist()
    )
    for found in first.found:
        assert found.item_id == f"item-{found.row_id}"
        assert found.patch == (0, 0, 8, 8)
        assert found.picture == retriever.thumbnails(np.array([found.row_id]))[0]


def test_texts_and_pictures_find_what_they_show(tmp_path: Path) -> None:
    by_text = search_database(DatabaseSearch(uri=SHAPES, text=("a red star", "a blue circle"), k=5))
    assert [query.label for query in by_text.queries] == ["a red star", "a blue circle"]
    captions = [[found.caption or "" for found in query.found] for query in by_text.queries]
    assert sum("star" in caption for caption in captions[0]) >= 4
    assert sum("circle" in caption for caption in captions[1]) >= 4
    best = by_text.queries[0].found[0]
    assert best.picture is not None
    (tmp_path / "star.png").write_bytes(best.picture)
    request = DatabaseSearch(uri=SHAPES, image=(str(tmp_path / "star.png"),), k=5)
    (query,) = search_database(request).queries
    assert (query.label, query.picture is not None) == ("star.png", True)
    assert sum("star" in (found.caption or "") for found in query.found) >= 3


def test_records_are_those_of_the_rows_wherever_their_groups_end() -> None:
    wanted = [0, 4095, 4096, 8191]
    records = open_database(SHAPES).records(np.array(wanted))
    assert [record.item_id for record in records] == [
        f"shapes-database-{row:08d}" for row in wanted
    ]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "give exactly one of --text, --image and --rows"),
        (["--rows", "1", "--text", "a"], "not --text and --rows"),
        (["--rows", str(ROWS)], f"--rows: row id {ROWS} (1 of 1 ids); needed 0 <= id < {ROWS}"),
        (["--rows", "-1"], "--rows: -1; needed at least 0"),
        (["--rows", "1", "-k", str(ROWS + 1)], f"k = {ROWS + 1} neighbors of {ROWS} rows"),
        (["--text", "a red star"], "was built with tiny-clip"),
        (["--text", "a", "--encoder", "shapes-clip"], "but --encoder is shapes-clip"),
        (["--rows", "1", "--page", "/nowhere/page.html"], "its folder is not there"),
    ],
)
def test_a_search_that_cannot_be_is_one_error(
    database: Path, capsys: pytest.CaptureFixture[str], extra: list[str], message: str
) -> None:
    assert main(["database", "search", str(database), *extra]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n broken"])
def test_a_picture_that_does_not_decode_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(RdmBatchError, match=r"a\.png: not a readable image"):
        search_database(DatabaseSearch(uri=SHAPES, image=(str(tmp_path / "a.png"),)))


def test_an_unknown_word_is_named_by_its_option() -> None:
    with pytest.raises(RdmBatchError, match=r"--text, text 'a giraffe': unknown words: giraffe"):
        search_database(DatabaseSearch(uri=SHAPES, text=("a giraffe",)))


def test_a_database_without_thumbnails_is_searched_all_the_same(tmp_path: Path) -> None:
    out = tmp_path / "db"
    build = ["database", "build", "--images", "shapes:database:30", "--thumbnail-size", "0"]
    assert main([*build, "--out", str(out)]) == 0
    report = search_database(DatabaseSearch(uri=str(out), rows=(1,), k=3))
    assert not report.has_thumbnails
    assert report.queries[0].found[0].picture is None


def test_the_command_prints_a_table_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    command = ["database", "search", SHAPES, "--rows", "3", "17", "-k", "2", "--page", str(page)]
    assert main(command) == 0
    printed = capsys.readouterr().out
    assert "row 3: an outlined orange star" in printed
    assert "1.0000" in printed
    assert f"page: {page}" in printed
    seen = open_page(page, width=400, phone=True)
    assert seen.console_errors == ()
    assert seen.requests == ()
    assert seen.scroll_width == 400
    assert "shapes-database-00000003" in seen.dom_text


def test_what_a_database_says_is_text_on_the_page() -> None:
    hostile = "<script>alert(1)</script>"
    found = (
        Found(1, 0.5, "item", hostile, url=f"javascript:{hostile}"),
        Found(2, 0.5, "00002.jpg", None, url='https://example.org/"><b>'),
    )
    report = SearchReport("db", 2, "fake", False, (Query(hostile, None, found),))
    from datetime import UTC, datetime

    page = render_search(report, datetime.now(UTC), "search")
    assert "<script>" not in page
    assert 'href="javascript' not in page
    assert 'href="https://example.org/&#34;&gt;&lt;b&gt;"' in page
    assert "00002.jpg" in page
    (table,) = search_tables(report)
    assert [column.header for column in table.columns][-3:] == ["caption", "item", "url"]


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / f"{name}.png")
    with pytest.raises(RdmBatchError, match="holds 2 images; needed an image file"):
        search_database(DatabaseSearch(uri=SHAPES, image=(str(tmp_path),)))
