"""From an architecture, its weights and the sampling part of a job to a head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rdm_batch.errors import SpecError
from rdm_batch.heads.head import Head
from rdm_batch.heads.precision import Precision
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import RarmNetworks, RdmNetworks, load_networks
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.dpm_solver import DpmSolver
from rdm_batch.sampling.plms import PlmsSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Solver
from rdm_batch.specs.architecture import Architecture, NoiseScheduleConfig
from rdm_batch.specs.sampling import (
    AutoregressiveSampling,
    DdimSampling,
    DpmSolverSampling,
    PlmsSampling,
    SamplingSpec,
)


def build_head(
    architecture: Architecture,
    state_dict: Mapping[str, Tensor],
    sampling: SamplingSpec,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    compile: bool = False,
) -> Head:
    """Build a head whose networks take over the given tensors without copying them.

    Args:
        architecture: Sizes of the networks.
        state_dict: Their weights, as ``checkpoint.load_checkpoint`` gives them.
        sampling: Sampler and its settings.
        device: Where to compute.
        precision: Arithmetic of the networks.
        compile: Whether to compile the UNet or the transformer.

    Raises:
        SpecError: The sampler does not drive this kind of head, or a setting is out of range.
    """
    networks = load_networks(architecture, state_dict)
    return build_head_around(networks, sampling, device, precision, compile)


def build_head_around(
    networks: RdmNetworks | RarmNetworks,
    sampling: SamplingSpec,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    compile: bool = False,
) -> Head:
    """Build a head around networks, which it takes over; see ``build_head``.

    Where nobody else holds the networks' tensors, converting them to another precision or
    moving them frees them one by one.
    """
    if isinstance(networks, RdmNetworks):
        solver = build_solver(networks.architecture.noise_schedule, sampling)
        return RdmHead(networks, solver, sampling.guidance_scale, device, precision, compile)
    sampler = build_token_sampler(sampling)
    return RarmHead(networks, sampler, sampling.guidance_scale, device, precision, compile)


def build_solver(config: NoiseScheduleConfig, sampling: SamplingSpec) -> Solver:
    """Build the solver of a diffusion head.

    Raises:
        SpecError: The sampler is none of a diffusion head, or a setting is out of range.
    """
    schedule = NoiseSchedule.from_config(config)
    if isinstance(sampling, DdimSampling):
        return DdimSolver(schedule, sampling.num_steps, sampling.eta, sampling.timesteps)
    if isinstance(sampling, PlmsSampling):
        return PlmsSolver(schedule, sampling.num_steps, sampling.timesteps)
    if isinstance(sampling, DpmSolverSampling):
        return DpmSolver(schedule, sampling.num_steps, sampling.timesteps)
    raise SpecError(
        "sampling.sampler",
        f"{sampling.sampler!r} does not drive a diffusion head",
        "ddim, plms or dpm_solver_pp",
    )


def build_token_sampler(sampling: SamplingSpec) -> TokenSampler:
    """Build the token sampler of an autoregressive head.

    Raises:
        SpecError: The sampler is none of an autoregressive head.
    """
    if isinstance(sampling, AutoregressiveSampling):
        return TokenSampler(sampling.temperature, sampling.top_k, sampling.top_p)
    raise SpecError(
        "sampling.sampler",
        f"{sampling.sampler!r} does not drive an autoregressive head",
        "autoregressive",
    )
