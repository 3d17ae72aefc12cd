"""``rdm-batch samples check`` and ``export`` as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdm_batch.cli import main
from tests.storage.sets import write_set


def test_a_sound_set_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_set(str(tmp_path / "set"))
    assert main(["samples", "check", str(tmp_path / "set")]) == 0
    assert "complete" in capsys.readouterr().out


def test_a_damaged_shard_is_named_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(str(tmp_path / "set"))
    shard = sorted((tmp_path / "set/data").iterdir())[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    assert main(["samples", "check", str(tmp_path / "set")]) == 1
    printed = capsys.readouterr()
    assert shard.name in printed.out
    assert "complete" not in printed.out


def test_what_is_no_set_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["samples", "check", str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("\n") == 1
    assert "Traceback" not in printed.err


def test_an_export_is_refused_credentials_without_showing_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["export", "s3://name:secret@bucket/a", "--format", "adm-npz", "--out", "b.npz"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: SAMPLES: carries credentials")
    assert "secret" not in error
