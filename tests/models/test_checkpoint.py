from __future__ import annotations

import hashlib
import json
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdm_batch.errors import CheckpointError
from rdm_batch.models.checkpoint import check_checkpoint, load_checkpoint, save_checkpoint
from rdm_batch.models.networks import RdmNetworks
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.families import RdmArchitecture
from rdm_batch.specs.networks import NoiseScheduleConfig
from tests.tiny_heads import TINY_RDM

FIRST = "model.diffusion_model.input_blocks.0.0.weight"

Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def weights() -> Weights:
    torch.manual_seed(0)
    return dict(RdmNetworks(TINY_RDM).state_dict())


def _lightning(weights: Weights, **content: Any) -> dict[str, Any]:
    """Make the content of a published checkpoint: raw weights, their average, schedules."""
    average = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): value + 1
        for name, value in weights.items()
        if name.startswith("model.")
    }
    schedule = NoiseSchedule.from_config(NoiseScheduleConfig())
    extra = {
        "betas": torch.from_numpy(schedule.betas),
        "alphas_cumprod": torch.from_numpy(schedule.alphas_cumprod),
        "model_ema.decay": torch.tensor(0.9999),
        "model_ema.num_updates": torch.tensor(5, dtype=torch.int32),
    }
    return {
        "epoch": 1,
        "state_dict": OrderedDict(weights | average | extra),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(1000)}}}],
        **content,
    }


def _assert_equal(found: Weights, expected: Weights) -> None:
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


