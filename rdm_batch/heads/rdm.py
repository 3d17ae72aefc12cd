"""The retrieval-augmented diffusion head (Blattmann et al. 2022, arXiv:2204.11824)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from rdm_batch.backends import multiplying
from rdm_batch.errors import CheckpointError
from rdm_batch.heads.arithmetic import compiled
from rdm_batch.heads.decode import decode_in_parts, not_finite
from rdm_batch.heads.drawing import Canvas
from rdm_batch.heads.network_head import NetworkHead, computes
from rdm_batch.models.autoencoder import VqAutoencoder
from rdm_batch.models.networks import RdmNetworks
from rdm_batch.sampling import noise as streams
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sampling.samplers import build_solver
from rdm_batch.sampling.solver import Observe, Predict, Solver
from rdm_batch.specs.families import RdmArchitecture
from rdm_batch.specs.precisions import Precision
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.transfers import upload


class RdmHead(NetworkHead):
    """Draw latents given neighbors, and decode them.

    The networks are taken over: moved, converted and set to evaluation.

    Args:
        networks: UNet and autoencoder with their weights.
        solver: How latents are drawn.
        guidance_scale: 1 is none; above, a second prediction for an all-zero context.
        device: Where to compute.
        precision: Arithmetic of the networks. The solver's is always float32, and code words
            are looked up in float32.
        compile: Whether to compile the UNet.

    Raises:
        SpecError: The guidance scale is below 1.
    """

    @staticmethod
    def sampler_of(architecture: RdmArchitecture, sampling: SamplingSpec) -> Solver:
        """Build the solver; see ``NetworkHead.sampler_of``."""
        return build_solver(architecture.noise_schedule, sampling)

    def __init__(
        self,
        networks: RdmNetworks,
        solver: Solver,
        guidance_scale: float = 1.0,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        super().__init__(networks.architecture, guidance_scale, device, precision, compile)
        self.architecture = networks.architecture
        self._solver = solver
        networks = networks.to(self._device, torch.float32).eval().requires_grad_(False)
        # The times of a solver are known: what they contribute is computed here, once, and in
        # float32 whatever the precision is.
        with torch.inference_mode(), multiplying():
            self._prepare(networks, torch.from_numpy(solver.timesteps).to(self._device))
        self._convert(networks)
        self._unet = networks.unet
        self._autoencoder = networks.autoencoder
        self._predict = self._unet.predict
        if compile:
            self._predict = compiled(self._unet.predict, self._device)

    def _prepare(self, networks: RdmNetworks, times: Int64[Tensor, " steps"]) -> None:
        """Compute what the times of the solver contribute, before networks are converted."""
        biases = [bias.to(self._dtype) for bias in networks.unet.time_biases(times)]
        self._time_biases = [
            tuple(bias[step : step + 1] for bias in biases) for step in range(len(times))
        ]

    def _draw(
        self, context: Float[Tensor, "batch k_nn dim"], noise: SampleNoise, canvas: Canvas
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Draw latents and decode them; see ``NetworkHead``."""
        shape = self.architecture.latent_shape

        def sample(observe: Observe | None) -> Tensor:
            return self.sample_latents(
                context,
                upload(noise.normal(streams.START, shape), self._device),
                self._numbers_of(
                    lambda step, out: noise.fill_normal(streams.step_stream(step), out),
                    len(self._solver.timesteps),
                    (len(noise), *shape),
                    torch.float32,
                ),
                observe,
            )

        def find_failure(failed: Tensor) -> CheckpointError:
            # Looking at every step would cost the good runs; what is not finite stays so,
            # and the same noise leads there again.
            try:
                sample(self._find_failure(noise))
            except CheckpointError as found:
                return found
            return not_finite(failed, "latents are not finite", noise, self.precision)

        latents = sample(None)
        canvas.check(~torch.isfinite(latents).flatten(1).all(dim=1), find_failure)
        return self.decode(latents)

    @computes
    def sample_latents(
        self,
        context: Float[Tensor, "batch k_nn dim"],
        start: Float[Tensor, "batch channel height width"],
        step_noise: Callable[[int], Float[Tensor, "batch channel height width"]],
        observe: Observe | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """Draw latents from given noise.

        Args:
            context: Neighbor embeddings as stored.
            start: Noise to start from.
            step_noise: Noise a step adds.
            observe: Sees every step.
        """
        start = start.to(self._device).contiguous(memory_format=torch.channels_last)
        return self._solver.sample(self._predictor(context), start, step_noise, observe)

    @computes
    def decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode latents to images, nominally in -1..1, some at a time."""
        latents = latents / self.architecture.scale_factor
        if not isinstance(self._autoencoder, VqAutoencoder):
            latents = latents.to(self._dtype)
        return decode_in_parts(self._autoencoder.decode, latents, self.image_size)

    def work_of(
        self, context: Float[Tensor, "1 entry dim"], count: Callable[[Callable[[], object]], float]
    ) -> float:
        """Sum up the evaluations of the UNet and the decoder; see ``NetworkHead``."""
        evaluations = 0

        def predict(x: Tensor, _: int) -> Tensor:
            nonlocal evaluations
            evaluations += 1
            return x

        one = torch.zeros(1)
        self._solver.sample(predict, one, lambda _: one)
        latents = torch.zeros(1, *self.architecture.latent_shape, device=self._device)
        predictors: list[Predict] = []
        once = count(lambda: predictors.append(self._predictor(context)))
        step = count(lambda: predictors[0](latents, 0))
        return once + evaluations * step + count(lambda: self.decode(latents))

    @computes
    def _repeat_once(self, context: Float[Tensor, "batch k_nn dim"]) -> None:
        """Predict the noise in latents once; see ``NetworkHead``."""
        x = torch.zeros(len(context), *self.architecture.latent_shape, device=self._device)
        self._predictor(context)(x.contiguous(memory_format=torch.channels_last), 0)

    def _predictor(self, context: Float[Tensor, "batch k_nn dim"]) -> Predict:
        features = self._unet.context_features(context.to(self._device, self._dtype), self._guided)

        def predict(x: Tensor, step: int) -> Tensor:
            return self._guide(self._predict(x.to(self._dtype), self._time_biases[step], features))

        return predict

    def _find_failure(self, noise: SampleNoise) -> Observe:
        def observe(step: int, x: Tensor, _: Tensor) -> None:
            failed = ~torch.isfinite(x).flatten(1).all(dim=1)
            if failed.any():
                what = (
                    f"latents are not finite after step {step + 1} of {len(self._solver.timesteps)}"
                )
                raise not_finite(failed, what, noise, self.precision)

        return observe
