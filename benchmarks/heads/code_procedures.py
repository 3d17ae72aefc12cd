"""Time the head over codes and the published procedure on the same network, a step of each.

The step is one in the middle of the forward process, where half of the tokens are masked. A step
of the published procedure costs the same whichever it is; one of the head takes every code only of
tokens that may change, whose number grows evenly from the first step to the last, so that the
middle one stands for all. With random weights the network is sure of nothing, and more tokens may
change than with trained ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.heads import published_codes
from benchmarks.heads import published_procedure as published
from benchmarks.heads.counting import count_work
from benchmarks.heads.procedures import Measurement, Settings, billed, normal
from benchmarks.networks import Arithmetic, code_head, random_networks
from benchmarks.timing import best_time, peak_memory_bytes, reset_peak_memory
from rdm_batch.backends import multiplying
from rdm_batch.heads.arithmetic import Precision
from rdm_batch.models.networks import KnnDiscreteNetworks
from rdm_batch.sampling.code_sampler import CodeSampler, PredictClean, StepUniform
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule
from rdm_batch.specs.families import KnnDiscreteArchitecture

_Runs = tuple[Callable[[], object], Callable[[], object]]
"""A step, and decoding."""


@dataclass(frozen=True)
class MiddleStep(CodeSampler):
    """Take one of the sampler's steps alone, in the middle of the forward process."""

    @property
    def times(self) -> tuple[int, int]:
        """The time it begins at, and the one it ends at."""
        middle = self.schedule.num_times // 2
        return middle, middle - self.schedule.num_times // self.num_steps

    def sample(
        self,
        predict: PredictClean,
        num_samples: int,
        num_tokens: int,
        step_uniform: StepUniform,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draw the states after the step; see ``CodeSampler.sample``."""
        states = states_between(self.schedule, (num_samples, num_tokens), str(device))
        return self._earlier(predict, states, step_uniform(0)[..., 0], *self.times)


def states_between(schedule: MaskReplaceSchedule, shape: tuple[int, int], device: str) -> Tensor:
    """Give states in the middle of the forward process, the same every time.

    Args:
        schedule: The forward process.
        shape: Samples and tokens of each.
        device: Where they are wanted.
    """
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(schedule.num_codes, shape, generator=generator)
    times = torch.full(shape[:1], schedule.num_times // 2)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return schedule.noised(codes, times, uniform).to(device)


def measure_codes(architecture: KnnDiscreteArchitecture, settings: Settings) -> list[Measurement]:
    """Measure the published procedure, in IEEE float32, then this package's in every precision.

    This package's with the settings' fewer steps as well.
    """
    with multiplying():
        every: tuple[int, ...] = (settings.num_steps,)
        found = _measure("published", "float32", _published, architecture, settings, every)
    every = (settings.num_steps, *settings.fewer_steps)
    for one in settings.precisions:
        own = partial(_own, precision=one)
        found += _measure("this package", one, own, architecture, settings, every)
    return found


def _published(networks: KnnDiscreteNetworks, settings: Settings, device: str) -> _Runs:
    sizes = networks.architecture.transformer
    schedule = MaskReplaceSchedule.linear(sizes.codebook_size, sizes.num_times)
    context = normal((settings.batch, settings.k_nn, sizes.context_dim), device)
    states = states_between(schedule, (settings.batch, sizes.num_positions), device)
    later = schedule.num_times // 2

    def step() -> Tensor:
        log_clean = published_codes.log_clean_codes(
            networks.transformer, settings.guidance_scale, states, later, context
        )
        chances = published_codes.log_posterior(schedule, log_clean, states, later, later - 1)
        return published_codes.by_gumbel_noise(chances, 0)

    size = networks.architecture.latent_size
    ids = torch.ones(settings.batch, size, size, dtype=torch.int64, device=device)
    autoencoder = networks.autoencoder

    def decode() -> Tensor:
        return published.decode_quantized(autoencoder, autoencoder.quantize.lookup(ids))

    return step, decode


def _own(
    networks: KnnDiscreteNetworks, settings: Settings, device: str, precision: Precision
) -> _Runs:
    sizes = networks.architecture.transformer
    schedule = MaskReplaceSchedule.linear(sizes.codebook_size, sizes.num_times)
    # Tokens that leave the mask in a step are few beside those that have left it.
    sampler = MiddleStep(schedule, min(25, schedule.num_times))
    how = Arithmetic(device, precision, settings.compile and device != "meta")
    head = code_head(networks, sampler, settings.guidance_scale, how)
    context = normal((settings.batch, settings.k_nn, sizes.context_dim), device)
    shape = (settings.batch, sizes.num_positions)
    uniform = torch.rand(
        (*shape, 2), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    ).to(device)
    codes = torch.ones(shape, dtype=torch.int64, device=device)
    return (
        lambda: head.sample_codes(context, settings.batch, lambda step: uniform),
        lambda: head.decode(codes),
    )


def _measure(
    procedure: str,
    precision: Precision,
    make: Callable[[KnnDiscreteNetworks, Settings, str], _Runs],
    architecture: KnnDiscreteArchitecture,
    settings: Settings,
    numbers_of_steps: tuple[int, ...],
) -> list[Measurement]:
    counted = code_networks(architecture, "meta")
    step, decode = make(counted, settings, "meta")
    works = (
        count_work(step, counted.transformer),
        count_work(decode, counted.autoencoder.decoder),
    )
    networks = code_networks(architecture, settings.device)
    step, decode = make(networks, settings, settings.device)
    reset_peak_memory(settings.device)
    times = (
        best_time(step, settings.repeats, settings.device),
        best_time(decode, settings.repeats, settings.device),
    )
    peak = peak_memory_bytes(settings.device)
    return [
        billed(procedure, precision, number, times, works, settings.batch, peak)
        for number in numbers_of_steps
    ]


def code_networks(architecture: KnnDiscreteArchitecture, device: str) -> KnnDiscreteNetworks:
    """Build networks with random weights."""
    networks = random_networks(architecture, device)
    assert isinstance(networks, KnnDiscreteNetworks)
    return networks
