from __future__ import annotations

import json
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rdm_batch.errors import CheckpointError
from rdm_batch.formats.weights_file import open_weights, read_saved
from rdm_batch.models.checkpoint import check_checkpoint, load_checkpoint
from rdm_batch.models.networks import build_networks
from tests.tiny_heads import TINY_RARM, TINY_RDM

TENSORS = {
    "a": torch.arange(12.0).reshape(3, 4),
    "b": torch.ones(3).half(),
    "c": torch.tensor(3),
}


def _refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_weights(path).read_all()
    return str(caught.value)


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_new_and_old_are_read(tmp_path: Path, zipped: bool) -> None:
    saved = OrderedDict(TENSORS, view=TENSORS["a"].t()[1:], param=torch.nn.Parameter(torch.ones(2)))
    torch.save(saved, tmp_path / "a", _use_new_zipfile_serialization=zipped)
    found = open_weights(tmp_path / "a").read_all()
    assert found.keys() == saved.keys()
    assert all(torch.equal(found[name], saved[name]) for name in saved)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_files_of_torch_are_refused(tmp_path: Path, zipped: bool) -> None:
    torch.save(TENSORS, tmp_path / "a", _use_new_zipfile_serialization=zipped)
    data = (tmp_path / "a").read_bytes()
    for kept in range(0, len(data) - 1, 41):
        (tmp_path / "a").write_bytes(data[:kept])
        assert _refusal(tmp_path / "a")


def test_a_flipped_byte_of_a_tensor_is_noticed(tmp_path: Path) -> None:
    weights = build_networks(TINY_RDM).state_dict()
    name = next(iter(weights))
    torch.save(weights, tmp_path / "a")
    data = bytearray((tmp_path / "a").read_bytes())
    data[data.index(weights[name].numpy().tobytes()) + 2] ^= 1
    (tmp_path / "a").write_bytes(data)
    [problem] = check_checkpoint(tmp_path / "a", TINY_RDM).problems
    assert problem == f"altered: the bytes of {name} are not those that were written"
    with pytest.raises(CheckpointError, match=f"the bytes of {name} are not those"):
        load_checkpoint(tmp_path / "a", TINY_RDM)


def test_a_huge_byte_order_is_not_read(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "a")
    with (
        zipfile.ZipFile(tmp_path / "a") as source,
        zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            content = bytes(8 << 20) if name.endswith("byteorder") else source.read(name)
            target.writestr(name, content)
    assert "byteorder has 8,388,608 bytes" in _refusal(tmp_path / "b")


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (b'{"a":' * 5_000, "nests too deep|JSON is damaged"),
        (b'{"__metadata__":["a"]}', "metadata"),
        (b'{"__metadata__":{"a":1}}', "metadata"),
        (b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}', "no natural numbers"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0.0,4]}}', "no natural numbers"),
        (b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,-4]}}', "no natural numbers"),
        (b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}', "no natural numbers"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', "wrong size"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}', "lacks its"),
        (b'{"a":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}', "ends at"),
        (
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}',
            "a and b overlap",
        ),
        (b"[]", "header|neither"),
    ],
)
def test_headers_of_safetensors_that_cannot_be_are_refused(
    tmp_path: Path, header: bytes, what: str
) -> None:
    import re

    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert re.search(what, _refusal(tmp_path / "a"))


def _replaced(architecture: Any, **fields: Any) -> str:
    content = json.loads(architecture.model_dump_json())
    content["unet"] |= fields
    return json.dumps(content)


@pytest.mark.parametrize(
    "architecture",
    [
        "[1]",
        "7",
        "[" * 100_000,
        _replaced(TINY_RDM, transformer_depth=1_000_000),
        _replaced(TINY_RDM, num_res_blocks=256, transformer_depth=256),
        _replaced(TINY_RDM, channel_mult=[1] * 5_000),
        _replaced(TINY_RDM, model_channels=10**9),
    ],
    ids=["list", "number", "deep", "deep network", "many blocks", "many levels", "wide"],
)
def test_an_architecture_that_asks_for_too_much_is_refused_at_once(
    tmp_path: Path, architecture: str
) -> None:
    metadata = {"format": "rdm_batch", "architecture": architecture}
    save_file({"a": torch.zeros(1)}, tmp_path / "a", metadata)
    with pytest.raises(CheckpointError, match="its architecture: "):
        check_checkpoint(tmp_path / "a", None)


@pytest.mark.parametrize(
    ("beside", "what"),
    [
        ({"betas": torch.zeros(2, 500)}, r"betas of shape \[2, 500\]"),
        ({"betas": torch.zeros(())}, r"betas of shape \[\]"),
        ({"betas": torch.full((1000,), float("nan"))}, "differ in 1,000 steps"),
    ],
)
def test_odd_schedules_are_refused(tmp_path: Path, beside: dict[str, Any], what: str) -> None:
    torch.save({**build_networks(TINY_RDM).state_dict(), **beside}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=what):
        load_checkpoint(tmp_path / "a", TINY_RDM)


def test_a_schedule_that_differs_in_its_middle_is_refused(tmp_path: Path) -> None:
    betas = torch.tensor(TINY_RDM.noise_schedule.betas(), dtype=torch.float64).float()
    weights = build_networks(TINY_RDM).state_dict()
    torch.save({**weights, "betas": betas}, tmp_path / "a")
    assert check_checkpoint(tmp_path / "a", TINY_RDM).problems == ()
    betas[500] *= 1.001
    torch.save({**weights, "betas": betas}, tmp_path / "a")
    [problem] = check_checkpoint(tmp_path / "a", TINY_RDM).problems
    assert "they differ in 1 steps, first in step 500" in problem


@pytest.mark.parametrize(
    "token",
    [torch.tensor([17, 17]), torch.tensor(17.0), torch.zeros(1).expand(10**6), torch.tensor([])],
)
def test_odd_start_tokens_are_refused(tmp_path: Path, token: torch.Tensor) -> None:
    torch.save({**build_networks(TINY_RARM).state_dict(), "sos_token": token}, tmp_path / "a")
    with pytest.raises(CheckpointError, match="not one integer"):
        load_checkpoint(tmp_path / "a", TINY_RARM)


def test_repeated_numbers_are_no_weights(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(1 << 30, 1 << 20)}, tmp_path / "a")
    assert "of repeated numbers" in _refusal(tmp_path / "a")


def test_saved_structures_come_back_and_hold_no_objects(tmp_path: Path) -> None:
    state = {"step": 3, "rates": [0.1, (1, None)], "tensors": OrderedDict(TENSORS)}
    torch.save(state, tmp_path / "a")
    found: Any = read_saved(tmp_path / "a")
    assert (found["step"], found["rates"]) == (3, [0.1, (1, None)])
    assert all(torch.equal(found["tensors"][name], TENSORS[name]) for name in TENSORS)
    torch.save({"path": Path("a")}, tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"a pickled object \(pathlib"):
        read_saved(tmp_path / "a")
