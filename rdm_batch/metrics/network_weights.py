"""Weights files of feature networks: where people get them, and how they are read safely."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from rdm_batch.errors import CheckpointError, MetricError
from rdm_batch.formats.weights_file import open_weights


@dataclass(frozen=True)
class PublishedWeights:
    """Say where the weights of a network come from.

    Args:
        url: Where people download them.
        sha256_prefix: First digits of the file's SHA-256, as its publisher names it. Empty
            when the publisher names none.
    """

    url: str
    sha256_prefix: str

    @property
    def file_name(self) -> str:
        """Return the published file name."""
        return self.url.rpartition("/")[2]


_DINO_URL = "https://dl.fbaipublicfiles.com/dinov2/dinov2_{0}/dinov2_{0}_pretrain.pth"

PUBLISHED: Final = {
    "inception-v3-compat": PublishedWeights(
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
        "weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
    ),
    "vgg16": PublishedWeights("https://download.pytorch.org/models/vgg16-397923af.pth", "397923af"),
    "dinov2-vit-s-14": PublishedWeights(_DINO_URL.format("vits14"), ""),
    "dinov2-vit-b-14": PublishedWeights(_DINO_URL.format("vitb14"), ""),
    "dinov2-vit-l-14": PublishedWeights(_DINO_URL.format("vitl14"), ""),
    "dinov2-vit-g-14": PublishedWeights(_DINO_URL.format("vitg14"), ""),
}


def require_weights(name: str, path: Path | None) -> Path:
    """Return the weights file of a network.

    Args:
        name: A network of ``PUBLISHED``.
        path: Local file. None when the user named none.

    Raises:
        MetricError: There is no such file; names it, its digest and where people get it.
    """
    if path is not None and path.is_file():
        return path
    raise missing_weights(
        name, "no weights file is named" if path is None else f"{path} does not exist"
    )


def missing_weights(name: str, found: str) -> MetricError:
    """Make the error for weights that are not there: which file, its digest, where people get it.

    Args:
        name: A network of ``PUBLISHED``.
        found: What is there instead.
    """
    published = PUBLISHED[name]
    digest = f" (SHA-256 begins {published.sha256_prefix})" if published.sha256_prefix else ""
    return MetricError(
        f"extractor {name}",
        found,
        f"{published.file_name}{digest}",
        f"people download it from {published.url}; name the local or s3:// copy as the "
        "extractor's weights",
    )


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from safetensors or a ``torch.save`` file; no code in it runs.

    Raises:
        MetricError: The file is damaged, or holds something other than tensors.
    """
    try:
        return open_weights(path).read_all()
    except CheckpointError as error:
        raise MetricError(
            str(path),
            f"not readable as weights: {error.found}",
            "a state dict, as safetensors or by torch.save",
        ) from None


def as_trusted_file(state: Mapping[str, Tensor]) -> io.BytesIO:
    """Write tensors to memory, for a library that reads its weights without precautions."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    buffer.seek(0)
    return buffer
