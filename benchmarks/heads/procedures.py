"""Time the heads of this package and the published procedure on the same networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from benchmarks.heads import published_procedure as published
from benchmarks.heads.counting import Work, count_work
from benchmarks.networks import Arithmetic, autoregressive_head, diffusion_head, random_networks
from benchmarks.timing import best_time, peak_memory_bytes, reset_peak_memory
from rdm_batch.backends import multiplying
from rdm_batch.heads.arithmetic import Precision
from rdm_batch.models.networks import RarmNetworks, RdmNetworks
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.families import Architecture, RarmArchitecture, RdmArchitecture


@dataclass(frozen=True)
class Settings:
    """What to measure, and how much of it."""

    device: str = "cpu"
    precisions: Sequence[Precision] = ("float32",)
    compile: bool = False
    batch: int = 8
    guidance_scale: float = 2.0
    k_nn: int = 4
    num_steps: int = 100
    timed_steps: int = 2
    repeats: int = 2
    fewer_steps: Sequence[int] = ()
    """Numbers of steps that this package's procedure is billed for besides."""


@dataclass(frozen=True)
class Measurement:
    """What one procedure takes for a batch.

    Attributes:
        procedure: Whose it is.
        precision: Its arithmetic.
        num_steps: Solver steps, or tokens, of an image.
        sample_s: Seconds to draw the latents or codes of the batch.
        decode_s: Seconds to decode them.
        work: Counted for one image.
        peak_memory_bytes: Largest amount of memory in use.
    """

    procedure: str
    precision: Precision
    num_steps: int
    sample_s: float
    decode_s: float
    work: Work
    peak_memory_bytes: int


def measure(architecture: Architecture, settings: Settings) -> list[Measurement]:
    """Measure the published procedure, in IEEE float32, then this package's in every precision."""
    if isinstance(architecture, RdmArchitecture):
        with multiplying():
            found = _published_rdm(architecture, settings)
        for one in settings.precisions:
            found += _own_rdm(architecture, settings, one)
        return found
    with multiplying():
        published_first = _published_rarm(architecture, settings)
    # On a CPU in both ways: compiling is asked for, and needs a compiler.
    ways = (False, True) if settings.compile and settings.device == "cpu" else (settings.compile,)
    return [
        published_first,
        *(
            _own_rarm(architecture, replace(settings, compile=compile), one)
            for one in settings.precisions
            for compile in ways
        ),
    ]


