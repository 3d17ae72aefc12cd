"""The networks of one head together, under the names its weights file uses."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final, cast

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor, nn

from rdm_batch.formats.weights_file import WeightsFile
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder, build_autoencoder
from rdm_batch.models.code_transformer import CodeTransformer
from rdm_batch.models.query_unet import QueryUNet
from rdm_batch.models.transformer import CausalTransformer
from rdm_batch.models.unet import UNet
from rdm_batch.specs.families import (
    Architecture,
    KnnDiscreteArchitecture,
    RarmArchitecture,
    RdmArchitecture,
)

SCHEDULE_TOLERANCE: Final = 1e-5
"""Relative; published files hold the betas in float32, which rounds by 6e-8."""


class HeadNetworks(nn.Module):
    """Hold the networks of a head; the state dict is the file format."""

    architecture: Architecture

    @staticmethod
    @abstractmethod
    def content_problems(file: WeightsFile, architecture: Any) -> list[str]:
        """Compare the small tensors that say what the weights were trained for.

        Args:
            file: Weights whose names and shapes fit.
            architecture: The family's.
        """


class RdmNetworks(HeadNetworks):
    """Hold UNet and autoencoder of a diffusion head.

    Args:
        architecture: Sizes of both.
    """

    architecture: RdmArchitecture
    _unet_class: ClassVar[type[UNet]] = UNet

    def __init__(self, architecture: RdmArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.model = nn.ModuleDict({"diffusion_model": self._unet_class(architecture.unet)})
        self.first_stage_model = build_autoencoder(architecture.autoencoder)

    @property
    def unet(self) -> UNet:
        """The noise-predicting network."""
        return cast(UNet, self.model["diffusion_model"])

    @property
    def autoencoder(self) -> VqAutoencoder | KlAutoencoder:
        """The first stage."""
        return self.first_stage_model

    @staticmethod
    def content_problems(file: WeightsFile, architecture: RdmArchitecture) -> list[str]:
        """Compare the noise schedule, where the file has it."""
        betas = np.array(architecture.noise_schedule.betas())
        wanted = {"betas": betas, "alphas_cumprod": np.cumprod(1 - betas)}
        problems = [
            _schedule_problem(file, name, values)
            for name, values in wanted.items()
            if name in file.entries
        ]
        return [problem for problem in problems if problem]


def _schedule_problem(file: WeightsFile, name: str, wanted: Float64[np.ndarray, " steps"]) -> str:
    """Say how a schedule in a file differs, number by number; nothing when it does not."""
    shape, needed = file.entries[name].shape, f"the architecture has {len(wanted)} steps"
    if shape != wanted.shape:
        return f"the noise schedule in the file has {name} of shape {list(shape)}; {needed}"
    found = file.read(name).double().numpy()
    wrong = ~np.isclose(found, wanted, rtol=SCHEDULE_TOLERANCE, atol=0)  # NaN fits nothing
    if not wrong.any():
        return ""
    step = int(np.flatnonzero(wrong)[0])
    return (
        f"the noise schedule in the file has {len(found)} steps with {name} {found[0]:.6g} to "
        f"{found[-1]:.6g}; {needed} with {wanted[0]:.6g} to {wanted[-1]:.6g}; they differ in "
        f"{int(wrong.sum()):,} steps, first in step {step} ({found[step]:.6g}, {wanted[step]:.6g})"
    )


class KnnContinuousNetworks(RdmNetworks):
    """Hold UNet and autoencoder of a KNN-Diffusion head over latents."""

    _unet_class: ClassVar[type[UNet]] = QueryUNet

    @property
    def unet(self) -> QueryUNet:
        """The noise-predicting network."""
        return cast(QueryUNet, self.model["diffusion_model"])


class RarmNetworks(HeadNetworks):
    """Hold transformer and autoencoder of an autoregressive head.

    Args:
        architecture: Sizes of both.
    """

    architecture: RarmArchitecture

    def __init__(self, architecture: RarmArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.transformer = CausalTransformer(architecture.transformer)
        self.first_stage_model = VqAutoencoder(architecture.autoencoder)

    @property
    def autoencoder(self) -> VqAutoencoder:
        """The first stage."""
        return self.first_stage_model

    @staticmethod
    def content_problems(file: WeightsFile, architecture: RarmArchitecture) -> list[str]:
        """Compare the token every sequence starts with, where the file has it."""
        if "sos_token" not in file.entries:
            return []
        entry = file.entries["sos_token"]
        if math.prod(entry.shape) != 1 or entry.dtype.is_floating_point:
            shape = list(entry.shape)
            return [f"start_token is {entry.dtype} of shape {shape} in the file, not one integer"]
        start_token = int(file.read("sos_token"))
        if start_token == architecture.start_token:
            return []
        return [f"start_token is {start_token} in the file, {architecture.start_token} here"]


class KnnDiscreteNetworks(HeadNetworks):
    """Hold transformer and autoencoder of a KNN-Diffusion head over codes.

    Args:
        architecture: Sizes of both.
    """

    architecture: KnnDiscreteArchitecture

    def __init__(self, architecture: KnnDiscreteArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.transformer = CodeTransformer(architecture.transformer)
        self.first_stage_model = VqAutoencoder(architecture.autoencoder)

    @property
    def autoencoder(self) -> VqAutoencoder:
        """The first stage."""
        return self.first_stage_model

    @staticmethod
    def content_problems(file: WeightsFile, architecture: KnnDiscreteArchitecture) -> list[str]:
        """Find nothing to compare: the forward process is in the architecture alone."""
        return []


NETWORKS: Final[dict[str, type[HeadNetworks]]] = {
    "rdm": RdmNetworks,
    "rarm": RarmNetworks,
    "knn_discrete": KnnDiscreteNetworks,
    "knn_continuous": KnnContinuousNetworks,
}
"""The networks of every family that has some; see ``specs.families``."""


def build_networks(architecture: Architecture) -> HeadNetworks:
    """Build the networks of a head, with new weights."""
    return NETWORKS[architecture.kind](architecture)


def load_networks(architecture: Architecture, state_dict: Mapping[str, Tensor]) -> HeadNetworks:
    """Build the networks of a head around given tensors, without copying them.

    Args:
        architecture: Sizes of the networks.
        state_dict: Tensors as ``tensor_shapes`` names them.
    """
    with torch.device("meta"):
        networks = build_networks(architecture)
    networks.load_state_dict(state_dict, assign=True)
    return networks


@lru_cache(maxsize=16)
def tensor_shapes(architecture: Architecture) -> Mapping[str, tuple[int, ...]]:
    """Give the name and shape of every tensor of a head's weights, allocating none."""
    with torch.device("meta"):
        networks = build_networks(architecture)
    return {name: tuple(tensor.shape) for name, tensor in networks.state_dict().items()}
