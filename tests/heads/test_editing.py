"""Heads that make given pictures into others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rdm_batch.errors import ImageError
from rdm_batch.heads.build import build_head_around
from rdm_batch.heads.head import EditingHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.heads.work import flops_per_sample
from rdm_batch.models.networks import load_networks
from rdm_batch.sampling.noise import START, SampleNoise
from rdm_batch.specs.edits import EditSpec, SdeditSpec, TrainedEditSpec
from rdm_batch.specs.families import RdmArchitecture
from rdm_batch.specs.sampling import DdimSampling, DpmSolverSampling, PlmsSampling, SamplingSpec
from tests.tiny_heads import TINY_KNN_CONTINUOUS, TINY_RDM, random_weights

DDIM = DdimSampling(sampler="ddim", num_samples=1, num_steps=10, guidance_scale=2.0)
CONTEXT = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)
PICTURES = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
NOISE = SampleNoise(3, np.arange(3))


def _head(
    edit: EditSpec | None = None,
    sampling: SamplingSpec = DDIM,
    architecture: RdmArchitecture = TINY_RDM,
    **settings: Any,
) -> RdmHead:
    networks = load_networks(architecture, random_weights(architecture))
    head = build_head_around(networks, sampling, edit=edit, **settings)
    assert isinstance(head, RdmHead)
    return head


def _sdedit(strength: float) -> SdeditSpec:
    return SdeditSpec(method="sdedit", strength=strength)


def _edited(head: RdmHead) -> np.ndarray:
    return head.start_edit(CONTEXT, PICTURES, NOISE).collect()


TRAINED = TINY_KNN_CONTINUOUS.model_copy(
    update={"unet": TINY_KNN_CONTINUOUS.unet.model_copy(update={"source_channels": 3})}
)


def _follow(
    networks: Any, x: torch.Tensor, times: list[int], source: torch.Tensor | None = None
) -> torch.Tensor:
    """Take the steps of DDIM (Song et al. 2021, Eq. 12) at guidance 2, in double precision."""
    kept = torch.cumprod(1 - torch.tensor(networks.architecture.noise_schedule.betas()).double(), 0)
    context = torch.from_numpy(CONTEXT)
    for time, following in zip(times, [*times[1:], 0], strict=True):
        given = x if source is None else torch.cat([x, source], 1)
        given, at = given.float(), torch.full((3,), time)
        with_context = networks.unet(given, at, context).double()
        without = networks.unet(given, at, torch.zeros_like(context)).double()
        eps = without + 2.0 * (with_context - without)
        predicted = (x - (1 - kept[time]).sqrt() * eps) / kept[time].sqrt()
        x = kept[following].sqrt() * predicted + (1 - kept[following]).sqrt() * eps
    return x


@pytest.mark.parametrize("architecture", [TINY_RDM, TINY_KNN_CONTINUOUS, TRAINED])
def test_edits_are_their_formula(architecture: RdmArchitecture) -> None:
    # Meng et al. 2022, Algorithm 1; a head that was trained to edit draws from noise and sees the
    # picture beside it.
    edit: EditSpec = TrainedEditSpec(method="trained") if architecture.edits else _sdedit(0.5)
    head = _head(edit, architecture=architecture)
    networks = load_networks(architecture, random_weights(architecture)).eval()
    betas = torch.tensor(architecture.noise_schedule.betas(), dtype=torch.float64)
    kept = torch.cumprod(1 - betas, 0)[401]
    with torch.no_grad():
        pixels = torch.from_numpy(PICTURES).permute(0, 3, 1, 2) / 127.5 - 1
        clean = networks.autoencoder.encode(pixels).double() * architecture.scale_factor
        noise = torch.from_numpy(NOISE.normal(START, architecture.latent_shape)).double()
        if architecture.edits:
            x = _follow(networks, noise, list(range(901, 0, -100)), clean)
        else:
            x = _follow(
                networks, kept.sqrt() * clean + (1 - kept).sqrt() * noise, [401, 301, 201, 101, 1]
            )
        expected = head.decode(x.float())
        latents = head.encode(torch.from_numpy(PICTURES))
    torch.testing.assert_close(latents.double(), clean, rtol=1e-4, atol=1e-5)
    shown = ((expected.clamp(-1, 1) + 1) / 2 * 255).permute(0, 2, 3, 1).to(torch.int64).numpy()
    # A latent near the border of two code words falls to either.
    assert (np.abs(_edited(head).astype(int) - shown) <= 1).mean() > 0.99


def test_small_strengths_keep_more_of_the_picture() -> None:
    head = _head()
    kept = head.decode(head.encode(torch.from_numpy(PICTURES)))
    shown = ((kept.clamp(-1, 1) + 1) / 2 * 255).permute(0, 2, 3, 1).numpy()
    distances = [
        np.abs(_edited(_head(_sdedit(strength))) - shown).mean() for strength in (0.11, 0.5, 1.0)
    ]
    assert distances[0] < distances[1] < distances[2]


@pytest.mark.parametrize("kind", [DdimSampling, PlmsSampling, DpmSolverSampling])
@pytest.mark.parametrize("reuse", [1, 2])
def test_every_sampler_edits_and_a_sample_is_the_same_in_any_batch(kind: Any, reuse: int) -> None:
    (name,) = kind.model_fields["sampler"].annotation.__args__
    sampling = kind(sampler=name, num_samples=1, num_steps=6, reuse_deep_features=reuse)
    head = _head(_sdedit(0.6), sampling)
    images = _edited(head).astype(int)
    last = SampleNoise(3, np.array([2]))
    alone = head.start_edit(CONTEXT[2:], PICTURES[2:], last).collect().astype(int)
    assert np.abs(alone[0] - images[2]).max() <= 1
    assert np.array_equal(_edited(head), images)


def test_other_pictures_become_other_pictures() -> None:
    head = _head(_sdedit(0.5))
    other = head.start_edit(CONTEXT, PICTURES[::-1].copy(), NOISE).collect()
    assert not np.array_equal(other[0], _edited(head)[0])


def test_edits_run_in_16_bits() -> None:
    assert _edited(_head(_sdedit(0.5), precision="bfloat16")).shape == (3, 16, 16, 3)


def test_pictures_of_another_size_are_refused() -> None:
    head = _head(_sdedit(0.5))
    assert isinstance(head, EditingHead)
    with pytest.raises(ImageError, match="pictures to edit: have shape"):
        head.start_edit(CONTEXT, PICTURES[:, :8, :8], NOISE)


def test_work_of_an_edit_is_its_steps_and_the_encoder() -> None:
    whole = flops_per_sample(TINY_RDM, DDIM, 4)
    half = flops_per_sample(TINY_RDM, DDIM, 4, edit=_sdedit(0.5))
    all_of_it = flops_per_sample(TINY_RDM, DDIM, 4, edit=_sdedit(1.0))
    assert half < whole < all_of_it
    encoder = all_of_it - whole
    steps = (whole - flops_per_sample(TINY_RDM, DDIM.model_copy(update={"num_steps": 5}), 4)) / 5
    assert half == pytest.approx(whole - 5 * steps + encoder, rel=1e-6)
