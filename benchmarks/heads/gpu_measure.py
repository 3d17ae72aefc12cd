"""Measure a trial of the GPU benchmark: heads as jobs build them, on numbers that are not zero."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.heads import published_procedure as published
from benchmarks.heads.gpu_trials import GUIDANCE, STEPS, Trial
from benchmarks.heads.procedures import Settings, integrate_published_tokens, normal
from benchmarks.heads.shrunk import small
from benchmarks.networks import Networks, random_networks
from benchmarks.records import Details
from benchmarks.timing import best_time, peak_memory_bytes, reset_peak_memory
from rdm_batch.backends import multiplying
from rdm_batch.heads.build import build_head_around
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.heads.work import flops_per_sample
from rdm_batch.models.networks import RarmNetworks, RdmNetworks
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.families import Architecture, RarmArchitecture, RdmArchitecture
from rdm_batch.specs.precisions import PRECISIONS
from rdm_batch.specs.presets import PRESETS

_K_NN = 4
_REPEATS = 2
_PUBLISHED_STEPS = 2
_STEPS_TIMED = 8


@dataclass
class Bench:
    """Measure trials one after the other, keeping a head while the next one uses it too.

    Attributes:
        device: Where to compute.
        smallest: Whether to shrink networks, batches and steps, to try the benchmark itself.
    """

    device: str
    smallest: bool
    _head: tuple[object, RdmHead | RarmHead] | None = field(default=None, init=False)

    @property
    def _num_steps(self) -> int | None:
        """Steps in place of the trial's."""
        return 2 if self.smallest else None

    def images_per_s(self, trial: Trial) -> tuple[float, Details]:
        """Measure a trial.

        Returns:
            Images a second, and figures beside it.
        """
        if self.smallest:
            trial = replace(trial, batch=2)
        architecture = PRESETS[trial.preset]
        architecture = small(architecture) if self.smallest else architecture
        reset_peak_memory(self.device)
        if trial.what == "published":
            self._head = None
            seconds, details = self._published(trial, architecture), Details()
        else:
            head, details = self._built(trial, architecture)
            seconds = self._timed(head, trial)
        flops = 0.0
        if trial.what == "generate":
            flops = flops_per_sample(architecture, trial.spec(self._num_steps), _K_NN)
        elif trial.what == "step":
            details["ms/step"] = 1e3 * seconds / STEPS
            one, two = (flops_per_sample(architecture, trial.spec(n), _K_NN) for n in (1, 2))
            flops = (two - one) * STEPS
        if flops:
            details["TFLOP/s"] = flops * trial.batch / seconds / 1e12
        details["peak GB"] = peak_memory_bytes(self.device) / 1e9
        return trial.batch / seconds, details

    def _networks(self, architecture: Architecture) -> Networks:
        """Build networks without zeros, whose products would need less power than real ones."""
        torch.manual_seed(0)
        networks = random_networks(architecture, self.device)
        for module in networks.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                nn.init.normal_(module.weight, std=0.5 * fan_in**-0.5)
        return networks

    def _context(self, trial: Trial, architecture: Architecture) -> Tensor:
        return normal((trial.batch, _K_NN, architecture.context_dim), self.device)

    def _built(
        self, trial: Trial, architecture: Architecture
    ) -> tuple[RdmHead | RarmHead, Details]:
        """Build the head of a trial, or take the last one where it is the same."""
        key = (trial.preset, trial.precision, trial.how, trial.sampling)
        if self._head is None or self._head[0] != key:
            self._head = None
            if self.device == "cuda":
                torch.cuda.empty_cache()
            head = build_head_around(
                self._networks(architecture),
                trial.spec(self._num_steps),
                self.device,
                trial.precision,
                trial.how == "graphs",
            )
            assert isinstance(head, RdmHead | RarmHead)
            if trial.how == "compiled":
                _compile_without_graphs(head)
            self._head = key, head
        head = self._head[1]
        begin = time.perf_counter()
        head.warm_up(self._context(trial, architecture).cpu().numpy())
        return head, {"warm-up s": time.perf_counter() - begin}

    def _timed(self, head: RdmHead | RarmHead, trial: Trial) -> float:
        """Give the seconds of a batch."""
        architecture = head.architecture
        context = self._context(trial, architecture)
        if trial.what == "generate":
            given, noise = context.cpu().numpy(), SampleNoise(0, np.arange(trial.batch))
            return best_time(lambda: head.generate(given, noise), 1, self.device)
        if isinstance(head, RarmHead):
            assert isinstance(architecture, RarmArchitecture)
            size, words = architecture.latent_size, architecture.autoencoder.codebook_size
            tokens = torch.randint(words, (trial.batch, size * size), device=self.device)
            return best_time(lambda: head.decode(tokens), _REPEATS, self.device)
        latents = normal((trial.batch, *head.architecture.latent_shape), self.device)
        if trial.what == "decode":
            return best_time(lambda: head.decode(latents), _REPEATS, self.device)
        latents = latents.contiguous(memory_format=torch.channels_last)
        timed = 1 if self.smallest else _STEPS_TIMED

        predict = head._predictor(context)

        def steps() -> None:
            # In its named arithmetic, which a head sets around its public methods.
            with multiplying(PRECISIONS[trial.precision].tf32):
                for step in range(timed):
                    predict(latents, step)

        return best_time(steps, 1 if self.smallest else _REPEATS, self.device) * STEPS / timed

    def _published(self, trial: Trial, architecture: Architecture) -> float:
        """Give the seconds of a batch by the published procedure, in IEEE float32."""
        networks = self._networks(architecture)
        run: Callable[[], object]
        with multiplying():
            if isinstance(networks, RarmNetworks):
                assert isinstance(architecture, RarmArchitecture)
                settings = Settings(self.device, batch=trial.batch, guidance_scale=GUIDANCE)
                tokens_s = integrate_published_tokens(architecture, networks, settings, trial.batch)
                size, words = architecture.latent_size, architecture.autoencoder.codebook_size
                codes = torch.randint(words, (trial.batch, size, size), device=self.device)
                autoencoder = networks.autoencoder

                def run() -> object:
                    looked_up = autoencoder.quantize.lookup(codes)
                    return published.decode_quantized(autoencoder, looked_up)

                return tokens_s + best_time(run, 1, self.device)
            assert isinstance(networks, RdmNetworks)
            assert isinstance(architecture, RdmArchitecture)
            context = self._context(trial, architecture)
            noise = normal((trial.batch, *architecture.latent_shape), self.device)
            schedule = NoiseSchedule.from_config(architecture.noise_schedule)
            solver = DdimSolver(schedule, _PUBLISHED_STEPS, eta=1.0)

            def steps() -> object:
                return published.sample_latents(
                    networks.unet, solver, GUIDANCE, context, noise, lambda step: noise
                )

            steps_s = best_time(steps, 1, self.device) * STEPS / _PUBLISHED_STEPS
            decode_s = best_time(
                lambda: published.decode(networks.autoencoder, noise), 1, self.device
            )
            return steps_s + decode_s


def _compile_without_graphs(head: RdmHead | RarmHead) -> None:
    """Compile the UNet as ``arithmetic.compiled`` does, but launch its kernels one by one."""
    assert isinstance(head, RdmHead)
    head._steps._predict = torch.compile(
        head._steps._predict, dynamic=False, fullgraph=True, options={"deterministic": True}
    )
