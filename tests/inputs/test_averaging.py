from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rdm_batch.cli import main
from rdm_batch.errors import CheckpointError
from rdm_batch.inputs.averaging import average_checkpoints
from rdm_batch.models.checkpoint import load_checkpoint, save_checkpoint
from tests.tiny_heads import TINY_RARM, TINY_RDM, random_weights


def _weights(seed: int) -> dict[str, Tensor]:
    return random_weights(TINY_RDM, seed)


def _files(folder: Path, *seeds: int) -> list[str]:
    paths = [folder / f"{seed}.safetensors" for seed in seeds]
    for path, seed in zip(paths, seeds, strict=True):
        save_checkpoint(path, TINY_RDM, _weights(seed))
    return [str(path) for path in paths]


def test_every_tensor_is_the_mean_by_shares(tmp_path: Path) -> None:
    average_checkpoints(_files(tmp_path, 0, 1, 2), tmp_path / "mean", [0.5, 0.3, 0.2])
    mean = load_checkpoint(tmp_path / "mean")
    assert mean.architecture == TINY_RDM
    parts = [_weights(seed) for seed in range(3)]
    for name, tensor in mean.state_dict.items():
        expected = 0.5 * parts[0][name] + 0.3 * parts[1][name] + 0.2 * parts[2][name]
        torch.testing.assert_close(tensor, expected)


def test_the_mean_of_a_file_with_itself_is_the_file(tmp_path: Path) -> None:
    uris = _files(tmp_path, 0)
    average_checkpoints([*uris, *uris], tmp_path / "mean")
    assert (tmp_path / "mean").read_bytes() == Path(uris[0]).read_bytes()


@pytest.mark.parametrize(
    ("seeds", "shares", "message"),
    [
        ((0,), None, "of 1 file"),
        ((0, 1), [1.0], "--shares: are 1; needed 2"),
        ((0, 1), [0.6, 0.6], "add up to 1.2"),
        ((0, 1), [1.5, -0.5], "needed none below 0"),
        ((0, 1), [float("nan"), 0.5], "needed none below 0"),
    ],
)
def test_what_is_no_mean_is_refused(
    tmp_path: Path, seeds: tuple[int, ...], shares: list[float] | None, message: str
) -> None:
    with pytest.raises(CheckpointError, match=re.escape(message)):
        average_checkpoints(_files(tmp_path, *seeds), tmp_path / "mean", shares)
    assert not (tmp_path / "mean").exists()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "rarm", TINY_RARM, random_weights(TINY_RARM))
    with pytest.raises(CheckpointError, match="'rarm' head of another architecture"):
        average_checkpoints([*_files(tmp_path, 0), str(tmp_path / "rarm")], tmp_path / "mean")


def test_the_command_averages_and_replaces_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["checkpoint", "average", *_files(tmp_path, 0, 1), "--out", str(tmp_path / "mean")]
    assert main(command) == 0
    assert "parameters" in capsys.readouterr().out
    written = (tmp_path / "mean").read_bytes()
    assert main([*command, "--shares", "0.1", "0.9"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "mean").read_bytes() == written
