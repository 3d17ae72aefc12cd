"""Feature networks other than CLIP: Inception, VGG16 and DINOv2, from local weights.

The network definitions are torch-fidelity's and timm's; what is run here is the same
computation with batch normalization folded into the convolutions.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, UInt8
from torch import Tensor, nn

from rdm_batch.backends import multiplying
from rdm_batch.errors import MetricError
from rdm_batch.files import file_sha256
from rdm_batch.metrics.features import ExtractorDescription
from rdm_batch.metrics.network_weights import (
    as_trusted_file,
    read_state_dict,
    require_weights,
)
from rdm_batch.metrics.resize import RESIZE_NAMES, TENSORFLOW_BILINEAR, resize
from rdm_batch.specs.scores import LOGITS_LAYER, SPATIAL_LAYER
from rdm_batch.transfers import arrived, leave

_BATCH = 32
_BATCH_ON_GPU = 128
"""Larger batches keep a GPU busier."""
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_SPATIAL_CHANNELS: Final = 7
_DINOV2_GRID: Final = 224 // 14

DINOV2_NETWORKS: Final = {
    "dinov2-vit-s-14": ("vit_small_patch14_dinov2", 384),
    "dinov2-vit-b-14": ("vit_base_patch14_dinov2", 768),
    "dinov2-vit-l-14": ("vit_large_patch14_dinov2", 1024),
    "dinov2-vit-g-14": ("vit_giant_patch14_dinov2", 1536),
}
"""Names of torch-fidelity: timm's network of that name, and the width of its features."""
NETWORK_NAMES: Final = ("inception-v3-compat", "vgg16", *DINOV2_NETWORKS)


class NetworkExtractor:
    """Extract features with a network that takes resized pixels.

    Args:
        description: What the features depend on.
        network: Maps pixels on the scale of bytes to features by layer.
        device: Where to compute.
    """

    def __init__(
        self, description: ExtractorDescription, network: nn.Module, device: str = "cpu"
    ) -> None:
        self._description = description
        # Channels last: CPUs run these convolutions 1.4 times as fast.
        network.to(memory_format=torch.channels_last)
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        self._batch = _BATCH if torch.device(device).type == "cpu" else _BATCH_ON_GPU

    @property
    def description(self) -> ExtractorDescription:
        """Return what the features depend on."""
        return self._description

    def extract(
        self, images: UInt8[np.ndarray, "n height width 3"]
    ) -> dict[str, Float32[np.ndarray, "n _"]]:
        """Compute one row per image for every layer, in fixed batches and IEEE float32."""
        parts: dict[str, list[Tensor]] = {name: [] for name in self._description.layers}
        size, name = self._description.image_size, self._description.resize
        with torch.inference_mode(), multiplying():
            for start in range(0, len(images), self._batch):
                pixels = resize(images[start : start + self._batch], size, name, self._device)
                pixels = pixels.contiguous(memory_format=torch.channels_last)
                for layer, rows in self._network(pixels).items():
                    parts[layer].append(leave(rows.float()))
        # Once for all batches and layers: none of them is waited for.
        arrived(self._device)
        return {
            layer: np.concatenate([some.numpy() for some in rows]) for layer, rows in parts.items()
        }


