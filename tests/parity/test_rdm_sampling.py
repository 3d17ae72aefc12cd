from __future__ import annotations

import numpy as np
import pytest
import torch

from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import RdmNetworks
from rdm_batch.models.pixels import to_uint8
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.networks import NoiseScheduleConfig
from tests.compare import relative_error
from tests.tolerances import (
    CHAIN_BYTES_FRACTION,
    CHAIN_BYTES_STEP,
    DECODED_REL,
    NETWORK_REL,
    SCHEDULE_REL,
)

Oracle = dict[str, np.ndarray]

TRAJECTORIES = [
    "ddim_eta0_s1",
    "ddim_eta0_s2",
    "ddim_eta1_s1",
    "ddim_eta1_s2",
    "ddim_eta0.5_s1.5_n7",
]


def _solver(num_steps: int, eta: float) -> DdimSolver:
    schedule = NoiseSchedule.from_config(NoiseScheduleConfig())
    return DdimSolver(schedule, num_steps, eta, rule="published")


def _head(networks: RdmNetworks, oracle: Oracle, case: str) -> RdmHead:
    eta, scale, num_steps = oracle[f"{case}/meta"]
    return RdmHead(networks, _solver(int(num_steps), float(eta)), float(scale))


@pytest.mark.parametrize("num_steps", [5, 7, 100])
@pytest.mark.parametrize("eta", [0, 1])
def test_ddim_schedules_are_the_published_ones(
    rdm_oracle: Oracle, num_steps: int, eta: int
) -> None:
    solver = _solver(num_steps, float(eta))
    case = f"sched{num_steps}_eta{eta}"
    assert np.array_equal(solver.timesteps[::-1], rdm_oracle[f"{case}/ddim_timesteps"])
    for name in ("alphas", "alphas_prev"):
        found = getattr(solver, name)[::-1]
        assert relative_error(found, rdm_oracle[f"{case}/ddim_{name}"]) <= SCHEDULE_REL
    difference = np.abs(solver.sigmas[::-1] - rdm_oracle[f"{case}/ddim_sigmas"]).max()
    assert difference <= SCHEDULE_REL * max(rdm_oracle[f"{case}/ddim_sigmas"].max(), 1e-30)


@pytest.mark.parametrize("case", TRAJECTORIES)
def test_ddim_trajectory_is_the_published_one(
    rdm_networks: RdmNetworks, rdm_oracle: Oracle, case: str
) -> None:
    latents, clean = [], []

    def observe(step: int, x: torch.Tensor, x0: torch.Tensor) -> None:
        assert step == len(latents)
        latents.append(x.clone())
        clean.append(x0)

    noise = rdm_oracle.get(f"{case}/noise")
    final = _head(rdm_networks, rdm_oracle, case).sample_latents(
        torch.from_numpy(rdm_oracle["ddim_context"]),
        torch.from_numpy(rdm_oracle["x_T"]),
        lambda step: torch.from_numpy(noise[step]),
        observe,
    )
    expected = rdm_oracle[f"{case}/x_inter"]
    assert len(latents) == len(expected)
    errors = [relative_error(*pair) for pair in zip(latents, expected, strict=True)]
    assert max(errors) <= NETWORK_REL
    assert relative_error(final, rdm_oracle[f"{case}/latent"]) <= NETWORK_REL
    if f"{case}/pred_x0" in rdm_oracle:
        errors = [
            relative_error(*pair) for pair in zip(clean, rdm_oracle[f"{case}/pred_x0"], strict=True)
        ]
        assert max(errors) <= NETWORK_REL


@pytest.mark.parametrize("case", TRAJECTORIES)
def test_whole_chain_gives_the_published_bytes(
    rdm_networks: RdmNetworks, rdm_oracle: Oracle, case: str
) -> None:
    noise = rdm_oracle.get(f"{case}/noise")
    head = _head(rdm_networks, rdm_oracle, case)
    latents = head.sample_latents(
        torch.from_numpy(rdm_oracle["ddim_context"]),
        torch.from_numpy(rdm_oracle["x_T"]),
        lambda step: torch.from_numpy(noise[step]),
    )
    found = to_uint8(head.decode(latents)).numpy().astype(int)
    difference = np.abs(found - rdm_oracle[f"{case}/uint8"])
    assert difference.max() <= CHAIN_BYTES_STEP
    assert (difference > 0).mean() <= CHAIN_BYTES_FRACTION


def test_decoded_latents_are_the_published_images(
    rdm_networks: RdmNetworks, rdm_oracle: Oracle
) -> None:
    head = _head(rdm_networks, rdm_oracle, "ddim_eta1_s2")
    images = head.decode(torch.from_numpy(rdm_oracle["ddim_eta1_s2/latent"]))
    assert relative_error(images, rdm_oracle["ddim_eta1_s2/image"]) <= DECODED_REL


@pytest.mark.parametrize("case", ["rdata_k1", "rdata_k7", "query_only_caption"])
def test_other_numbers_of_neighbors_give_the_published_latents(
    rdm_networks: RdmNetworks, rdm_oracle: Oracle, case: str
) -> None:
    def no_noise(step: int) -> torch.Tensor:
        raise AssertionError(f"eta is 0, but step {step} asked for noise")

    latents = RdmHead(rdm_networks, _solver(5, 0.0), 2.0).sample_latents(
        torch.from_numpy(rdm_oracle[f"{case}/context"]),
        torch.from_numpy(rdm_oracle[f"{case}/x_T"]),
        no_noise,
    )
    assert relative_error(latents, rdm_oracle[f"{case}/latent"]) <= NETWORK_REL
