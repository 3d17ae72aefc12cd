from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16
from torchvision.models import vgg16

from rdm_batch.errors import MetricError
from rdm_batch.metrics.features import ExtractorDescription, FeatureExtractor
from rdm_batch.metrics.network_weights import as_trusted_file
from rdm_batch.metrics.networks import (
    NETWORK_NAMES,
    Dinov2Features,
    InceptionFeatures,
    NetworkExtractor,
    Vgg16Features,
    describe_network,
    load_network_extractor,
)
from tests.compare import relative_error
from tests.metrics.random_networks import write_inception
from tests.tolerances import NETWORK_REL


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    write_inception(path)
    return path


def _images(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def _describe(name: str, layers: dict[str, int]) -> ExtractorDescription:
    return ExtractorDescription(
        name=name, digest="0" * 64, image_size=224, resize="tensorflow-bilinear", layers=layers
    )


def test_spatial_features_are_the_first_branch_by_row_column_channel(inception: Path) -> None:
    extractor = load_network_extractor("inception-v3-compat", inception)
    assert isinstance(extractor, FeatureExtractor)
    recorded: list[Tensor] = []
    network = extractor._network
    assert isinstance(network, InceptionFeatures)
    block = network._stem[-1]
    block.branch1x1.register_forward_hook(lambda _module, _args, output: recorded.append(output))
    features = extractor.extract(_images(2, 24))
    assert {name: rows.shape[1] for name, rows in features.items()} == (
        extractor.description.layers
    )
    spatial = features["spatial"].reshape(2, 17, 17, 7)
    np.testing.assert_array_equal(spatial, recorded[0][:, :7].permute(0, 2, 3, 1).numpy())


def test_resize_and_weights_are_part_of_the_digest(inception: Path, tmp_path: Path) -> None:
    legacy = describe_network("inception-v3-compat", inception)
    clean = describe_network("inception-v3-compat", inception, "clean-bicubic")
    other = tmp_path / "other.pth"
    other.write_bytes(inception.read_bytes() + b"\0")
    assert (legacy.resize, clean.resize) == ("tensorflow-bilinear", "clean-bicubic")
    digests = {d.digest for d in (legacy, clean, describe_network("inception-v3-compat", other))}
    assert len(digests) == 3


def test_vgg16_features_equal_torch_fidelity() -> None:
    state = vgg16(weights=None, init_weights=False).state_dict()
    images = _images(2, 40)
    theirs = FeatureExtractorVGG16(
        "vgg16", ["fc2_relu"], feature_extractor_weights_path=as_trusted_file(state)
    )(torch.from_numpy(images).permute(0, 3, 1, 2))[0]
    description = _describe("vgg16", Vgg16Features.LAYERS)
    ours = NetworkExtractor(description, Vgg16Features(state)).extract(images)["fc2_relu"]
    assert relative_error(ours, theirs) < NETWORK_REL


def test_dinov2_equals_the_plain_computation() -> None:
    state = _random_dinov2(width=384, depth=12, seed=0)
    images = _images(2, 50)
    description = _describe("dinov2-vit-s-14", {"dinov2": 384})
    extractor = NetworkExtractor(description, Dinov2Features("dinov2-vit-s-14", state))
    recorded: list[Tensor] = []
    extractor._network.register_forward_pre_hook(lambda _, args: recorded.append(args[0]))
    ours = extractor.extract(images)["dinov2"]
    assert relative_error(ours, _plain_dinov2(state, recorded[0], heads=6)) < NETWORK_REL


def _random_dinov2(width: int, depth: int, seed: int) -> dict[str, Tensor]:
    """Make the tensors of a published DINOv2 file, with their names."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float = 0.02) -> Tensor:
        return std * torch.randn(shape, generator=generator)

    state = {
        "cls_token": normal(1, 1, width),
        "pos_embed": normal(1, 1 + 37 * 37, width, std=0.5),
        "mask_token": normal(1, width),
        "patch_embed.proj.weight": normal(width, 3, 14, 14),
        "patch_embed.proj.bias": normal(width),
        "norm.weight": 1 + normal(width),
        "norm.bias": normal(width),
    }
    for block in range(depth):
        for name, shape in {
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
            "norm1.bias": (width,),
            "norm2.bias": (width,),
        }.items():
            state[f"blocks.{block}.{name}"] = normal(*shape, std=0.05)
        for name in ("norm1.weight", "norm2.weight", "ls1.gamma", "ls2.gamma"):
            state[f"blocks.{block}.{name}"] = 1 + normal(width, std=0.1)
    return state


def _plain_dinov2(state: dict[str, Tensor], pixels: Tensor, heads: int) -> Tensor:
    """Follow the published architecture step by step."""
    scale = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    x = (pixels / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / scale
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14)
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x.flatten(2).transpose(1, 2)], 1)
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=16.1 / 37, mode="bicubic")
    x = x + torch.cat([state["pos_embed"][:, :1], grid.flatten(2).transpose(1, 2)], 1)
    width = x.shape[2]

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.layer_norm(x, (width,), weight, bias, eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    for index in range(12):
        block = f"blocks.{index}"
        qkv = linear(norm(x, f"{block}.norm1"), f"{block}.attn.qkv")
        q, k, v = qkv.reshape(*x.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(2, 3) / (width // heads) ** 0.5).softmax(-1)
        mixed = (weights @ v).transpose(1, 2).flatten(2)
        x = x + state[f"{block}.ls1.gamma"] * linear(mixed, f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + state[f"{block}.ls2.gamma"] * linear(hidden, f"{block}.mlp.fc2")
    return norm(x, "norm")[:, 0]


@pytest.mark.parametrize("name", NETWORK_NAMES)
def test_missing_weights_say_which_file_and_where_people_get_it(name: str, tmp_path: Path) -> None:
    for path in (None, tmp_path / "absent.pth"):
        with pytest.raises(MetricError, match=f"extractor {name}: .*people download it from http"):
            load_network_extractor(name, path)


def test_missing_inception_names_its_digest() -> None:
    with pytest.raises(MetricError, match=r"inception-2015-12-05-6726825d\.pth \(SHA-256 begins"):
        load_network_extractor("inception-v3-compat", None)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, path)
    for name in NETWORK_NAMES[:3]:
        with pytest.raises(MetricError, match=f"not the weights of {name}"):
            load_network_extractor(name, path)


class _Touch:
    """Leave a file behind when unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self._path,))


def test_code_in_a_weights_file_never_runs(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    plain, zipped = tmp_path / "plain.pth", tmp_path / "zipped.pth"
    plain.write_bytes(pickle.dumps(_Touch(trace), protocol=2))
    torch.save({"weight": _Touch(trace)}, zipped)
    for path in (plain, zipped):
        with pytest.raises(MetricError, match="not readable as weights"):
            load_network_extractor("inception-v3-compat", path)
    assert not trace.exists()


def test_tensors_in_a_list_are_not_weights(tmp_path: Path) -> None:
    path = tmp_path / "list.pth"
    torch.save([torch.zeros(3)], path)
    with pytest.raises(MetricError, match="holds a list; needed a state dict"):
        load_network_extractor("vgg16", path)
