"""Compare bfloat16 with float32 on the trained head of the shapes world, piece by piece."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdm_batch.heads.precision import Precision
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.autoencoder import VqAutoencoder
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.models.networks import RdmNetworks, load_networks
from rdm_batch.models.pixels import to_uint8
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.noise import START, SampleNoise
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Observe, Predict, Solver, StepNoise
from rdm_batch.storage.object_store import local_path

_TIMES = (1, 100, 250, 500, 750, 999)
_STEPS = 20


class _Probe:
    """Ask for the noise in given latents at given times, and draw nothing."""

    def __init__(self, times: tuple[int, ...], noised: list[Tensor]) -> None:
        self.timesteps = np.array(times, dtype=np.int64)
        self.noised = noised
        self.predicted: list[Tensor] = []

    def sample(
        self, predict: Predict, start: Tensor, step_noise: StepNoise, observe: Observe | None = None
    ) -> Tensor:
        self.predicted = [predict(x, step) for step, x in enumerate(self.noised)]
        return start


def measure_errors(context: np.ndarray, guidance_scale: float) -> dict[str, Any]:
    """Measure what bfloat16, and channels_last, change in noise, latents and images.

    Errors of tensors are root mean squares relative to that of the float32 tensor.

    Args:
        context: Neighbors of as many samples as are to be compared.
        guidance_scale: Guidance of the predictions.
    """

    def head(solver: Solver, precision: Precision) -> RdmHead:
        return RdmHead(_load(), solver, guidance_scale, precision=precision)

    neighbors = torch.from_numpy(context)
    schedule = NoiseSchedule.from_config(_load().architecture.noise_schedule)
    solver = DdimSolver(schedule, _STEPS)
    exact, rounded = head(solver, "float32"), head(solver, "bfloat16")
    shape = exact.architecture.latent_shape
    start = torch.from_numpy(SampleNoise(0, np.arange(len(context))).normal(START, shape))

    def draw(one: RdmHead) -> Tensor:
        return one.sample_latents(neighbors, start, lambda step: start)

    latents, rounded_latents = draw(exact), draw(rounded)
    noised = [
        float(schedule.alphas_cumprod[time]) ** 0.5 * latents
        + float(1 - schedule.alphas_cumprod[time]) ** 0.5 * start
        for time in _TIMES
    ]
    probes: list[_Probe] = []
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    for precision in precisions:
        probes.append(_Probe(_TIMES, noised))
        head(probes[-1], precision).sample_latents(neighbors, start, lambda step: start)
    images, rounded_images = exact.decode(latents), rounded.decode(latents)
    autoencoder = _load().autoencoder
    assert isinstance(autoencoder, VqAutoencoder)
    # The same codes for both layouts: of two words almost as near, rounding picks either.
    with torch.inference_mode():
        codes = autoencoder.quantize.nearest(latents / exact.architecture.scale_factor)
        plain = autoencoder.decode_ids(codes)
        reordered = autoencoder.to(memory_format=torch.channels_last).decode_ids(codes)
    return {
        "samples": len(context),
        "eps_bfloat16": {
            time: _error(one, other)
            for time, one, other in zip(
                _TIMES, probes[0].predicted, probes[1].predicted, strict=True
            )
        },
        f"latents_bfloat16_after_{_STEPS}_ddim_steps": _error(latents, rounded_latents),
        "decode_channels_last": _error(plain, reordered),
        "decode_bfloat16": _error(images, rounded_images),
        "decode_bfloat16_bytes": float(
            (to_uint8(images).int() - to_uint8(rounded_images).int()).abs().float().mean()
        ),
    }


def _load() -> RdmNetworks:
    checkpoint = load_checkpoint(local_path("package://shapes/rdm.safetensors"))
    networks = load_networks(checkpoint.architecture, checkpoint.state_dict)
    assert isinstance(networks, RdmNetworks)
    return networks.eval().requires_grad_(False)


def _error(exact: Tensor, other: Tensor) -> float:
    return float((other - exact).square().mean().sqrt() / exact.square().mean().sqrt())
