from __future__ import annotations

from pathlib import Path

import pytest

from rdm_batch.errors import DatabaseError, SampleSetError
from rdm_batch.storage.uri import Location, parse_uri, redact


@pytest.mark.parametrize(
    ("uri", "location"),
    [
        ("/a/b", Location("file", "", "/a/b")),
        ("file:///a/b%20c", Location("file", "", "/a/b c")),
        ("file://localhost/a", Location("file", "", "/a")),
        ("s3://bucket", Location("s3", "bucket", "")),
        ("s3://bucket/a/b/", Location("s3", "bucket", "a/b")),
        ("S3://bucket/a@b?c#d", Location("s3", "bucket", "a@b?c#d")),
        ("package://shapes/head.safetensors", Location("package", "", "shapes/head.safetensors")),
    ],
)
def test_uris_are_split(uri: str, location: Location) -> None:
    assert parse_uri(uri) == location


def test_relative_paths_are_pinned_to_where_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_uri("a/b").path == str(tmp_path / "a" / "b")
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_uri("~/a").path == "/home/me/a"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("", "not a location"),
        ("a\0b", "not a location"),
        ("s3://", "names no bucket"),
        ("s3:///a", "names no bucket"),
        ("s3://key:hush@bucket/a", "carries credentials"),
        ("file://server/a", "names another machine"),
        ("gs://bucket/a", "scheme gs:// is not supported"),
        ("https://me:hush@host/a?X-Amz-Signature=hush", "scheme https:// is not supported"),
        ("package://../errors.py", "not a shipped file"),
        ("package://", "not a shipped file"),
    ],
)
def test_what_is_no_location_is_refused_without_showing_secrets(uri: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as caught:
        parse_uri(uri, DatabaseError)
    assert "hush" not in str(caught.value)


def test_sample_set_error_is_the_default() -> None:
    with pytest.raises(SampleSetError):
        parse_uri("s3://")


def test_redact_leaves_harmless_uris_alone() -> None:
    assert redact("s3://bucket/a@b") == "s3://bucket/a@b"
    assert redact("/home/me@work/a") == "/home/me@work/a"
    assert redact("http://me:hush@127.0.0.1:9000/x?y=hush") == "http://***@127.0.0.1:9000/x"
