"""From the sampling part of a job to what draws its samples, one table for each process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from rdm_batch.errors import SpecError
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.sampling.code_sampler import CodeSampler
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.dpm_solver import DpmSolver
from rdm_batch.sampling.evaluations import Evaluations
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule
from rdm_batch.sampling.plms import PlmsSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Solver
from rdm_batch.specs.networks import NoiseScheduleConfig
from rdm_batch.specs.sampling import (
    AutoregressiveSampling,
    DdimSampling,
    DiffusionSampling,
    DpmSolverSampling,
    MaskReplaceSampling,
    PlmsSampling,
    SamplingSpec,
)

_Builder = TypeVar("_Builder")


def _ddim(schedule: NoiseSchedule, spec: DdimSampling) -> Solver:
    return DdimSolver(schedule, spec.num_steps, spec.eta, spec.timesteps)


def _plms(schedule: NoiseSchedule, spec: PlmsSampling) -> Solver:
    return PlmsSolver(schedule, spec.num_steps, spec.timesteps)


def _dpm_solver(schedule: NoiseSchedule, spec: DpmSolverSampling) -> Solver:
    return DpmSolver(schedule, spec.num_steps, spec.timesteps)


def _token_by_token(spec: AutoregressiveSampling) -> TokenSampler:
    return TokenSampler(spec.temperature, spec.top_k, spec.top_p)


def _code_sampler(schedule: MaskReplaceSchedule, spec: MaskReplaceSampling) -> CodeSampler:
    return CodeSampler(schedule, spec.num_steps, spec.truncation, spec.purity, spec.plausibility)


SOLVERS: Final[dict[str, Callable[[NoiseSchedule, Any], Solver]]] = {
    "ddim": _ddim,
    "plms": _plms,
    "dpm_solver_pp": _dpm_solver,
}
"""Samplers of diffusion heads, by name."""
TOKEN_SAMPLERS: Final[dict[str, Callable[[Any], TokenSampler]]] = {
    "autoregressive": _token_by_token
}
"""Samplers of autoregressive heads, by name."""
CODE_SAMPLERS: Final[dict[str, Callable[[MaskReplaceSchedule, Any], CodeSampler]]] = {
    "mask_replace": _code_sampler
}
"""Samplers of heads that set all codes together, by name."""


def build_solver(config: NoiseScheduleConfig, sampling: SamplingSpec) -> Solver:
    """Build the solver of a diffusion head.

    Raises:
        SpecError: The sampler is none of a diffusion head, or a setting is out of range.
    """
    build = _chosen(SOLVERS, sampling, "a diffusion head")
    return build(NoiseSchedule.from_config(config), sampling)


def plan_evaluations(
    config: NoiseScheduleConfig, solver: Solver, sampling: SamplingSpec
) -> Evaluations:
    """Plan what of the network each step of a diffusion head's solver evaluates.

    Raises:
        SpecError: The sampler is none of a diffusion head.
    """
    _chosen(SOLVERS, sampling, "a diffusion head")
    assert isinstance(sampling, DiffusionSampling)
    return Evaluations.planned(
        NoiseSchedule.from_config(config),
        solver.timesteps,
        sampling.guidance_scale > 1 or sampling.autoguidance is not None,
        sampling.guidance_interval,
        sampling.reuse_deep_features,
    )


def build_token_sampler(sampling: SamplingSpec) -> TokenSampler:
    """Build the token sampler of an autoregressive head.

    Raises:
        SpecError: The sampler is none of an autoregressive head.
    """
    return _chosen(TOKEN_SAMPLERS, sampling, "an autoregressive head")(sampling)


def build_code_sampler(num_codes: int, num_times: int, sampling: SamplingSpec) -> CodeSampler:
    """Build the sampler of a head over codes.

    Args:
        num_codes: Codes of the head.
        num_times: Times of its forward process.
        sampling: Sampler and its settings.

    Raises:
        SpecError: The sampler is none of such a head, or a setting is out of range.
    """
    build = _chosen(CODE_SAMPLERS, sampling, "a head over codes")
    return build(MaskReplaceSchedule.linear(num_codes, num_times), sampling)


def _chosen(builders: Mapping[str, _Builder], sampling: SamplingSpec, driven: str) -> _Builder:
    if sampling.sampler not in builders:
        *others, last = builders
        raise SpecError(
            "sampling.sampler",
            f"{sampling.sampler!r} does not drive {driven}",
            f"{', '.join(others)} or {last}" if others else last,
        )
    return builders[sampling.sampler]
