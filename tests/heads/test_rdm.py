from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.errors import CheckpointError, DatabaseError
from rdm_batch.heads import decode
from rdm_batch.heads.build import build_head
from rdm_batch.heads.head import Head
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.checkpoint import load_checkpoint, save_checkpoint
from rdm_batch.sampling.noise import START, SampleNoise
from rdm_batch.specs.sampling import DdimSampling, DpmSolverSampling, PlmsSampling
from tests.tiny_heads import TINY_RDM, random_weights
from tests.tolerances import CHAIN_BYTES_FRACTION, CHAIN_BYTES_STEP


def _sampling(**settings: float) -> DdimSampling:
    return DdimSampling(
        **{"sampler": "ddim", "num_samples": 8, "num_steps": 4, "eta": 1.0, **settings}
    )


def _head(precision: str = "float32", **settings: float) -> RdmHead:
    head = build_head(TINY_RDM, random_weights(TINY_RDM), _sampling(**settings), "cpu", precision)
    assert isinstance(head, RdmHead)
    return head


def _noise(*indices: int) -> SampleNoise:
    return SampleNoise(0, np.array(indices, dtype=np.int64))


def _context(*indices: int) -> np.ndarray:
    rows = [np.random.default_rng(index).standard_normal((3, 6)) for index in indices]
    return np.stack(rows).astype(np.float32)


def test_images_have_the_size_of_the_architecture() -> None:
    head = _head()
    images = head.generate(_context(0, 1), _noise(0, 1))
    assert isinstance(head, Head)
    assert (head.image_size, head.context_dim) == (16, 6)
    assert images.shape == (2, 16, 16, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_equal_batch_shapes_give_equal_bytes(guidance_scale: float) -> None:
    first = _head(guidance_scale=guidance_scale).generate(_context(0, 1, 2), _noise(0, 1, 2))
    again = _head(guidance_scale=guidance_scale).generate(_context(0, 1, 2), _noise(0, 1, 2))
    assert np.array_equal(first, again)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_a_sample_is_the_same_alone_and_at_any_place_of_any_batch(guidance_scale: float) -> None:
    head = _head(guidance_scale=guidance_scale)
    batch = head.generate(_context(0, 1, 2), _noise(0, 1, 2)).astype(int)
    other = head.generate(_context(2, 5, 7, 1), _noise(2, 5, 7, 1)).astype(int)
    alone = head.generate(_context(2), _noise(2)).astype(int)
    for found, expected in [(other[0], batch[2]), (other[3], batch[1]), (alone[0], batch[2])]:
        difference = np.abs(found - expected)
        assert difference.max() <= CHAIN_BYTES_STEP
        assert (difference > 0).mean() <= max(CHAIN_BYTES_FRACTION, 2 / difference.size)


def test_neighbors_seed_and_guidance_change_the_image() -> None:
    head = _head()
    image = head.generate(_context(0), _noise(0))
    assert not np.array_equal(head.generate(_context(1), _noise(0)), image)
    assert not np.array_equal(head.generate(_context(0), _noise(1)), image)
    assert not np.array_equal(_head(guidance_scale=3.0).generate(_context(0), _noise(0)), image)


def test_decoding_in_parts_gives_the_same_bytes_as_part_by_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = _head()
    latents = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(decode, "_PIXELS_AT_ONCE_ON_CPU", 2 * 16**2)
    together = head.decode(latents)
    assert torch.equal(together, torch.cat([head.decode(latents[:2]), head.decode(latents[2:])]))


def test_bfloat16_stays_close_to_float32() -> None:
    context, noise = _context(*range(8)), _noise(*range(8))
    exact = _head().generate(context, noise).astype(int)
    coarse = _head("bfloat16").generate(context, noise).astype(int)
    # bfloat16 has 8 bits of mantissa; code words may change with it, so only the mean is asked.
    assert np.abs(exact - coarse).mean() < 0.1 * exact.std()


@pytest.mark.parametrize(
    ("context", "message"),
    [
        (np.zeros((2, 3, 5), np.float32), "are 5 wide; needed width 6"),
        (np.zeros((1, 3, 6), np.float32), "1 rows of 3 neighbors for 2 samples"),
        (np.zeros((2, 0, 6), np.float32), "2 rows of 0 neighbors for 2 samples"),
        (np.full((2, 3, 6), [[[0.0]], [[np.nan]]], np.float32), "sample 9: .*not finite"),
    ],
)
def test_context_that_does_not_fit_is_refused(context: np.ndarray, message: str) -> None:
    with pytest.raises(DatabaseError, match=message):
        _head().generate(context, _noise(4, 9))


def test_latents_that_are_not_finite_name_sample_step_and_precision() -> None:
    head = _head(eta=0.0, guidance_scale=2.0)
    context = _context(0, 1, 2)
    context[1] *= 1e30  # finite itself, but not once projected and squared
    with pytest.raises(CheckpointError) as caught:
        head.generate(context, _noise(10, 11, 12))
    assert str(caught.value).startswith(
        "sample 11: its latents are not finite after step 1 of 4 in float32 "
        "(1 of 3 samples of the batch)"
    )


def test_weights_stored_in_half_precision_are_computed_in_float32() -> None:
    rounded = {name: value.half() for name, value in random_weights(TINY_RDM).items()}
    exact = {name: value.float() for name, value in rounded.items()}
    context = torch.from_numpy(_context(0, 1))
    start = torch.from_numpy(_noise(0, 1).normal(START, TINY_RDM.latent_shape))
    latents = []
    for weights in (rounded, exact):
        head = build_head(TINY_RDM, weights, _sampling())
        assert isinstance(head, RdmHead)
        latents.append(head.sample_latents(context, start, lambda step: start))
    assert torch.equal(*latents)


def test_images_that_are_not_finite_name_the_sample() -> None:
    weights = random_weights(TINY_RDM)
    weights["first_stage_model.decoder.conv_out.bias"][1] = torch.nan
    head = build_head(TINY_RDM, weights, _sampling())
    with pytest.raises(CheckpointError, match="sample 7: its decoded image is not finite"):
        head.generate(_context(0, 1), _noise(7, 8))


def test_head_of_saved_weights_is_the_head_of_the_weights(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "head.safetensors", TINY_RDM, random_weights(TINY_RDM))
    loaded = load_checkpoint(tmp_path / "head.safetensors")
    head = build_head(loaded.architecture, loaded.state_dict, _sampling())
    assert np.array_equal(
        head.generate(_context(0), _noise(0)), _head().generate(_context(0), _noise(0))
    )


@pytest.mark.parametrize("sampler", ["plms", "dpm_solver_pp"])
def test_other_solvers_drive_the_same_head(sampler: str) -> None:
    kinds = {"plms": PlmsSampling, "dpm_solver_pp": DpmSolverSampling}
    sampling = kinds[sampler](sampler=sampler, num_samples=1, num_steps=4, guidance_scale=2.0)
    head = build_head(TINY_RDM, random_weights(TINY_RDM), sampling)
    images = head.generate(_context(0, 1), _noise(0, 1))
    assert images.shape == (2, 16, 16, 3)
    assert not np.array_equal(
        images, _head(guidance_scale=2.0).generate(_context(0, 1), _noise(0, 1))
    )
