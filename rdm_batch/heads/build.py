"""From an architecture, its weights and the sampling part of a job to a head."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from rdm_batch.errors import SpecError
from rdm_batch.heads.head import Head
from rdm_batch.heads.precision import Precision
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import RdmNetworks
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Solver
from rdm_batch.specs.architecture import Architecture, NoiseScheduleConfig, RdmArchitecture
from rdm_batch.specs.sampling import DdimSampling, SamplingSpec


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
        compile: Whether to compile them.

    Raises:
        SpecError: The sampler does not drive this kind of head, or a setting is out of range.
    """
    if isinstance(architecture, RdmArchitecture):
        solver = build_solver(architecture.noise_schedule, sampling)
        with torch.device("meta"):
            networks = RdmNetworks(architecture)
        networks.load_state_dict(state_dict, assign=True)
        return RdmHead(
            networks, solver, sampling.guidance_scale, device, precision, compile=compile
        )
    raise SpecError("sampling.sampler", f"{sampling.sampler!r} does not drive a rarm head")


def build_solver(config: NoiseScheduleConfig, sampling: SamplingSpec) -> Solver:
    """Build the solver of a diffusion head.

    Raises:
        SpecError: The sampler is none of a diffusion head, or a setting is out of range.
    """
    schedule = NoiseSchedule.from_config(config)
    if isinstance(sampling, DdimSampling):
        return DdimSolver(schedule, sampling.num_steps, sampling.eta, sampling.timesteps)
    raise SpecError(
        "sampling.sampler", f"{sampling.sampler!r} does not drive a diffusion head", "ddim"
    )
