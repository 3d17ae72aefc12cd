"""The KNN-Diffusion head over codes: a query and its neighbors in, images out.

Sheynin et al. 2023 (arXiv:2204.02849), with the discrete backbone: mask-and-replace diffusion
over the codes of an autoencoder, all codes of an image together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from rdm_batch.errors import CheckpointError
from rdm_batch.heads.arithmetic import compiled
from rdm_batch.heads.decode import decode_in_parts, not_finite
from rdm_batch.heads.drawing import Canvas
from rdm_batch.heads.head import HowDrawn
from rdm_batch.heads.network_head import NetworkHead, computes
from rdm_batch.models.networks import KnnDiscreteNetworks
from rdm_batch.sampling.code_sampler import CodeSampler, StepUniform, chosen, guide_codes
from rdm_batch.sampling.noise import SampleNoise, step_stream
from rdm_batch.sampling.samplers import build_code_sampler
from rdm_batch.specs.families import KnnDiscreteArchitecture
from rdm_batch.specs.precisions import Precision
from rdm_batch.specs.sampling import SamplingSpec


class KnnDiscreteHead(NetworkHead):
    """Set the codes of an image given a query and its neighbors, and decode them.

    The networks are taken over: moved, converted and set to evaluation.

    Args:
        networks: Transformer and autoencoder with their weights.
        sampler: How codes are set.
        guidance_scale: 1 is none; above, log-probabilities are guided away from those without a
            context.
        device: Where to compute.
        precision: Arithmetic of the networks; probabilities are computed in double precision.
        compile: Whether to compile the transformer and the decoder.

    Raises:
        SpecError: The guidance scale is below 1.
    """

    @staticmethod
    def sampler_of(architecture: KnnDiscreteArchitecture, sampling: SamplingSpec) -> CodeSampler:
        """Build the sampler of codes; see ``NetworkHead.sampler_of``."""
        sizes = architecture.transformer
        return build_code_sampler(sizes.codebook_size, sizes.num_times, sampling)

    def __init__(
        self,
        networks: KnnDiscreteNetworks,
        sampler: CodeSampler,
        guidance_scale: float = 1.0,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        super().__init__(networks.architecture, guidance_scale, device, precision, compile)
        self.architecture = networks.architecture
        self._sampler = sampler
        networks = networks.to(self._device).eval().requires_grad_(False)
        self._convert(networks)
        self._transformer = networks.transformer
        self._autoencoder = networks.autoencoder
        self._logits = self._transformer.forward
        self._decode_ids = networks.autoencoder.decode_ids
        if compile:
            self._logits = compiled(self._transformer.forward, self._device)
            self._decode_ids = compiled(self._decode_ids, self._device)

    def beside(self, how: HowDrawn, prepared: None = None) -> KnnDiscreteHead:
        """Give a head around the same networks that draws otherwise; see ``NetworkHead``."""
        head = super().beside(how, prepared)
        head._sampler = self.sampler_of(self.architecture, how.sampling)
        return head

    def _draw(
        self, context: Float[Tensor, "batch entry dim"], noise: SampleNoise, canvas: Canvas
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Draw codes and decode them; see ``NetworkHead``.

        Args:
            context: The query's embedding, then those of its neighbors.
            noise: The samples' noise; two numbers a code and step.
            canvas: Is told of samples that failed.
        """
        num_tokens = self.architecture.transformer.num_positions
        step_uniform = self._numbers_of(
            lambda step, out: noise.fill_uniform(step_stream(step), out),
            self._sampler.num_steps,
            (len(noise), num_tokens, 2),
            torch.float64,
        )
        codes, failed_at = self.sample_codes(context, len(noise), step_uniform)

        def tell(failed: Tensor) -> CheckpointError:
            time = int(failed_at[failed.to(self._device)][0])
            what = f"logits are not finite at time {time} of {self._sampler.schedule.num_times}"
            return not_finite(failed, what, noise, self.precision)

        canvas.check(failed_at > 0, tell)
        return self.decode(codes)

    def sample_codes(
        self,
        context: Float[Tensor, "batch entry dim"],
        num_samples: int,
        step_uniform: StepUniform,
    ) -> tuple[Int[Tensor, "batch position"], Int[Tensor, " batch"]]:
        """Draw the codes of every sample.

        Args:
            context: As stored.
            num_samples: Rows of it.
            step_uniform: Gives the numbers of a step.

        Returns:
            The codes, row by row of the grid, and the time at which a sample's logits first
            were not finite, 0 if never.
        """
        logits_of = self._predictor(context)
        failed_at = torch.zeros(num_samples, dtype=torch.int64, device=self._device)

        def predict(states: Tensor, time: int, asked: Tensor | None) -> Tensor:
            nonlocal failed_at
            logits = logits_of(states, time).float()
            # What is not finite is the largest or the smallest; a table of which are takes longer.
            flat = logits.flatten(1)
            bad = ~(flat.amin(dim=1).isfinite() & flat.amax(dim=1).isfinite())
            bad = bad.reshape(-1, num_samples).any(dim=0)
            failed_at = torch.where(bad & (failed_at == 0), time, failed_at)
            branches = torch.cat([chosen(branch, asked) for branch in logits.split(num_samples)])
            # A sample that failed is told of at the end; till then it must not fail the others.
            # A GPU would have to wait to learn whether one has.
            if self._device.type != "cpu" or bool(bad.any()):
                branches = torch.nan_to_num(branches, nan=0.0, posinf=0.0, neginf=0.0)
            if self._guided:
                return guide_codes(branches, self._guidance_scale, self._sampler.plausibility)
            return branches.log_softmax(-1)

        num_tokens = self.architecture.transformer.num_positions
        codes = self._sampler.sample(predict, num_samples, num_tokens, step_uniform, self._device)
        return codes, failed_at

    def work_of(
        self, context: Float[Tensor, "1 entry dim"], count: Callable[[Callable[[], object]], float]
    ) -> float:
        """Sum up the steps and the decoder; see ``NetworkHead``."""
        sizes = self.architecture.transformer
        states = torch.zeros(1, sizes.num_positions, dtype=torch.int64, device=self._device)
        predictors: list[Callable[..., Tensor]] = []
        once = count(lambda: predictors.append(self._predictor(context)))
        step = count(lambda: predictors[0](states, sizes.num_times))
        return once + self._sampler.num_steps * step + count(lambda: self.decode(states))

    @computes
    def _repeat_once(self, context: Float[Tensor, "batch entry dim"]) -> None:
        """Give the logits of masks once, and decode; see ``NetworkHead``."""
        sizes = self.architecture.transformer
        states = torch.full(
            (len(context), sizes.num_positions), sizes.codebook_size, device=self._device
        )
        self._predictor(context)(states, sizes.num_times)
        self.decode(torch.zeros_like(states))

    def _predictor(self, context: Float[Tensor, "batch entry dim"]) -> Callable[..., Tensor]:
        projected = self._transformer.keys_values(context.to(self._device, self._dtype))

        def logits_of(states: Tensor, time: int) -> Tensor:
            times = torch.full((1,), time, device=self._device)
            return self._logits(states, times, projected, self._guided)

        return logits_of

    @computes
    def decode(
        self, codes: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode codes to images, nominally in -1..1, some at a time."""
        size = self.architecture.latent_size
        return decode_in_parts(
            self._decode_ids, codes.reshape(-1, size, size), self.image_size, self._compile
        )