class InceptionFeatures(nn.Module):
    """Compute the layers of ``inception-v3-compat`` that scores are taken on.

    ``2048`` and ``logits_unbiased`` are torch-fidelity's. ``spatial`` is what the ADM suite
    takes sFID on: the first seven channels of TensorFlow's ``mixed_6/conv``, which is the
    first branch of torchvision's ``Mixed_6d``, flattened by row, column, channel.

    Args:
        state: The published state dict.
    """

    LAYERS: Final = {"2048": 2048, LOGITS_LAYER: 1008, SPATIAL_LAYER: _SPATIAL_CHANNELS * 17 * 17}
    IMAGE_SIZE: Final = 299

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import (
            BasicConv2d,
            FeatureExtractorInceptionV3,
        )

        super().__init__()
        network: Any = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=as_trusted_file(state)
        )
        for module in network.modules():
            if isinstance(module, BasicConv2d):
                module.conv = nn.utils.fuse_conv_bn_eval(module.conv, module.bn)
                module.bn = nn.Identity()
        self._stem = nn.Sequential(
            *(network.Conv2d_1a_3x3, network.Conv2d_2a_3x3, network.Conv2d_2b_3x3),
            *(network.MaxPool_1, network.Conv2d_3b_1x1, network.Conv2d_4a_3x3),
            *(network.MaxPool_2, network.Mixed_5b, network.Mixed_5c, network.Mixed_5d),
            *(network.Mixed_6a, network.Mixed_6b, network.Mixed_6c, network.Mixed_6d),
        )
        self._top = nn.Sequential(
            *(network.Mixed_6e, network.Mixed_7a, network.Mixed_7b, network.Mixed_7c),
            *(network.AvgPool, nn.Flatten(1)),
        )
        self._logits = network.fc.weight

    def forward(self, pixels: Float32[Tensor, "n 3 299 299"]) -> dict[str, Tensor]:
        """Compute features of resized images."""
        middle = self._stem((pixels - 128) / 128)
        spatial = middle[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        pooled = self._top(middle)
        return {"2048": pooled, LOGITS_LAYER: pooled @ self._logits.T, SPATIAL_LAYER: spatial}


class Vgg16Features(nn.Module):
    """Compute ``fc2_relu`` of VGG16 (precision and recall were first computed on it).

    Args:
        state: torchvision's state dict.
    """

    LAYERS: Final = {"fc2_relu": 4096}
    IMAGE_SIZE: Final = 224

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        from torchvision.models import vgg16

        super().__init__()
        network = vgg16(weights=None, init_weights=False)
        network.load_state_dict(state)
        # Up to and with the second fully connected layer and its rectifier.
        network.classifier = network.classifier[:5]
        self._network = network

    def forward(self, pixels: Float32[Tensor, "n 3 224 224"]) -> dict[str, Tensor]:
        """Compute features of resized images."""
        return {"fc2_relu": self._network(_imagenet_scale(pixels))}


class Dinov2Features(nn.Module):
    """Compute the class token of DINOv2 (Oquab et al. 2023, arXiv:2304.07193).

    Args:
        name: One of ``DINOV2_NETWORKS``.
        state: The published state dict.
    """

    LAYER: Final = "dinov2"
    IMAGE_SIZE: Final = 224

    def __init__(self, name: str, state: Mapping[str, Tensor]) -> None:
        import timm

        super().__init__()
        self._network = timm.create_model(
            DINOV2_NETWORKS[name][0], img_size=self.IMAGE_SIZE, num_classes=0
        )
        self._network.load_state_dict(dinov2_state(state))

    def forward(self, pixels: Float32[Tensor, "n 3 224 224"]) -> dict[str, Tensor]:
        """Compute features of resized images."""
        return {self.LAYER: self._network(_imagenet_scale(pixels))}


def dinov2_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn the published state dict into timm's for images of 224 pixels.

    The position embedding of 37 x 37 patches is interpolated as the published code does it:
    bicubic, without antialiasing, by a factor a tenth of a patch too large.

    Raises:
        KeyError: A tensor is missing.
    """
    position = state["pos_embed"].float()
    side = math.isqrt(position.shape[1] - 1)
    grid = position[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if side != _DINOV2_GRID:
        factor = (_DINOV2_GRID + 0.1) / side
        grid = F.interpolate(grid, scale_factor=(factor, factor), mode="bicubic")
    patches = grid.permute(0, 2, 3, 1).flatten(1, 2)
    renamed = {
        # The giant network's gated layers have other names in timm.
        name.replace("mlp.w12.", "mlp.fc1.").replace("mlp.w3.", "mlp.fc2."): tensor
        for name, tensor in state.items()
        if name != "mask_token"
    }
    return renamed | {"pos_embed": torch.cat([position[:, :1], patches], dim=1)}


def describe_network(
    name: str, weights: Path | None, resize_name: str = TENSORFLOW_BILINEAR
) -> ExtractorDescription:
    """Describe an extractor without building it; arguments as ``load_network_extractor``."""
    if resize_name not in RESIZE_NAMES:
        raise MetricError(
            f"extractor {name}", f"no resize {resize_name!r}", f"one of {', '.join(RESIZE_NAMES)}"
        )
    sha256 = file_sha256(require_weights(name, weights))
    if name == "inception-v3-compat":
        size, layers = InceptionFeatures.IMAGE_SIZE, InceptionFeatures.LAYERS
    elif name == "vgg16":
        size, layers = Vgg16Features.IMAGE_SIZE, Vgg16Features.LAYERS
    else:
        size, layers = Dinov2Features.IMAGE_SIZE, {Dinov2Features.LAYER: DINOV2_NETWORKS[name][1]}
    identity = f"{name} {sha256} {resize_name} {size}"
    return ExtractorDescription(
        name=name,
        digest=hashlib.sha256(identity.encode()).hexdigest(),
        image_size=size,
        resize=resize_name,
        layers=layers,
    )


def load_network_extractor(
    name: str,
    weights: Path | None,
    resize_name: str = TENSORFLOW_BILINEAR,
    device: str = "cpu",
) -> NetworkExtractor:
    """Load Inception, VGG16 or DINOv2.

    Args:
        name: One of ``NETWORK_NAMES``.
        weights: Local file, as published or as safetensors. None says what is missing.
        resize_name: How images get to the size the network sees; one of ``RESIZE_NAMES``.
        device: Where to compute.

    Raises:
        MetricError: The weights are missing, unreadable or another network's, or there is no
            such resize.
    """
    description = describe_network(name, weights, resize_name)
    path = require_weights(name, weights)
    state = read_state_dict(path)
    try:
        network = _build(name, state)
    except (RuntimeError, KeyError) as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise MetricError(
            str(path), f"not the weights of {name} ({' '.join(lines)[:200]})", "its state dict"
        ) from error
    return NetworkExtractor(description, network, device)


def _build(name: str, state: Mapping[str, Tensor]) -> nn.Module:
    if name == "inception-v3-compat":
        return InceptionFeatures(state)
    if name == "vgg16":
        return Vgg16Features(state)
    return Dinov2Features(name, state)


def _imagenet_scale(pixels: Float32[Tensor, "n 3 h w"]) -> Float32[Tensor, "n 3 h w"]:
    mean, std = _imagenet_statistics(pixels.device)
    return (pixels - mean) / std


@cache
def _imagenet_statistics(device: torch.device) -> tuple[Tensor, Tensor]:
    """Give mean and standard deviation by channel, copied to a device once."""
    mean = 255 * torch.tensor(_IMAGENET_MEAN, device=device).view(3, 1, 1)
    std = 255 * torch.tensor(_IMAGENET_STD, device=device).view(3, 1, 1)
    return mean, std
