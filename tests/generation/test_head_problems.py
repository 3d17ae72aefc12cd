from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from rdm_batch.models.checkpoint import save_checkpoint
from rdm_batch.models.networks import tensor_shapes
from rdm_batch.specs.presets import PRESETS
from tests.tiny_heads import TINY_RARM, TINY_RDM, random_weights
from tests.worlds import World, assert_says, checked, problem_of

FIRST = "model.diffusion_model.input_blocks.0.0.weight"

Weights = dict[str, torch.Tensor]


class _Hostile:
    """Write a file as soon as it is unpickled by something that trusts it."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.victim, "owned")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return random_weights(TINY_RDM)


def _plain(path: Path, weights: Weights) -> Path:
    """Write weights that do not say what they are weights of."""
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, path)
    return path


def _lightning(path: Path, weights: Weights) -> Path:
    torch.save({"state_dict": weights}, path)
    return path


def _architecture(path: Path) -> str:
    path.write_text(yaml.safe_dump(TINY_RDM.model_dump(mode="json")))
    return str(path)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"sampling__guidance_scale": 2.0}, "guidance_scale is 2"),
        (
            {"conditioning": {"mode": "text", "prompts": ["a circle"]}},
            "conditioning.mode is 'text'",
        ),
    ],
)
def test_a_head_without_neighbors_is_not_asked_to_follow_them(
    world: World, tmp_path: Path, weights: Weights, change: dict[str, Any], found: str
) -> None:
    path = tmp_path / "ldm.safetensors"
    save_checkpoint(path, TINY_RDM.model_copy(update={"parametric": True}), weights)
    message = problem_of(world.job(model__checkpoint=str(path), **change))
    assert_says(message, "never sees neighbors", found, "conditioning.mode unconditional")


def test_missing_weights_are_named(world: World) -> None:
    message = problem_of(world.job(model__checkpoint="/nowhere/head.safetensors"))
    assert_says(message, "/nowhere/head.safetensors: does not exist")


def test_a_folder_is_no_checkpoint(world: World, tmp_path: Path) -> None:
    message = problem_of(world.job(model__checkpoint=str(tmp_path)))
    assert_says(message, str(tmp_path), "cannot be read", "needed a weights file")


@pytest.mark.parametrize("how", ["pickle", "torch", "inside a state dict"])
def test_a_hostile_pickle_is_refused_and_not_executed(
    world: World, tmp_path: Path, weights: Weights, how: str
) -> None:
    victim, path = tmp_path / "victim", tmp_path / "head.ckpt"
    match how:
        case "pickle":
            path.write_bytes(pickle.dumps(_Hostile(victim)))
        case "torch":
            torch.save(_Hostile(victim), path)
        case _:
            torch.save({"state_dict": {**weights, "extra": _Hostile(victim)}}, path)
    message = problem_of(world.job(model__checkpoint=str(path)))
    assert_says(message, str(path), "pickle", "save the")
    assert not victim.exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_safetensors_are_refused(world: World, tmp_path: Path, share: float) -> None:
    whole = (world.root / "head.safetensors").read_bytes()
    path = tmp_path / "head.safetensors"
    path.write_bytes(whole[: int(len(whole) * share)])
    message = problem_of(world.job(model__checkpoint=str(path)))
    assert_says(message, str(path), "damaged or truncated", "copy it again")


@pytest.mark.parametrize("share", [0.3, 0.99])
def test_a_truncated_lightning_checkpoint_is_refused(
    world: World, tmp_path: Path, weights: Weights, share: float
) -> None:
    path = _lightning(tmp_path / "head.ckpt", weights)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    architecture = _architecture(tmp_path / "a.yaml")
    document = world.job(model__checkpoint=str(path), model__architecture=architecture)
    assert_says(problem_of(document), str(path), "damaged or truncated", "copy it again")


@pytest.mark.parametrize("content", [b"", b"not weights", b"version https://git-lfs.github.com"])
def test_a_text_file_is_no_checkpoint(world: World, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "head.safetensors"
    path.write_bytes(content)
    message = problem_of(world.job(model__checkpoint=str(path)))
    assert_says(message, str(path), "neither a safetensors file nor one of torch.save")


def test_a_missing_tensor_is_named(world: World, tmp_path: Path, weights: Weights) -> None:
    path = _plain(
        tmp_path / "a.safetensors", {n: tensor for n, tensor in weights.items() if n != FIRST}
    )
    architecture = _architecture(tmp_path / "a.yaml")
    message = problem_of(world.job(model__checkpoint=str(path), model__architecture=architecture))
    assert_says(message, str(path), f"missing: {FIRST} [8, 3, 3, 3]", "or other weights")


def test_a_misshapen_tensor_is_named(world: World, tmp_path: Path, weights: Weights) -> None:
    path = _plain(tmp_path / "a.safetensors", weights | {FIRST: torch.zeros(8, 4, 3, 3)})
    architecture = _architecture(tmp_path / "a.yaml")
    message = problem_of(world.job(model__checkpoint=str(path), model__architecture=architecture))
    assert_says(message, f"misshapen: {FIRST} is [8, 4, 3, 3], needed [8, 3, 3, 3]")


def test_an_unexpected_tensor_is_named(world: World, tmp_path: Path, weights: Weights) -> None:
    path = _plain(tmp_path / "a.safetensors", {**weights, "extra.weight": torch.zeros(2)})
    architecture = _architecture(tmp_path / "a.yaml")
    message = problem_of(world.job(model__checkpoint=str(path), model__architecture=architecture))
    assert_says(message, "unexpected: extra.weight [2]")


def test_weights_that_are_not_finite_are_found_before_the_job_starts(
    world: World, tmp_path: Path, weights: Weights
) -> None:
    broken = weights[FIRST].clone()
    broken[0, 0, 0, :2] = torch.tensor([torch.nan, torch.inf])
    path = tmp_path / "head.safetensors"
    save_checkpoint(path, TINY_RDM, weights | {FIRST: broken})
    message = problem_of(world.job(model__checkpoint=str(path)))
    assert_says(message, str(path), f"not finite: {FIRST} (2 of 216 numbers)")


def test_weights_without_an_architecture_ask_for_one(
    world: World, tmp_path: Path, weights: Weights
) -> None:
    path = _plain(tmp_path / "a.safetensors", weights)
    message = problem_of(world.job(model__checkpoint=str(path)))
    assert_says(message, str(path), "does not carry its architecture", "name a preset")


def test_weights_of_another_network_are_summed_up(world: World) -> None:
    message = problem_of(world.job(model__preset="rdm-imagenet-256"))
    assert_says(message, "autoencoder.channels is 8 in the file but 128 was asked for")
    assert_says(message, " more, all listed by `rdm-batch checkpoint inspect`")
    assert len(message.splitlines()) < 12


def test_a_preset_that_does_not_fit_suggests_the_closest(world: World, tmp_path: Path) -> None:
    # Weights of the right names and shapes, without their 1.6 GB: every row is the same.
    shapes = tensor_shapes(PRESETS["rdm-imagenet-256"])
    path = _lightning(
        tmp_path / "model.ckpt",
        {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()},
    )
    document = world.job(model__checkpoint=str(path), model__preset="rdm-ffhq-256")
    message = problem_of(document)
    assert_says(message, str(path), "misshapen: ", "the closest preset is rdm-imagenet-256")


def test_weights_of_another_kind_of_head_are_refused(world: World, tmp_path: Path) -> None:
    path = tmp_path / "rarm.safetensors"
    save_checkpoint(path, TINY_RARM, random_weights(TINY_RARM))
    message = problem_of(world.job(model__checkpoint=str(path)))
    assert_says(message, "model.head: is 'rdm'", str(path), "holds a 'rarm' head", "needed 'rarm'")


def test_an_autoregressive_job_refuses_diffusion_weights(world: World) -> None:
    document = world.job(
        model__head="rarm", sampling={"sampler": "autoregressive", "num_samples": 24}
    )
    assert_says(problem_of(document), "model.head: is 'rarm'", "holds a 'rdm' head")


def test_an_unknown_preset_is_refused_with_the_known_ones(world: World) -> None:
    message = problem_of(world.job(model__preset="rdm-imagnet"))
    assert_says(message, "model.preset: there is no preset 'rdm-imagnet'", *PRESETS)


def test_a_missing_architecture_file_is_named(world: World) -> None:
    message = problem_of(world.job(model__architecture="/nowhere/config.yaml"))
    assert_says(message, "/nowhere/config.yaml: does not exist")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [", "is not YAML"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"just words", "is not a mapping of fields"),
        (b"kind: rdm", "unet"),
        (b"!!python/object/apply:os.system ['true']", "is not YAML"),
        (b"model: {target: some.OtherModel, params: {}}", "model.target is 'some.OtherModel'"),
    ],
)
def test_a_file_that_is_no_architecture_is_refused(
    world: World, tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    assert_says(problem_of(world.job(model__architecture=str(path))), str(path), words)


def test_an_inline_architecture_that_is_none_is_refused(world: World) -> None:
    message = problem_of(world.job(model__architecture={"kind": "rdm", "latent_size": "big"}))
    assert_says(message, "model.architecture", "latent_size")


def test_lightning_weights_with_an_inline_architecture_pass(
    world: World, tmp_path: Path, weights: Weights
) -> None:
    path = _lightning(tmp_path / "head.ckpt", weights)
    architecture = TINY_RDM.model_dump(mode="json")
    document = world.job(model__checkpoint=str(path), model__architecture=architecture)
    assert checked(document).header.image_size == 16


def test_the_null_head_needs_no_weights(world: World) -> None:
    document = world.job(
        model={"head": "noise", "image_size": 8},
        sampling={"sampler": "none", "num_samples": 24},
    )
    job = checked(document)
    assert job.header.image_size == 8
    assert set(job.header.content_digests) == {"database"}