def normal(shape: tuple[int, ...], device: str) -> Tensor:
    """Draw the same standard normal numbers every time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)


def _context(architecture: Architecture, settings: Settings, device: str) -> Tensor:
    return normal((settings.batch, settings.k_nn, architecture.context_dim), device)


def _solver(architecture: RdmArchitecture, settings: Settings) -> DdimSolver:
    schedule = NoiseSchedule.from_config(architecture.noise_schedule)
    return DdimSolver(schedule, settings.timed_steps, eta=1.0)


def rdm_networks(architecture: RdmArchitecture, device: str) -> RdmNetworks:
    """Build networks with random weights."""
    networks = random_networks(architecture, device)
    assert isinstance(networks, RdmNetworks)
    return networks


def rarm_networks(architecture: RarmArchitecture, device: str) -> RarmNetworks:
    """Build networks with random weights."""
    networks = random_networks(architecture, device)
    assert isinstance(networks, RarmNetworks)
    return networks


def _published_rdm(architecture: RdmArchitecture, settings: Settings) -> list[Measurement]:
    solver = _solver(architecture, settings)

    def make(networks: RdmNetworks, device: str) -> tuple[Callable[[], Tensor], ...]:
        context = _context(architecture, settings, device)
        noise = normal((settings.batch, *architecture.latent_shape), device)
        return (
            lambda: published.sample_latents(
                networks.unet, solver, settings.guidance_scale, context, noise, lambda step: noise
            ),
            lambda: published.decode(networks.autoencoder, noise),
        )

    every = (settings.num_steps,)
    return _measure_rdm("published", "float32", make, architecture, settings, every)


def _own_rdm(
    architecture: RdmArchitecture, settings: Settings, precision: Precision
) -> list[Measurement]:
    solver = _solver(architecture, settings)

    def make(networks: RdmNetworks, device: str) -> tuple[Callable[[], Tensor], ...]:
        how = Arithmetic(device, precision, settings.compile and device != "meta")
        head = diffusion_head(networks, solver, settings.guidance_scale, how)
        context = _context(architecture, settings, device)
        noise = normal((settings.batch, *architecture.latent_shape), device)
        return (
            lambda: head.sample_latents(context, noise, lambda step: noise),
            lambda: head.decode(noise),
        )

    every = (settings.num_steps, *settings.fewer_steps)
    return _measure_rdm("this package", precision, make, architecture, settings, every)


def _measure_rdm(
    procedure: str,
    precision: Precision,
    make: Callable[[RdmNetworks, str], tuple[Callable[[], Tensor], ...]],
    architecture: RdmArchitecture,
    settings: Settings,
    numbers_of_steps: tuple[int, ...],
) -> list[Measurement]:
    counted = rdm_networks(architecture, "meta")
    sample, decode = make(counted, "meta")
    works = (
        count_work(sample, counted.unet, settings.timed_steps) * (1 / settings.timed_steps),
        count_work(decode, counted.autoencoder.decoder),
    )
    networks = rdm_networks(architecture, settings.device)
    sample, decode = make(networks, settings.device)
    reset_peak_memory(settings.device)
    times = (
        best_time(sample, settings.repeats, settings.device) / settings.timed_steps,
        best_time(decode, settings.repeats, settings.device),
    )
    peak = peak_memory_bytes(settings.device)
    return [
        billed(procedure, precision, number, times, works, settings.batch, peak)
        for number in numbers_of_steps
    ]


def billed(
    procedure: str,
    precision: Precision,
    num_steps: int,
    times: tuple[float, float],
    works: tuple[Work, Work],
    batch: int,
    peak: int,
) -> Measurement:
    """Give what a number of steps and decoding take for a batch.

    Args:
        procedure: Whose it is.
        precision: Its arithmetic.
        num_steps: Solver steps.
        times: Of a step and of decoding, seconds.
        works: Likewise, for the batch.
        batch: Samples.
        peak: Memory in use, bytes.
    """
    work = (works[0] * num_steps + works[1]) * (1 / batch)
    return Measurement(procedure, precision, num_steps, times[0] * num_steps, times[1], work, peak)


def _token_sampler(architecture: RarmArchitecture) -> TokenSampler:
    return TokenSampler(top_k=min(256, architecture.transformer.vocabulary_out))


def _next_token(
    architecture: RarmArchitecture,
    networks: RarmNetworks,
    settings: Settings,
    device: str,
    batch: int,
    length: int,
) -> Callable[[], Tensor]:
    """Draw the token after a prefix as published."""
    sampler = _token_sampler(architecture)
    context = normal((batch, settings.k_nn, architecture.context_dim), device)
    tokens = torch.ones(batch, length, dtype=torch.int64, device=device)

    def run() -> Tensor:
        logits = published.guided_logits(
            networks.transformer, settings.guidance_scale, tokens, context
        )
        return sampler.probabilities(logits).multinomial(1)

    return run


def _lengths(architecture: RarmArchitecture) -> list[int]:
    num_tokens = architecture.transformer.num_positions
    return sorted({1, *(num_tokens * quarter // 4 for quarter in range(1, 5))})


def integrate_published_tokens(
    architecture: RarmArchitecture, networks: RarmNetworks, settings: Settings, batch: int
) -> float:
    """Estimate the seconds the published procedure draws an image's tokens in.

    Its cost grows smoothly with the length of the prefix: five lengths are timed.
    """
    lengths = _lengths(architecture)
    times = [
        best_time(
            _next_token(architecture, networks, settings, settings.device, batch, length),
            1,
            settings.device,
        )
        for length in lengths
    ]
    return _sum_over_lengths(times, lengths)


def _published_rarm(architecture: RarmArchitecture, settings: Settings) -> Measurement:
    num_tokens = architecture.transformer.num_positions
    lengths = _lengths(architecture)

    def decoder(networks: RarmNetworks, device: str) -> Callable[[], Tensor]:
        ids = _grid(architecture, settings, device)
        autoencoder = networks.autoencoder
        return lambda: published.decode_quantized(autoencoder, autoencoder.quantize.lookup(ids))

    counted = rarm_networks(architecture, "meta")
    works = [
        count_work(
            _next_token(architecture, counted, settings, "meta", settings.batch, length),
            counted.transformer,
        )
        for length in lengths
    ]
    work = Work(
        _sum_over_lengths([work.flops for work in works], lengths),
        _sum_over_lengths([work.num_bytes for work in works], lengths),
        works[0].weight_bytes * num_tokens,
    ) + count_work(decoder(counted, "meta"), counted.autoencoder.decoder)
    networks = rarm_networks(architecture, settings.device)
    reset_peak_memory(settings.device)
    return Measurement(
        "published",
        "float32",
        num_tokens,
        integrate_published_tokens(architecture, networks, settings, settings.batch),
        best_time(decoder(networks, settings.device), settings.repeats, settings.device),
        work * (1 / settings.batch),
        peak_memory_bytes(settings.device),
    )


def _sum_over_lengths(values: list[float], lengths: list[int]) -> float:
    """Sum over every length from 1 what is known at a few, by the trapezoid rule."""
    return float(np.trapezoid(values, lengths)) + (values[0] + values[-1]) / 2


def _own_rarm(
    architecture: RarmArchitecture, settings: Settings, precision: Precision
) -> Measurement:
    num_tokens = architecture.transformer.num_positions

    def make(networks: RarmNetworks, device: str) -> tuple[Callable[[], object], ...]:
        how = Arithmetic(device, precision, settings.compile and device != "meta")
        sampler = _token_sampler(architecture)
        head = autoregressive_head(networks, sampler, settings.guidance_scale, how)
        context = _context(architecture, settings, device)
        shape = (settings.batch, networks.architecture.transformer.num_positions)
        uniform = torch.full(shape, 0.5, dtype=torch.float64, device=device)
        tokens = _grid(architecture, settings, device).flatten(1)
        return (
            lambda: head.draw_tokens(context, uniform),
            lambda: head.decode(tokens),
        )

    def drawing(count: int) -> Work:
        transformer = architecture.transformer.model_copy(update={"num_positions": count})
        update = {"transformer": transformer}
        counted = rarm_networks(architecture.model_copy(update=update), "meta")
        return count_work(make(counted, "meta")[0], counted.transformer, count)

    counted = rarm_networks(architecture, "meta")
    work = _quadratic([drawing(count) for count in (1, 2, 3)], num_tokens)
    work = work + count_work(make(counted, "meta")[1], counted.autoencoder.decoder)
    networks = rarm_networks(architecture, settings.device)
    sample, decode = make(networks, settings.device)
    reset_peak_memory(settings.device)
    return Measurement(
        "this package, compiled" if settings.compile else "this package",
        precision,
        num_tokens,
        best_time(sample, 1, settings.device),
        best_time(decode, settings.repeats, settings.device),
        work * (1 / settings.batch),
        peak_memory_bytes(settings.device),
    )


def _quadratic(first: Sequence[Work], at: int) -> Work:
    """Give the work of many tokens by that of one, two and three, each counted as a whole.

    A token attends to one position more than the one before: the sum is a polynomial of the second
    degree.
    """
    step = first[1] + first[0] * -1
    growth = first[2] + first[1] * -1 + step * -1
    return first[0] + step * (at - 1) + growth * ((at - 1) * (at - 2) / 2)


def _grid(architecture: RarmArchitecture, settings: Settings, device: str) -> Tensor:
    size = architecture.latent_size
    return torch.ones(settings.batch, size, size, dtype=torch.int64, device=device)
