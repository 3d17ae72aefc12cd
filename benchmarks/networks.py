"""Networks with random weights and heads around them: PyTorch and this package's heads suffice."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from rdm_batch.heads.arithmetic import Precision
from rdm_batch.heads.knn_continuous import KnnContinuousHead
from rdm_batch.heads.knn_discrete import KnnDiscreteHead
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import (
    KnnContinuousNetworks,
    KnnDiscreteNetworks,
    RarmNetworks,
    RdmNetworks,
    build_networks,
)
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.sampling.code_sampler import CodeSampler
from rdm_batch.sampling.solver import Solver
from rdm_batch.specs.families import Architecture

Networks = RdmNetworks | RarmNetworks | KnnDiscreteNetworks


@dataclass(frozen=True)
class Arithmetic:
    """Say where and how a head computes."""

    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False


PLAIN = Arithmetic()


def random_networks(architecture: Architecture, device: str = "cpu") -> Networks:
    """Build networks with random weights; on ``meta`` they have shapes alone."""
    with torch.device(device):
        return build_networks(architecture).eval().requires_grad_(False)


def diffusion_head(
    networks: Networks, solver: Solver, guidance_scale: float, how: Arithmetic = PLAIN
) -> RdmHead:
    """Build a diffusion head whose steps are to be looked at, around its networks."""
    assert isinstance(networks, RdmNetworks)
    make = KnnContinuousHead if isinstance(networks, KnnContinuousNetworks) else RdmHead
    return make(networks, solver, guidance_scale, how.device, how.precision, how.compile)


def autoregressive_head(
    networks: Networks, sampler: TokenSampler, guidance_scale: float, how: Arithmetic = PLAIN
) -> RarmHead:
    """Build an autoregressive head whose tokens are to be looked at, around its networks."""
    assert isinstance(networks, RarmNetworks)
    return RarmHead(networks, sampler, guidance_scale, how.device, how.precision, how.compile)


def code_head(
    networks: Networks, sampler: CodeSampler, guidance_scale: float, how: Arithmetic = PLAIN
) -> KnnDiscreteHead:
    """Build a head over codes whose steps are to be looked at, around its networks."""
    assert isinstance(networks, KnnDiscreteNetworks)
    return KnnDiscreteHead(
        networks, sampler, guidance_scale, how.device, how.precision, how.compile
    )
