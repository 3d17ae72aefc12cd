"""Trainings and databases that meet a limit of the disk, and two trainings in one folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdm_batch.cli import main
from rdm_batch.errors import CheckpointError
from rdm_batch.files import locked
from rdm_batch.training.train import train
from tests.limits import largest_file
from tests.training.test_train import AUTOENCODER, write


def test_a_training_whose_disk_is_full_fails_with_one_error_and_goes_on_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = write(tmp_path, AUTOENCODER), tmp_path / "out"
    whole = train("autoencoder", config, tmp_path / "whole").read_bytes()
    command = ["train", "autoencoder", "--config", str(config), "--out", str(out)]
    capsys.readouterr()
    with largest_file(200_000):
        assert main(command) == 1
    errors = capsys.readouterr().err.splitlines()
    assert [line for line in errors if not line.startswith("step")] == errors[-1:]
    assert errors[-1].startswith(f"error: {out}/checkpoint.pt: cannot be written")
    assert main(command) == 0
    assert (out / "weights.safetensors").read_bytes() == whole


def test_a_database_whose_disk_is_full_fails_with_one_error_and_is_completed_after(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["database", "build", "--images", "shapes:database:60", "--out", str(out)]
    with largest_file(2000):
        assert main(command) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert "part-000000.parquet: the file would be larger than it may be" in error
    assert main(command) == 0
    assert main([*command[:4], "--out", str(tmp_path / "whole")]) == 0
    files = [path.relative_to(out) for path in out.rglob("*") if path.is_file()]
    assert all(
        (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes() for name in files
    )


def test_a_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    config = write(tmp_path, AUTOENCODER)
    busy = CheckpointError("", "")
    with (
        locked(tmp_path, busy),
        pytest.raises(CheckpointError, match="another process is training here"),
    ):
        train("autoencoder", config, tmp_path)