class _Hostile:
    """Write a file as soon as it is unpickled by something that trusts it."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.victim, "owned")


class _Callback:
    """Stand in for a Lightning class that a published file pickles."""

    def __init__(self) -> None:
        self.best = {"score": 1.0}
        self.items = [1, 2]


def test_saved_weights_come_back_with_their_architecture(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, TINY_RDM, weights)
    loaded = load_checkpoint(path)
    assert loaded.architecture == TINY_RDM
    _assert_equal(loaded.state_dict, weights)
    RdmNetworks(TINY_RDM).load_state_dict(loaded.state_dict)
    assert [file.name for file in tmp_path.iterdir()] == ["head.safetensors"]


def test_saved_file_is_safetensors_and_the_same_every_time(
    tmp_path: Path, weights: Weights
) -> None:
    for name in ("a", "b"):
        save_checkpoint(tmp_path / name, TINY_RDM, weights)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    _assert_equal(load_file(tmp_path / "a"), weights)


def test_saving_keeps_values_of_any_layout_and_half_precision(
    tmp_path: Path, weights: Weights
) -> None:
    converted = {
        name: value.bfloat16().to(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in weights.items()
    }
    save_checkpoint(tmp_path / "a", TINY_RDM, converted)
    _assert_equal(load_checkpoint(tmp_path / "a").state_dict, converted)


def test_check_reports_digest_size_and_no_problems(tmp_path: Path, weights: Weights) -> None:
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, TINY_RDM, weights)
    info = check_checkpoint(path, None)
    assert info.architecture == TINY_RDM
    assert info.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert info.num_parameters == sum(value.numel() for value in weights.values())
    assert not info.has_ema
    assert info.problems == ()


def test_architecture_other_than_the_files_is_refused_with_the_field(
    tmp_path: Path, weights: Weights
) -> None:
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, TINY_RDM, weights)
    unet = TINY_RDM.unet.model_copy(update={"head_channels": 4})
    problems = check_checkpoint(path, TINY_RDM.model_copy(update={"unet": unet})).problems
    assert problems == ("unet.head_channels is 8 in the file but 4 was asked for",)


@pytest.mark.parametrize(("copy", "offset"), [("ema", 1.0), ("raw", 0.0)])
def test_lightning_checkpoint_gives_the_copy_asked_for(
    tmp_path: Path, weights: Weights, copy: Any, offset: float
) -> None:
    path = tmp_path / "model.ckpt"
    torch.save(_lightning(weights), path)
    assert check_checkpoint(path, TINY_RDM, copy).problems == ()
    assert check_checkpoint(path, TINY_RDM, copy).has_ema
    loaded = load_checkpoint(path, TINY_RDM, copy).state_dict
    expected = {
        name: value + offset if name.startswith("model.") else value
        for name, value in weights.items()
    }
    _assert_equal(loaded, expected)


def test_plain_state_dicts_are_read_from_both_formats(tmp_path: Path, weights: Weights) -> None:
    torch.save({name: torch.nn.Parameter(value) for name, value in weights.items()}, tmp_path / "a")
    save_file(weights, tmp_path / "b")
    for name in ("a", "b"):
        _assert_equal(load_checkpoint(tmp_path / name, TINY_RDM).state_dict, weights)


def test_tensors_that_share_storage_and_stride_are_read(tmp_path: Path, weights: Weights) -> None:
    flat = torch.cat([value.flatten() for value in weights.values()])
    parts = flat.split([value.numel() for value in weights.values()])
    shared = {
        name: part.view(value.shape)
        for (name, value), part in zip(weights.items(), parts, strict=True)
    }
    shared[FIRST] = weights[FIRST].transpose(2, 3).contiguous().transpose(2, 3)
    torch.save(shared, tmp_path / "a")
    _assert_equal(load_checkpoint(tmp_path / "a", TINY_RDM).state_dict, weights)


def test_pickled_classes_beside_the_weights_are_passed_over_without_running(
    tmp_path: Path, weights: Weights
) -> None:
    path, victim = tmp_path / "model.ckpt", tmp_path / "victim"
    callbacks = {_Callback: _Callback(), "set": {1, 2}, "hostile": _Hostile(victim)}
    torch.save(_lightning(weights, callbacks=callbacks), path)
    assert load_checkpoint(path, TINY_RDM, "raw").state_dict.keys() == weights.keys()
    assert not victim.exists()


@pytest.mark.parametrize("place", ["whole", "state_dict", "tensor", "bare pickle"])
def test_hostile_pickle_in_place_of_weights_is_refused_and_runs_nothing(
    tmp_path: Path, weights: Weights, place: str
) -> None:
    path, victim = tmp_path / "model.ckpt", tmp_path / "victim"
    hostile = _Hostile(victim)
    if place == "bare pickle":
        path.write_bytes(pickle.dumps(hostile))
    else:
        content: dict[str, Any] = {
            "whole": hostile,
            "state_dict": {"state_dict": hostile},
            "tensor": {"state_dict": {**weights, FIRST: hostile}},
        }
        torch.save(content[place], path)
    for use in (check_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError) as caught:
            use(path, TINY_RDM)
        assert str(path) in str(caught.value)
    assert not victim.exists()
    torch.load(path, weights_only=False) if place != "bare pickle" else pickle.loads(
        path.read_bytes()
    )
    assert victim.exists(), "the file of this test was not hostile"


def test_every_missing_unexpected_and_misshapen_tensor_is_listed(
    tmp_path: Path, weights: Weights
) -> None:
    wrong = dict(weights)
    bias = FIRST.replace("weight", "bias")
    del wrong[bias], wrong["first_stage_model.quant_conv.bias"]
    wrong["extra"] = torch.zeros(2, 3)
    wrong[FIRST] = torch.zeros(8, 4, 3, 3)
    torch.save(wrong, tmp_path / "a")
    problems = check_checkpoint(tmp_path / "a", TINY_RDM).problems
    assert problems == (
        f"missing: {bias} [8]",
        "missing: first_stage_model.quant_conv.bias [3]",
        "unexpected: extra [2, 3]",
        f"misshapen: {FIRST} is [8, 4, 3, 3], needed [8, 3, 3, 3]",
    )
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "a", TINY_RDM)
    assert all(problem in str(caught.value) for problem in problems)
    with pytest.raises(CheckpointError, match="4 problems"):
        save_checkpoint(tmp_path / "b", TINY_RDM, wrong)
    assert not (tmp_path / "b").exists()


def test_missing_average_is_listed_under_its_name_in_the_file(
    tmp_path: Path, weights: Weights
) -> None:
    content = _lightning(weights)
    del content["state_dict"]["model_ema.diffusion_modelinput_blocks00weight"]
    torch.save(content, tmp_path / "a")
    assert check_checkpoint(tmp_path / "a", TINY_RDM, "ema").problems == (
        "missing: model_ema.diffusion_modelinput_blocks00weight [8, 3, 3, 3]",
    )
    assert check_checkpoint(tmp_path / "a", TINY_RDM, "raw").problems == ()


def test_weights_of_another_noise_schedule_are_refused(tmp_path: Path, weights: Weights) -> None:
    torch.save(_lightning(weights), tmp_path / "a")
    other = TINY_RDM.model_copy(update={"noise_schedule": NoiseScheduleConfig(linear_end=0.015)})
    with pytest.raises(CheckpointError, match=r"betas 0.0015 to 0.0195; .* 0.0015 to 0.015"):
        load_checkpoint(tmp_path / "a", other)


def test_file_without_architecture_needs_one(tmp_path: Path, weights: Weights) -> None:
    torch.save(weights, tmp_path / "a")
    assert check_checkpoint(tmp_path / "a", None).architecture is None
    with pytest.raises(CheckpointError, match="name a preset or give one"):
        load_checkpoint(tmp_path / "a")


def test_numbers_that_are_not_finite_are_refused_by_name(tmp_path: Path, weights: Weights) -> None:
    bad = weights[FIRST].clone()
    bad[0, 0, 0] = torch.tensor([float("nan"), float("inf"), 1.0])
    save_checkpoint(tmp_path / "a", TINY_RDM, weights | {FIRST: bad})
    with pytest.raises(CheckpointError, match=rf"not finite: {FIRST} \(2 of 216 numbers\)"):
        load_checkpoint(tmp_path / "a")


def test_every_tensor_that_is_not_finite_is_listed(tmp_path: Path, weights: Weights) -> None:
    nothing = {name: torch.full_like(value, float("nan")) for name, value in weights.items()}
    save_checkpoint(tmp_path / "a", TINY_RDM, nothing)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "a")
    # The message itself is shortened: a reader of hundreds of lines reads none.
    listed = [line for line in caught.value.found.splitlines() if "not finite: " in line]
    assert len(listed) == len(weights)
    assert all(any(f" {name} (" in line for line in listed) for name in weights)


def test_integers_in_place_of_weights_are_refused(tmp_path: Path, weights: Weights) -> None:
    integers = weights | {FIRST: weights[FIRST].long()}
    torch.save(integers, tmp_path / "a")
    assert check_checkpoint(tmp_path / "a", TINY_RDM).problems == (
        f"not floating-point: {FIRST} is torch.int64",
    )
    with pytest.raises(CheckpointError, match="unsupported type"):
        save_checkpoint(tmp_path / "b", TINY_RDM, integers)


@pytest.mark.parametrize("kind", ["torch", "safetensors"])
@pytest.mark.parametrize("keep", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file_is_refused(
    tmp_path: Path, weights: Weights, kind: str, keep: float
) -> None:
    path = tmp_path / "a"
    if kind == "torch":
        torch.save(_lightning(weights), path)
    else:
        save_checkpoint(path, TINY_RDM, weights)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    for use in (check_checkpoint, load_checkpoint):
        with pytest.raises(CheckpointError):
            use(path, TINY_RDM)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        check_checkpoint(tmp_path / "none.safetensors", None)


def test_damaged_architecture_in_a_file_is_refused(tmp_path: Path) -> None:
    save_file(
        {"a": torch.zeros(1)}, tmp_path / "a", {"format": "rdm_batch", "architecture": '{"kind":1}'}
    )
    with pytest.raises(CheckpointError, match=r"its architecture: .*kind"):
        check_checkpoint(tmp_path / "a", None)


@pytest.mark.parametrize(
    "header",
    [
        b"{not json",
        b'{"a":{"dtype":"F99","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4000]}}',
        b'{"a":[]}',
    ],
)
def test_damaged_safetensors_header_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / "a").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(CheckpointError, match="damaged or truncated"):
        check_checkpoint(tmp_path / "a", None)


def test_header_of_a_saved_file_names_its_format(tmp_path: Path, weights: Weights) -> None:
    save_checkpoint(tmp_path / "a", TINY_RDM, weights)
    content = (tmp_path / "a").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    assert metadata["format"] == "rdm_batch"
    assert RdmArchitecture.model_validate_json(metadata["architecture"]) == TINY_RDM
