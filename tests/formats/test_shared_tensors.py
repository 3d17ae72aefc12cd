"""Weights files that leave tensors to another one beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rdm_batch.cli import main
from rdm_batch.errors import CheckpointError
from rdm_batch.formats.safetensors_file import write_tensors
from rdm_batch.formats.shared_tensors import write_without_shared
from rdm_batch.formats.weights_file import SHARED, open_weights
from rdm_batch.models.checkpoint import check_checkpoint, load_checkpoint, save_checkpoint
from rdm_batch.models.networks import build_networks
from tests.tiny_heads import TINY_RDM

OWN = {"a": torch.arange(6.0).reshape(2, 3), "both": torch.ones(4), "other": torch.zeros(3)}
THEIRS = {"both": torch.ones(4), "other": torch.ones(3), "more": torch.ones(9)}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    own, theirs = tmp_path / "own", tmp_path / "theirs"
    write_tensors(own, {"format": "rdm_batch", "name": "x"}, OWN)
    write_tensors(theirs, {"format": "rdm_batch"}, THEIRS)
    return own, theirs


def test_what_is_left_to_another_file_is_read_as_if_it_were_there(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    own, theirs = files
    assert write_without_shared(own, theirs, tmp_path / "less") == 16
    less = open_weights(tmp_path / "less")
    assert {name: tensor.tolist() for name, tensor in less.read_all().items()} == {
        name: tensor.tolist() for name, tensor in OWN.items()
    }
    assert less.metadata["name"] == "x"
    assert less.altered(OWN) == []


def test_the_other_file_has_to_be_the_one_it_was(files: tuple[Path, Path], tmp_path: Path) -> None:
    own, theirs = files
    less = tmp_path / "less"
    write_without_shared(own, theirs, less)
    write_tensors(theirs, {"format": "rdm_batch"}, THEIRS | {"more": torch.zeros(9)})
    with pytest.raises(CheckpointError, match=r"less: leaves tensors to theirs .* SHA-256"):
        open_weights(less)
    theirs.unlink()
    with pytest.raises(
        CheckpointError, match=r"theirs in the same folder, which cannot be read \(No such"
    ):
        open_weights(less)


@pytest.mark.parametrize(
    "shared",
    [
        {"file": "../theirs"},
        {"file": "less"},
        {"file": ".."},
        {"file": ""},
        {"names": ["a"]},
        {"names": [1]},
        {"names": "both"},
        {"sha256": None},
    ],
)
def test_what_it_claims_to_share_is_checked(
    files: tuple[Path, Path], tmp_path: Path, shared: dict[str, object]
) -> None:
    own, theirs = files
    write_without_shared(own, theirs, tmp_path / "less")
    told = open_weights(tmp_path / "less").metadata
    told = {**told, SHARED: json.dumps(json.loads(told[SHARED]) | shared)}
    write_tensors(tmp_path / "less", told, {"a": OWN["a"]})
    with pytest.raises(CheckpointError, match="what it shares is unreadable"):
        open_weights(tmp_path / "less")


def test_a_head_shares_its_first_stage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first.safetensors", tmp_path / "second.safetensors"
    weights = build_networks(TINY_RDM).state_dict()
    save_checkpoint(first, TINY_RDM, weights)
    moved = {
        name: tensor if name.startswith("first_stage_model.") else tensor + 1
        for name, tensor in weights.items()
    }
    save_checkpoint(second, TINY_RDM, moved)
    less = tmp_path / "less.safetensors"
    given = ["checkpoint", "share", str(second), "--beside", str(first), "--out", str(less)]
    assert main(given) == 0
    assert "bytes are left to first.safetensors" in capsys.readouterr().out
    assert less.stat().st_size < second.stat().st_size
    assert check_checkpoint(less, None).problems == ()
    whole = tmp_path / "whole.safetensors"
    assert main(["checkpoint", "convert", str(less), "--out", str(whole)]) == 0
    assert whole.read_bytes() == second.read_bytes()
    loaded = load_checkpoint(less).state_dict
    assert all(torch.equal(loaded[name], tensor) for name, tensor in moved.items())


def test_files_that_cannot_share_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    own, theirs = files
    with pytest.raises(CheckpointError, match="does not lie beside theirs"):
        write_without_shared(own, theirs, tmp_path / "deeper" / "less")
    write_tensors(theirs, {"format": "rdm_batch"}, {"both": torch.zeros(4)})
    with pytest.raises(CheckpointError, match="has no tensor that theirs has"):
        write_without_shared(own, theirs, tmp_path / "less")
    write_tensors(theirs, {}, THEIRS)
    with pytest.raises(CheckpointError, match="theirs: cannot share tensors"):
        write_without_shared(own, theirs, tmp_path / "less")
