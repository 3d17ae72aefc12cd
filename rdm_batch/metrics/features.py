"""Feature extractors and the features they leave behind."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from pydantic import BaseModel, ConfigDict

from rdm_batch.errors import MetricError
from rdm_batch.metrics.moments import require_finite
from rdm_batch.metrics.npz import check_array, read_npz, stored_fields, write_npz

_FORMAT = "rdm_batch features 1"
_LAYER = "layer."


class ExtractorDescription(BaseModel):
    """Describe a feature extractor completely enough to tell whether features compare.

    Args:
        name: What people call it, e.g. ``inception-v3-compat``.
        digest: SHA-256 of weights and configuration.
        image_size: Side, in pixels, of what the network sees.
        resize: Named way images get there, filter included, e.g. ``tensorflow-bilinear``.
        layers: Feature layers and their widths.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    image_size: int
    resize: str
    layers: dict[str, int]


@runtime_checkable
class FeatureExtractor(Protocol):
    """Turn images into features, layer by layer."""

    @property
    def description(self) -> ExtractorDescription:
        """Return what the features depend on."""

    def extract(
        self, images: UInt8[np.ndarray, "n height width 3"]
    ) -> dict[str, Float32[np.ndarray, "n _"]]:
        """Compute one row per image for every layer; a row never depends on its batch."""


@runtime_checkable
class ImageEncoder(Protocol):
    """What an image-text encoder offers to feature extraction."""

    name: str
    digest: str
    dim: int
    image_size: int

    def encode_images(
        self, images: Sequence[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Float32[np.ndarray, "n dim"]:
        """Compute one embedding per image, not normalized."""


class EncoderFeatures:
    """Offer an image-text encoder (CLIP) as a feature extractor with the layer ``embedding``.

    Args:
        encoder: The encoder; its own preprocessing, part of its digest, applies.
    """

    LAYER = "embedding"

    def __init__(self, encoder: ImageEncoder) -> None:
        self.encoder = encoder
        self._description = ExtractorDescription(
            name=encoder.name,
            digest=encoder.digest,
            image_size=encoder.image_size,
            resize="encoder preprocessing",
            layers={self.LAYER: encoder.dim},
        )

    @property
    def description(self) -> ExtractorDescription:
        """Return what the features depend on."""
        return self._description

    def extract(
        self, images: UInt8[np.ndarray, "n height width 3"]
    ) -> dict[str, Float32[np.ndarray, "n _"]]:
        """Compute one embedding per image."""
        return {self.LAYER: self.encoder.encode_images(list(images))}


@dataclass(frozen=True)
class FeatureSet:
    """Hold the features of an image set and what they are.

    Args:
        extractor: What computed them.
        ids: Sample index, or position in the source, of each row.
        layers: Features by layer; some or all of the extractor's.
        source: Where the images came from, for messages.
        images: How images of any size were brought to one; None where they were taken as they are.
    """

    extractor: ExtractorDescription
    ids: Int64[np.ndarray, " n"]
    layers: dict[str, Float32[np.ndarray, "_ _"]]
    source: str
    images: str | None = None

    def __post_init__(self) -> None:
        """Check shapes and values.

        Raises:
            MetricError: A layer or its width is not in the description, row counts differ, an
                id occurs twice, or a value is not finite.
        """
        widths = {name: features.shape[1] for name, features in self.layers.items()}
        if not widths.items() <= self.extractor.layers.items():
            raise MetricError(self.source, f"feature layers {widths}", f"{self.extractor.layers}")
        unique, counts = np.unique(self.ids, return_counts=True)
        if len(unique) != len(self.ids):
            raise MetricError(
                self.source,
                f"{len(self.ids) - len(unique):,} of {len(self.ids):,} samples are duplicates, "
                f"sample {unique[counts > 1][0]} first",
                "each sample once",
            )
        for name, features in self.layers.items():
            if len(features) != len(self.ids):
                raise MetricError(
                    self.source,
                    f"{len(features):,} rows in layer {name}",
                    f"{len(self.ids):,}, one per sample",
                )
            require_finite(f"{self.source}, layer {name}", features)

    def __len__(self) -> int:
        return len(self.ids)

    def layer(self, name: str) -> Float32[np.ndarray, "n _"]:
        """Return one layer.

        Raises:
            MetricError: There is no such layer.
        """
        if name not in self.layers:
            raise MetricError(
                self.source, f"no feature layer {name!r}", f"one of {sorted(self.layers)}"
            )
        return self.layers[name]

    @classmethod
    def concatenate(cls, parts: Sequence[FeatureSet], source: str) -> FeatureSet:
        """Join parts, rows ordered by id whatever the order of the parts.

        Raises:
            MetricError: There are no parts, extractors differ or an id occurs twice.
        """
        if not parts:
            raise MetricError(source, "no features", "at least one part")
        digests = sorted({part.extractor.digest for part in parts})
        if len(digests) > 1:
            raise MetricError(
                source, f"features of {len(digests)} extractors ({digests})", "one extractor"
            )
        ids = np.concatenate([part.ids for part in parts])
        order = np.argsort(ids, kind="stable")
        layers = {
            name: np.concatenate([part.layers[name] for part in parts])[order]
            for name in parts[0].layers
        }
        return cls(parts[0].extractor, ids[order], layers, source)

    def save(self, path: Path) -> None:
        """Write one ``.npz`` without pickles."""
        arrays = {f"{_LAYER}{name}": features for name, features in self.layers.items()}
        header = {"extractor": self.extractor.model_dump(), "source": self.source}
        write_npz(path, _FORMAT, header, {"ids": self.ids} | arrays)

    @classmethod
    def load(cls, path: Path, without: Collection[str] = ()) -> FeatureSet:
        """Read what ``save`` wrote.

        Args:
            path: The file.
            without: Layers that are not read.

        Raises:
            MetricError: The file is missing, damaged or something else.
        """

        def wanted(name: str) -> bool:
            return name.removeprefix(_LAYER) not in without

        action = "delete it to have the features computed again"
        header, arrays = read_npz(path, _FORMAT, action, wanted)
        found = {
            name.removeprefix(_LAYER): array
            for name, array in arrays.items()
            if name.startswith(_LAYER)
        }
        with stored_fields(path, action):
            extractor = ExtractorDescription.model_validate(header["extractor"])
            ids = arrays["ids"]
            check_array("ids", ids, (len(ids),))
            for name, rows in found.items():
                check_array(name, rows, (len(ids), extractor.layers[name]))
            return cls(extractor, ids, found, str(header["source"]))
