"""Say what bfloat16 changes: in noise, latents, logits and images, and in their scores.

    python -m benchmarks.heads.precision --samples 1024 --json benchmarks/results/precision.json

Inputs: the shipped heads, database and reference of the shapes world. The heads draw the same
samples in both kinds of arithmetic, and once more in float32 with another seed: what that changes
is chance. Baseline of the ratios: the first set of the same head, in CPU time. Errors of tensors
are root mean squares relative to that of the float32 tensor, where nothing else is said.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from benchmarks.assemble import BATCH, Source, shipped_networks
from benchmarks.heads.samplers import BASELINE, Case, draw_context, measure_cases, parse
from benchmarks.networks import Arithmetic, autoregressive_head, diffusion_head
from benchmarks.recorder import Recorder, run
from benchmarks.records import Row
from rdm_batch.heads.arithmetic import Precision
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.autoencoder import VqAutoencoder
from rdm_batch.models.pixels import to_uint8
from rdm_batch.sampling.autoregressive import TokenSampler, draw
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.noise import START, TOKENS, SampleNoise
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Observe, Predict, Solver, StepNoise

CASES = (
    Case("ddim", 20),
    Case("ddim", 20, "bfloat16"),
    Case("ddim", 20, seed=1),
    Case("autoregressive"),
    Case("autoregressive", arithmetic="bfloat16"),
    Case("autoregressive", seed=1),
)
_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
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

    def later(self, first: int) -> _Probe:
        return _Probe(tuple(self.timesteps[first:].tolist()), self.noised[first:])


def diffusion_errors(context: np.ndarray, guidance_scale: float) -> dict[str, float]:
    """Measure what bfloat16, and channels_last, change on the way of a diffusion head.

    Args:
        context: Neighbors of as many samples as are to be compared.
        guidance_scale: Guidance of the predictions.
    """

    def head(solver: Solver, precision: Precision) -> RdmHead:
        how = Arithmetic(precision=precision)
        return diffusion_head(shipped_networks("rdm"), solver, guidance_scale, how)

    neighbors = torch.from_numpy(context)
    networks = shipped_networks("rdm")
    schedule = NoiseSchedule.from_config(networks.architecture.noise_schedule)
    solver = DdimSolver(schedule, _STEPS)
    exact, rounded = (head(solver, precision) for precision in _PRECISIONS)
    shape = exact.architecture.latent_shape
    start = torch.from_numpy(SampleNoise(0, np.arange(len(context))).normal(START, shape))

    def latents_of(one: RdmHead) -> Tensor:
        return one.sample_latents(neighbors, start, lambda step: start)

    latents, rounded_latents = latents_of(exact), latents_of(rounded)
    noised = [
        float(schedule.alphas_cumprod[time]) ** 0.5 * latents
        + float(1 - schedule.alphas_cumprod[time]) ** 0.5 * start
        for time in _TIMES
    ]
    probes = [_Probe(_TIMES, noised) for _ in _PRECISIONS]
    for probe, precision in zip(probes, _PRECISIONS, strict=True):
        latents_of(head(probe, precision))
    autoencoder = networks.autoencoder
    assert isinstance(autoencoder, VqAutoencoder)
    # The same codes for both layouts: of two words almost as near, rounding picks either. Both
    # weights as loaded and words as looked up are in channels_last already.
    decoder = autoencoder.decoder.to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        codes = autoencoder.quantize.nearest(latents / exact.architecture.scale_factor)
        features = autoencoder.post_quant_conv(autoencoder.quantize.lookup(codes)).contiguous()
        plain = decoder(features)
        reordered = decoder.to(memory_format=torch.channels_last)(features)
    eps = zip(_TIMES, probes[0].predicted, probes[1].predicted, strict=True)
    return {
        **{f"noise predicted at time {time}": _error(one, other) for time, one, other in eps},
        f"latents after {_STEPS} DDIM steps": _error(latents, rounded_latents),
        "decoder, channels_last in float32": _error(plain, reordered),
        **_decoder_errors(exact.decode(latents), rounded.decode(latents)),
    }


def autoregressive_errors(context: np.ndarray, guidance_scale: float) -> dict[str, float]:
    """Measure what bfloat16 changes on the way of an autoregressive head.

    Args:
        context: Neighbors of as many samples as are to be compared.
        guidance_scale: Guidance of the logits.
    """
    neighbors = torch.from_numpy(context)
    exact, rounded = (
        autoregressive_head(
            shipped_networks("rarm"), TokenSampler(), guidance_scale, Arithmetic(precision=one)
        )
        for one in _PRECISIONS
    )
    num_tokens = exact.architecture.transformer.num_positions
    uniform = SampleNoise(0, np.arange(len(context))).uniform(TOKENS, (num_tokens,))

    def tokens_of(head: RarmHead, forced: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Give tokens, the probabilities they had, and what would have been drawn."""
        seen, wanted = [], []

        def choose(probabilities: Tensor, position: int) -> Tensor:
            seen.append(probabilities)
            wanted.append(draw(probabilities, torch.from_numpy(uniform[:, position])))
            return wanted[-1] if forced is None else forced[:, position]

        tokens = head.sample_tokens(neighbors, choose).tokens
        return tokens, torch.stack(seen, dim=1), torch.stack(wanted, dim=1)

    tokens, probabilities, _ = tokens_of(exact, None)
    # Along the same tokens: after the first that differs, all that follows does.
    _, rounded_probabilities, wanted = tokens_of(rounded, tokens)
    distance = (probabilities - rounded_probabilities).abs().sum(dim=2) / 2
    return {
        "probabilities of the next token": _error(probabilities, rounded_probabilities),
        "total variation distance of the next token, mean": float(distance.mean()),
        "tokens drawn otherwise after the same prefix, share": float(
            (wanted != tokens).float().mean()
        ),
        **_decoder_errors(exact.decode(tokens), rounded.decode(tokens)),
    }


def _decoder_errors(exact: Tensor, rounded: Tensor) -> dict[str, float]:
    bytes_apart = (to_uint8(exact).int() - to_uint8(rounded).int()).abs().float()
    return {
        "decoded images": _error(exact, rounded),
        "decoded images, mean difference of bytes": float(bytes_apart.mean()),
    }


def _error(exact: Tensor, other: Tensor) -> float:
    return float((other - exact).square().mean().sqrt() / exact.square().mean().sqrt())


def main(argv: list[str] | None = None, cases: Iterable[Case] = CASES) -> None:
    """Measure errors, then scores."""
    args = parse(__doc__, argv)
    recorder = Recorder(
        "heads.precision",
        "bfloat16 in the shapes world",
        "The shipped heads on one CPU thread. Sets have the same queries, neighbors and noise but "
        "for seed 1, which shows what chance changes.",
        args.json,
        BASELINE,
    )
    compared = min(BATCH, args.samples)
    context = draw_context(Source(), compared, 0)
    settings = {"samples": compared, "guidance_scale": args.guidance_scale}
    for title, errors in (
        ("diffusion", diffusion_errors(context, args.guidance_scale)),
        ("autoregression", autoregressive_errors(context, args.guidance_scale)),
    ):
        rows = [Row(name=name, value=value) for name, value in errors.items()]
        recorder.add(f"errors: {title}", rows, settings)
    measure_cases(cases, args, recorder)


if __name__ == "__main__":
    run(main)
