"""The retrieval-augmented diffusion head (Blattmann et al. 2022, arXiv:2204.11824)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from rdm_batch.errors import CheckpointError
from rdm_batch.heads.arithmetic import compiled, torch_dtype
from rdm_batch.heads.decode import decode_in_parts, not_finite
from rdm_batch.heads.drawing import Canvas, Drawing
from rdm_batch.heads.editing import check_sources, edit_solver
from rdm_batch.heads.head import HowDrawn, check_context, no_context
from rdm_batch.heads.network_head import NetworkHead, computes
from rdm_batch.heads.unet_steps import UNetSteps
from rdm_batch.models.autoencoder import VqAutoencoder
from rdm_batch.models.networks import RdmNetworks
from rdm_batch.models.pixels import from_uint8
from rdm_batch.sampling import noise as streams
from rdm_batch.sampling.evaluations import Evaluations
from rdm_batch.sampling.guidance import guide_away
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sampling.samplers import build_solver, plan_evaluations
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.sampling.solver import Observe, Predict, Solver
from rdm_batch.specs.edits import EditSpec, SdeditSpec
from rdm_batch.specs.families import RdmArchitecture
from rdm_batch.specs.precisions import Precision
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.transfers import upload


@dataclass(frozen=True)
class Weaker:
    """Hold a weaker head to guide away from (Karras et al. 2024, arXiv:2406.02507).

    Attributes:
        networks: Its networks, which are taken over; only the UNet is used.
        scale: 1 is none.
    """

    networks: RdmNetworks
    scale: float


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
        compile: Whether to compile the UNet and the decoder.
        evaluations: What of the UNet each step evaluates. None: all of it, and where the scale
            is above 1 both branches.
        weaker: What predictions are guided away from at the guided steps of ``evaluations``,
            with a guidance scale of 1. None: nothing.
        edit: How given pictures are made into others, with the solver of that edit. None: the
            head makes pictures from nothing.

    Raises:
        SpecError: The guidance scale is below 1.
    """

    _steps_class: ClassVar[type[UNetSteps[Any]]] = UNetSteps

    @staticmethod
    def sampler_of(
        architecture: RdmArchitecture, sampling: SamplingSpec, edit: EditSpec | None = None
    ) -> Solver:
        """Build the solver; see ``NetworkHead.sampler_of``.

        Raises:
            SpecError: As there, or the edit leaves it no step.
        """
        solver = build_solver(architecture.noise_schedule, sampling)
        return solver if edit is None else edit_solver(architecture, solver, edit)

    @classmethod
    def build(
        cls,
        networks: RdmNetworks,
        sampling: SamplingSpec,
        device: torch.device | str,
        precision: Precision,
        compile: bool,
        weaker: RdmNetworks | None = None,
        edit: EditSpec | None = None,
    ) -> RdmHead:
        """Build the head around networks of its family; see ``NetworkHead.build``.

        Args:
            networks: Its networks, which it takes over.
            sampling: Sampler and its settings.
            device: Where to compute.
            precision: Arithmetic of the networks.
            compile: Whether to compile the UNet.
            weaker: Networks of the head that ``sampling.autoguidance`` names.
            edit: How given pictures are made into others. None: the head makes them from nothing.
        """
        solver = cls.sampler_of(networks.architecture, sampling, edit)
        schedule = networks.architecture.noise_schedule
        autoguidance = getattr(sampling, "autoguidance", None)
        return cls(
            networks,
            solver,
            sampling.guidance_scale,
            device,
            precision,
            compile,
            plan_evaluations(schedule, solver, sampling),
            None if weaker is None or autoguidance is None else Weaker(weaker, autoguidance.scale),
            edit,
        )

    def __init__(
        self,
        networks: RdmNetworks,
        solver: Solver,
        guidance_scale: float = 1.0,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
        evaluations: Evaluations | None = None,
        weaker: Weaker | None = None,
        edit: EditSpec | None = None,
    ) -> None:
        super().__init__(networks.architecture, guidance_scale, device, precision, compile)
        self.architecture = networks.architecture
        self._solver = solver
        self._edit = edit
        self._evaluations = evaluations or Evaluations.everywhere(
            len(solver.timesteps), self._guided
        )
        self._steps = self._prepared(networks)
        self._unet = self._steps.unet
        self._autoencoder = networks.autoencoder
        self._weaker, self._weaker_steps = weaker, None
        if weaker is not None:
            del weaker.networks.first_stage_model  # decoding is the head's own
            self._weaker_steps = self._prepared(weaker.networks)
        self._decoder = self._last_of_decoding()
        if compile:
            self._decoder = compiled(self._decoder, self._device)

    def _prepared(self, networks: RdmNetworks) -> UNetSteps[Any]:
        """Move, convert and compile networks for the steps of the solver."""
        networks = networks.to(self._device, torch.float32).eval().requires_grad_(False)
        times = torch.from_numpy(self._solver.timesteps).to(self._device)
        steps = self._steps_class(networks.unet, times, self._evaluations, self._dtype)
        self._convert(networks)
        if self._compile:
            steps.compile(self._device)
        return steps

    @computes
    def start_edit(
        self,
        context: Float32[np.ndarray, "batch k_nn dim"],
        sources: UInt8[np.ndarray, "batch height width 3"],
        noise: SampleNoise,
    ) -> Drawing:
        """Begin to make each of some pictures into another; see ``EditingHead``.

        Raises:
            DatabaseError: As ``start``.
            ImageError: The pictures are not of the head's size.
            CheckpointError: As ``start``.
        """
        check_context(context, noise, self.context_dim)
        check_sources(sources, noise, self.image_size)
        canvas = Canvas(self._device)
        given = upload(self._seen(context), self._device)
        source = self.encode(upload(sources, self._device))
        return self._deliver(self._draw(given, noise, canvas, source), noise, canvas)

    def _draw(
        self,
        context: Float[Tensor, "batch k_nn dim"],
        noise: SampleNoise,
        canvas: Canvas,
        source: Float[Tensor, "batch channel height width"] | None = None,
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Draw latents, or edit those of a source, and decode them; see ``NetworkHead``."""
        shape = self.architecture.latent_shape

        def sample(observe: Observe | None) -> Tensor:
            start = upload(noise.normal(streams.START, shape), self._device)
            if source is not None and isinstance(self._edit, SdeditSpec):
                start = self._noised(source, start)
            return self.sample_latents(
                context,
                start,
                self._numbers_of(
                    lambda step, out: noise.fill_normal(streams.step_stream(step), out),
                    len(self._solver.timesteps),
                    (len(noise), *shape),
                    torch.float32,
                ),
                observe,
                source if self.architecture.edits else None,
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

    @classmethod
    def prepare(
        cls,
        networks: RdmNetworks,
        weaker: RdmNetworks | None,
        how: HowDrawn,
        device: torch.device | str,
        precision: Precision,
    ) -> tuple[UNetSteps[Any], UNetSteps[Any] | None]:
        """Embed the times of a solver, before networks are converted; see ``NetworkHead``."""
        solver = cls.sampler_of(networks.architecture, how.sampling, how.edit)
        schedule = networks.architecture.noise_schedule
        evaluations = plan_evaluations(schedule, solver, how.sampling)
        times = torch.from_numpy(solver.timesteps).to(device)

        def steps(whole: RdmNetworks) -> UNetSteps[Any]:
            whole = whole.to(device, torch.float32).eval().requires_grad_(False)
            return cls._steps_class(whole.unet, times, evaluations, torch_dtype(precision))

        return steps(networks), None if weaker is None else steps(weaker)

    def beside(
        self, how: HowDrawn, prepared: tuple[UNetSteps[Any], UNetSteps[Any] | None]
    ) -> RdmHead:
        """Give a head around the same networks that draws otherwise; see ``NetworkHead``."""
        head = super().beside(how, prepared)
        head._solver = self.sampler_of(self.architecture, how.sampling, how.edit)
        head._edit = how.edit
        head._steps, head._weaker_steps = prepared
        head._evaluations = head._steps.evaluations
        if self._weaker is not None:
            autoguidance = getattr(how.sampling, "autoguidance", None)
            assert autoguidance is not None  # whoever shares a weaker head names it
            head._weaker = Weaker(self._weaker.networks, autoguidance.scale)
        if self._compile:
            head._steps.take_compiled(self._steps)
            if head._weaker_steps is not None and self._weaker_steps is not None:
                head._weaker_steps.take_compiled(self._weaker_steps)
        return head

    @computes
    def sample_latents(
        self,
        context: Float[Tensor, "batch k_nn dim"],
        start: Float[Tensor, "batch channel height width"],
        step_noise: Callable[[int], Float[Tensor, "batch channel height width"]],
        observe: Observe | None = None,
        source: Float[Tensor, "batch channel height width"] | None = None,
    ) -> Float[Tensor, "batch channel height width"]:
        """Draw latents from given noise.

        Args:
            context: Neighbor embeddings as stored.
            start: Noise to start from.
            step_noise: Noise a step adds.
            observe: Sees every step.
            source: Latents that a head trained to edit is shown.
        """
        start = start.to(self._device).contiguous(memory_format=torch.channels_last)
        predict = self._predictor(context, source)
        return self._solver.sample(predict, start, step_noise, observe)

    def _noised(
        self,
        source: Float[Tensor, "batch channel height width"],
        noise: Float[Tensor, "batch channel height width"],
    ) -> Float[Tensor, "batch channel height width"]:
        """Give q(x_t | x_0) at the solver's first time; Meng et al. 2022, Eq. 7 and Algorithm 1."""
        schedule = NoiseSchedule.from_config(self.architecture.noise_schedule)
        alpha = float(schedule.alphas_cumprod[self._solver.timesteps[0]])
        return alpha**0.5 * source + (1 - alpha) ** 0.5 * noise

    @computes
    def encode(
        self, images: UInt8[Tensor, "batch image_height image_width 3"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Encode images to latents as the UNet was trained on them, some at a time."""
        encoded = decode_in_parts(
            lambda part: self._autoencoder.encode(from_uint8(part).to(self._dtype)),
            images,
            self.image_size,
        )
        return encoded * self.architecture.scale_factor

    @computes
    def decode(
        self, latents: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode latents to images, nominally in -1..1, some at a time."""
        latents = latents / self.architecture.scale_factor
        if isinstance(self._autoencoder, VqAutoencoder):
            nearest, decode_ids = self._autoencoder.quantize.nearest, self._decoder
            return decode_in_parts(
                lambda part: decode_ids(nearest(part)), latents, self.image_size, self._compile
            )
        return decode_in_parts(
            self._decoder, latents.to(self._dtype), self.image_size, self._compile
        )

    def _last_of_decoding(self) -> Callable[[Tensor], Tensor]:
        """Give what is the same for all latents, and can be compiled.

        Looking for code words is not: it goes by the number of latents, and in float32.
        """
        if isinstance(self._autoencoder, VqAutoencoder):
            return self._autoencoder.decode_ids
        return self._autoencoder.decode

    def work_of(
        self, context: Float[Tensor, "1 entry dim"], count: Callable[[Callable[[], object]], float]
    ) -> float:
        """Sum up the evaluations of the UNet and the decoder; see ``NetworkHead``."""
        evaluated: list[int] = []

        def predict(x: Tensor, step: int) -> Tensor:
            evaluated.append(step)
            return x

        one = torch.zeros(1)
        self._solver.sample(predict, one, lambda _: one)
        latents = torch.zeros(1, *self.architecture.latent_shape, device=self._device)
        source = latents if self.architecture.edits else None
        predictors: list[Predict] = []
        work = count(lambda: predictors.append(self._predictor(context, source)))
        kinds = tuple(zip(self._evaluations.guided, self._evaluations.whole, strict=True))
        counted = {
            kinds[step]: count(partial(predictors[0], latents, step))
            for step in self._evaluations.kinds()
        }
        work += sum(counted[kinds[step]] for step in evaluated)
        if self._edit is not None:
            size = self.image_size
            images = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=self._device)
            work += count(lambda: self.encode(images))
        return work + count(lambda: self.decode(latents))

    @computes
    def _repeat_once(self, context: Float[Tensor, "batch k_nn dim"]) -> None:
        """Predict the noise in latents in every way steps do, and decode; see ``NetworkHead``."""
        x = torch.zeros(len(context), *self.architecture.latent_shape, device=self._device)
        x = x.contiguous(memory_format=torch.channels_last)
        predict = self._predictor(context, x if self.architecture.edits else None)
        for step in self._evaluations.kinds():
            predict(x, step)
        self.decode(x)

    def _predictor(
        self,
        context: Float[Tensor, "batch k_nn dim"],
        source: Float[Tensor, "batch channel height width"] | None = None,
    ) -> Predict:
        given = context.to(self._device, self._dtype)
        shown = None if source is None else source.to(self._device, self._dtype)
        own = self._steps.begin(given, self._guided, shown)
        guided = self._evaluations.guided
        if self._weaker is None or self._weaker_steps is None:
            return lambda x, step: self._guide(own(x.to(self._dtype), step), guided[step])
        scale = self._weaker.scale
        if self._weaker.networks.architecture.parametric:
            given = upload(no_context(len(context), self.context_dim), self._device)
            given = given.to(self._dtype)
        sees = self._weaker.networks.architecture.edits
        weaker = self._weaker_steps.begin(given, False, shown if sees else None)

        def predict(x: Tensor, step: int) -> Tensor:
            rows = x.to(self._dtype)
            better = self._guide(own(rows, step))
            return guide_away(better, weaker(rows, step), scale) if guided[step] else better

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
