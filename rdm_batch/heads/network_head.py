"""What heads with networks have in common."""

from __future__ import annotations

import copy
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from rdm_batch.backends import multiplying
from rdm_batch.heads.arithmetic import check_precision, recording_graphs, torch_dtype
from rdm_batch.heads.decode import not_finite
from rdm_batch.heads.drawing import Canvas, Drawing
from rdm_batch.heads.head import HowDrawn, check_context, no_context
from rdm_batch.heads.kept_code import seal_kept_code, use_kept_code
from rdm_batch.heads.prefetch import CudaLanes, Fill, NumbersAhead
from rdm_batch.models.codebook import Codebook
from rdm_batch.models.filtering import filter_convolutions
from rdm_batch.models.packed import can_pack, pack_linears
from rdm_batch.models.pixels import to_uint8
from rdm_batch.sampling.guidance import check_guidance_scale, guide
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.precisions import PRECISIONS, Precision
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.transfers import upload

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")
_Self = TypeVar("_Self", bound="NetworkHead")


def computes(
    method: Callable[Concatenate[_Self, _Arguments], _Result],
) -> Callable[Concatenate[_Self, _Arguments], _Result]:
    """Run a method of a head in its named arithmetic, whatever the process has set."""

    @functools.wraps(method)
    def run(self: _Self, /, *args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        with torch.inference_mode(), multiplying(PRECISIONS[self.precision].tf32):
            return method(self, *args, **kwargs)

    return run


class NetworkHead(ABC):
    """Hold a head's sizes, and where and how its networks compute.

    Args:
        architecture: Sizes of the networks.
        guidance_scale: 1 is none; above, predictions are guided away from an all-zero
            context's.
        device: Where to compute.
        precision: Arithmetic of the networks.
        compile: Whether what is repeated is compiled.

    Raises:
        SpecError: The guidance scale is below 1, or the device has no such arithmetic.

    Attributes:
        precision: Arithmetic of the networks.
        fixed_batches: Whether every batch must have the same shape.
    """

    @staticmethod
    @abstractmethod
    def sampler_of(architecture: Any, sampling: SamplingSpec) -> Any:
        """Build what draws the head's samples: the cheap part, checked before weights are read.

        Raises:
            SpecError: The sampler does not drive this kind of head, or a setting is out of
                range.
        """

    @classmethod
    def build(
        cls,
        networks: Any,
        sampling: SamplingSpec,
        device: torch.device | str,
        precision: Precision,
        compile: bool,
    ) -> NetworkHead:
        """Build the head around networks of its family, which it takes over.

        Raises:
            SpecError: As ``sampler_of``, or the device has no such arithmetic.
        """
        # Every family's head is made from its networks and from what draws its samples.
        make: Callable[..., NetworkHead] = cls
        sampler = cls.sampler_of(networks.architecture, sampling)
        return make(networks, sampler, sampling.guidance_scale, device, precision, compile)

    def __init__(
        self,
        architecture: Architecture,
        guidance_scale: float,
        device: torch.device | str,
        precision: Precision,
        compile: bool,
    ) -> None:
        self.image_size = architecture.image_size
        self.context_dim = architecture.context_dim
        self._guidance_scale = guidance_scale
        self._guided = check_guidance_scale(guidance_scale)
        self._device = torch.device(device)
        check_precision(precision, self._device.type)
        self.precision = precision
        self._dtype = torch_dtype(precision)
        self._compile = compile
        self._parametric = architecture.parametric
        self._drawer: ThreadPoolExecutor | None = None
        # Another shape would be compiled again, and other kernels add up in another order. On
        # CPU it costs more than it is worth, and bytes stay what they were.
        self.fixed_batches = compile or self._device.type == "cuda"

    def generate(
        self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Generate one image for every sample; see ``Head``.

        Raises:
            RdmBatchError: As ``start``, and what is known only at the end on a GPU.
        """
        return self.start(context, noise).collect()

    @computes
    def start(self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise) -> Drawing:
        """Begin to generate one image for every sample; see ``Head``.

        Raises:
            DatabaseError: The context does not fit the head or is not finite.
            CheckpointError: On a CPU, what is drawn became infinite or NaN, saying for which
                sample and when. On a GPU collecting raises it.
        """
        check_context(context, noise, self.context_dim)
        canvas = Canvas(self._device)
        given = upload(self._seen(context), self._device)
        return self._deliver(self._draw(given, noise, canvas), noise, canvas)

    def _deliver(
        self, images: Float[Tensor, "batch 3 height width"], noise: SampleNoise, canvas: Canvas
    ) -> Drawing:
        """Check what was drawn, and send it on its way."""
        failed = ~torch.isfinite(images).flatten(1).all(dim=1)
        canvas.check(
            failed,
            lambda failed: not_finite(failed, "decoded image is not finite", noise, self.precision),
        )
        return canvas.deliver(to_uint8(images))

    @abstractmethod
    def _draw(
        self, context: Float[Tensor, "batch k_nn dim"], noise: SampleNoise, canvas: Canvas
    ) -> Float[Tensor, "batch 3 height width"]:
        """Draw images, nominally in -1..1.

        On a GPU nothing in here may wait for it: what can go wrong is left to ``canvas``.

        Args:
            context: What the networks see, where the head computes.
            noise: The samples' noise.
            canvas: Is told of samples that failed.
        """

    def _numbers_of(
        self,
        fill: Fill,
        num_steps: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
    ) -> Callable[[int], Tensor]:
        """Give the numbers of a step where the head computes; on a GPU drawn ahead of it.

        Args:
            fill: Draws them.
            num_steps: Steps of the batch.
            shape: Of a step's numbers.
            dtype: Theirs.
        """
        if self._device.type == "cuda":
            if self._drawer is None:
                self._drawer = ThreadPoolExecutor(1, thread_name_prefix="noise")
                self._lanes = CudaLanes(self._device)
            return NumbersAhead(fill, num_steps, shape, dtype, self._lanes, self._drawer)

        def numbers(step: int) -> Tensor:
            drawn = torch.empty(shape, dtype=dtype)
            fill(step, drawn.numpy())
            return drawn

        return numbers

    def warm_up(self, context: Float32[np.ndarray, "batch k_nn dim"]) -> None:
        """Compile, and record, what is repeated; see ``Head``.

        Raises:
            SpecError: It cannot be recorded.
        """
        if self._compile:
            with recording_graphs(self._device):
                # A graph is recorded the second time, and first replayed the third.
                for _ in range(3 if self._device.type == "cuda" else 1):
                    self._repeat_once(torch.from_numpy(self._seen(context)))
            seal_kept_code(use_kept_code())

    def _seen(
        self, context: Float32[np.ndarray, "batch k_nn dim"]
    ) -> Float32[np.ndarray, "batch _ dim"]:
        """Give what the networks see of a context."""
        return no_context(len(context), self.context_dim) if self._parametric else context

    @classmethod
    def prepare(
        cls,
        networks: Any,
        weaker: Any,
        how: HowDrawn,
        device: torch.device | str,
        precision: Precision,
    ) -> Any:
        """Compute what ``beside`` needs of networks that no head has taken over yet.

        Args:
            networks: Moved to the device, and left in float32.
            weaker: Those of the head that is guided away from. None without.
            how: How the further head draws.
            device: Where it computes.
            precision: Its arithmetic.
        """
        return None

    def beside(self: _Self, how: HowDrawn, prepared: Any) -> _Self:
        """Give a head around the same networks that draws otherwise.

        It draws what a head of its own would. Both are entered by one thread.

        Args:
            how: How it draws.
            prepared: What ``prepare`` gave for it.

        Raises:
            SpecError: As ``build``.
        """
        head = copy.copy(self)
        head._guidance_scale = how.sampling.guidance_scale
        head._guided = check_guidance_scale(how.sampling.guidance_scale)
        head._drawer = None
        return head

    @abstractmethod
    def _repeat_once(self, context: Float[Tensor, "batch k_nn dim"]) -> None:
        """Call the network as every step, or token, does."""

    @abstractmethod
    def work_of(
        self, context: Float[Tensor, "1 entry dim"], count: Callable[[Callable[[], object]], float]
    ) -> float:
        """Sum up the work of drawing and decoding one sample, on the device of the head.

        Args:
            context: As stored.
            count: Gives the work of a computation. What is done many times alike is given once.
        """

    def _convert(self, networks: nn.Module) -> None:
        """Give networks the arithmetic of the head, and the layouts it is fastest in."""
        codebooks = [part for part in networks.modules() if isinstance(part, Codebook)]
        words = [codebook.embedding.weight.data for codebook in codebooks]
        networks.to(self._dtype).to(memory_format=torch.channels_last)
        # Rounded code words would be other words: they are looked for and up in float32.
        for codebook, exact in zip(codebooks, words, strict=True):
            codebook.embedding.weight.data = exact
        # A compiler packs weights itself.
        if self._device.type == "cpu" and not self._compile and can_pack(self._dtype):
            self._arrange(networks)

    def _arrange(self, networks: nn.Module) -> None:
        """Lay out weights as this CPU multiplies them fastest."""
        pack_linears(networks)
        if self._dtype == torch.float32:
            filter_convolutions(networks)

    def _guide(
        self, branches: Float[Tensor, " rows *rest"], guided: bool = True
    ) -> Float[Tensor, " samples *rest"]:
        """Turn what the network predicted, in one or two branches, into one prediction.

        It has memory of its own: solvers keep predictions over steps, and what a recorded
        graph returns is overwritten by its next call.

        Args:
            branches: What the network predicted.
            guided: Whether a guided head predicted in two branches here.
        """
        if self._guided and guided:
            return guide(branches.float(), self._guidance_scale)
        return branches.to(torch.float32, copy=True)
