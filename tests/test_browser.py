"""The page check itself is checked: a page that does complain must be caught."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser import PageResult, open_page


def opened(tmp_path: Path, body: str, head: str = "", script: str = "null") -> PageResult:
    path = tmp_path / "page.html"
    path.write_text(
        f"<!doctype html><html><head><meta charset='utf-8'>{head}</head><body>{body}</body></html>"
    )
    return open_page(path, script=script)


def test_a_clean_page_gives_text_picture_and_no_complaint(tmp_path: Path) -> None:
    body = "<h1>Hello</h1><div style='height: 3000px'></div><p>end</p>"
    result = opened(tmp_path, body, script="Promise.resolve(6 * 7)")
    assert result.console_errors == ()
    assert result.requests == ()
    assert result.dom_text.split() == ["Hello", "end"]
    assert result.value == 42
    assert result.screenshot_png.startswith(b"\x89PNG")
    assert int.from_bytes(result.screenshot_png[20:24]) > 3000
    assert result.scroll_width == 1280


@pytest.mark.parametrize(
    ("body", "head", "complaint"),
    [
        ("<script>console.error('broken', 7)</script>", "", "console.error: broken 7"),
        ("<script>null.field</script>", "", "TypeError"),
        ("<script>setTimeout(() => { throw new Error('late') })</script>", "", "Error: late"),
        ("<img src='missing.png' alt=''>", "", "missing.png net::ERR_FILE_NOT_FOUND"),
        (
            "<script>window.ran = 1</script>",
            "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">",
            "Content Security Policy",
        ),
    ],
)
def test_a_page_that_fails_is_caught(tmp_path: Path, body: str, head: str, complaint: str) -> None:
    result = opened(tmp_path, body, head)
    assert any(complaint in line for line in result.console_errors), result.console_errors


def test_requests_for_other_files_are_listed(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("p { color: red }")
    image = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="
    result = opened(tmp_path, f"<img src='{image}' alt=''>", "<link rel=stylesheet href=style.css>")
    assert result.requests == ((tmp_path / "style.css").as_uri(),)
