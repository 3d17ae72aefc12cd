"""What backends are told while something is computed, seen from inside of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rdm_batch.errors import SpecError
from rdm_batch.heads.build import build_head
from rdm_batch.metrics.features import ExtractorDescription
from rdm_batch.metrics.networks import NetworkExtractor
from rdm_batch.models.clip import load_encoder
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling, SamplingSpec
from tests.heads.pretend_cuda import convolution_backend
from tests.job_kit import write_encoder
from tests.tiny_heads import TINY_RARM, TINY_RDM, random_weights

DDIM = DdimSampling(sampler="ddim", num_samples=2, num_steps=2)
TOKENS = AutoregressiveSampling(sampler="autoregressive", num_samples=2)
IEEE = ("ieee", "ieee", True)
_MULTIPLY = {"conv2d", "linear", "matmul", "scaled_dot_product_attention"}


class Watch(TorchFunctionMode):
    """Collect how backends multiply whenever something is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[tuple[str, str, bool]] = set()

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if function.__name__ in _MULTIPLY:
            backends = torch.backends
            self.seen.add(
                (
                    backends.cuda.matmul.fp32_precision,
                    backends.cudnn.conv.fp32_precision,
                    backends.cudnn.enabled,
                )
            )
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    ("architecture", "sampling"), [(TINY_RDM, DDIM), (TINY_RARM, TOKENS)], ids=["rdm", "rarm"]
)
def test_heads_multiply_float32_as_ieee_says(
    architecture: Architecture, sampling: SamplingSpec, precision: Any
) -> None:
    with Watch() as watch:
        head = build_head(architecture, random_weights(architecture), sampling, "cpu", precision)
        head.generate(np.ones((2, 3, 6), np.float32), SampleNoise(0, np.arange(2)))
    assert watch.seen == {IEEE}


def test_tf32_is_refused_on_a_cpu() -> None:
    with pytest.raises(SpecError, match=r"model\.precision: is tf32, an arithmetic of NVIDIA GPUs"):
        build_head(TINY_RDM, random_weights(TINY_RDM), DDIM, "cpu", "tf32")


def test_float16_stays_close_to_float32() -> None:
    context, noise = np.ones((2, 3, 6), np.float32), SampleNoise(0, np.arange(2))
    exact, half = (
        build_head(TINY_RDM, random_weights(TINY_RDM), DDIM, "cpu", precision).generate(
            context, noise
        )
        for precision in ("float32", "float16")
    )
    assert np.abs(exact.astype(int) - half.astype(int)).mean() < 0.02 * exact.std()


class _Network(nn.Module):
    """Convolve, and note what would do it on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.backends: set[str] = set()

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        self.backends.add(convolution_backend())
        return {"layer": self.conv(pixels).mean((2, 3))}


def test_feature_networks_convolve_by_cudnn_as_ieee_says() -> None:
    network = _Network()
    description = ExtractorDescription(
        name="a", digest="0" * 64, image_size=8, resize="tensorflow-bilinear", layers={"layer": 2}
    )
    with Watch() as watch:
        NetworkExtractor(description, network).extract(np.zeros((2, 8, 8, 3), np.uint8))
    assert network.backends == {"Cudnn"}
    assert watch.seen == {IEEE}


def test_encoders_multiply_as_ieee_says(tmp_path: Path) -> None:
    encoder = load_encoder(write_encoder(tmp_path / "clip.safetensors"))
    for encode in (
        lambda: encoder.encode_images([np.zeros((32, 32, 3), np.uint8)]),
        lambda: encoder.encode_texts(["a red circle"]),
    ):
        with Watch() as watch:
            encode()
        assert watch.seen == {IEEE}
