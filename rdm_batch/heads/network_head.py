"""What heads with networks have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor, nn

from rdm_batch.heads.arithmetic import Precision, torch_dtype
from rdm_batch.heads.decode import finite_bytes
from rdm_batch.models.codebook import Codebook
from rdm_batch.models.packed import can_pack, pack_linears
from rdm_batch.sampling.guidance import check_guidance_scale, guide
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.sampling import SamplingSpec


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
        SpecError: The guidance scale is below 1.
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
    @abstractmethod
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
            SpecError: The sampler does not drive this kind of head, or a setting is out of
                range.
        """

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
        self._precision = precision
        self._dtype = torch_dtype(precision)
        self._compile = compile

    @abstractmethod
    def generate(
        self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Generate one image for every sample; see ``Head``."""

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
            pack_linears(networks)

    def _guide(self, branches: Float[Tensor, " rows *rest"]) -> Float[Tensor, " samples *rest"]:
        """Turn what the network predicted, in one or two branches, into one prediction."""
        branches = branches.float()
        return guide(branches, self._guidance_scale) if self._guided else branches

    def _finish(
        self, images: Float[Tensor, "batch 3 height width"], noise: SampleNoise
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        return finite_bytes(images, noise, self._precision)
