"""What samples are judged against: saved features and moments of a reference set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from rdm_batch.errors import MetricError
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npz_file import open_npz
from rdm_batch.metrics.features import ExtractorDescription, FeatureSet
from rdm_batch.metrics.moments import GaussianStatistics, gaussian_statistics
from rdm_batch.metrics.npz import HEADER, check_array, read_npz, stored_fields, write_npz

_FORMAT = "rdm_batch reference 1"


@dataclass(frozen=True)
class ReferenceStatistics:
    """Hold reference features, moments, or both, and what they are.

    Args:
        extractor: What computed them.
        source: Where the images came from.
        moments: Mean and covariance by layer.
        features: Features by layer; empty when only moments were kept.
        digest: SHA-256 over the numbers; identifies the reference in a score.
        images: How images of any size were brought to one; None where they were taken as they are.
    """

    extractor: ExtractorDescription
    source: str
    moments: dict[str, GaussianStatistics]
    features: dict[str, Float32[np.ndarray, "n _"]]
    digest: str
    images: str | None = None

    @classmethod
    def from_features(cls, features: FeatureSet, keep_features: bool = True) -> ReferenceStatistics:
        """Build a reference from the features of its images.

        Args:
            features: Features of every reference image.
            keep_features: Whether to keep them beside the moments: needed for every score but FID
                and sFID.

        Raises:
            MetricError: Fewer than two images.
        """
        moments = {
            name: gaussian_statistics(rows, features.source)
            for name, rows in features.layers.items()
        }
        # The same images give the same digest whether or not their features are kept.
        digest = _digest(features.layers)
        kept = features.layers if keep_features else {}
        return cls(features.extractor, features.source, moments, kept, digest, features.images)

    def gaussian(self, layer: str) -> GaussianStatistics:
        """Return the moments of a layer.

        Raises:
            MetricError: They are not part of this reference.
        """
        if layer not in self.moments:
            raise MetricError(
                self.source,
                f"has no moments of layer {layer!r}",
                f"one of {sorted(self.moments)}",
            )
        return self.moments[layer]

    def rows(self, layer: str) -> Float32[np.ndarray, "n _"]:
        """Return the features of a layer.

        Raises:
            MetricError: They are not part of this reference.
        """
        if layer not in self.features:
            raise MetricError(
                self.source,
                f"holds no features of layer {layer!r}",
                "the features themselves for every score but fid and sfid",
                "name the images themselves, or statistics with their features kept",
            )
        return self.features[layer]

    def require_extractor(self, name: str, digest: str) -> None:
        """Refuse statistics of another extractor.

        Raises:
            MetricError: They are of another.
        """
        if self.extractor.digest != digest:
            raise MetricError(
                self.source,
                f"saved features are those of {self.extractor.name} "
                f"(digest {self.extractor.digest[:12]}), not of {name} (digest {digest[:12]})",
                "the same extractor, weights and resize",
                "name that extractor, or the images themselves",
            )

    def as_features(self) -> FeatureSet | None:
        """Return the features as those of a set to be judged; None when there are moments alone."""
        if not self.features:
            return None
        count = len(next(iter(self.features.values())))
        ids = np.arange(count)
        return FeatureSet(self.extractor, ids, self.features, self.source, self.images)

    def save(self, path: Path) -> None:
        """Write one ``.npz`` without pickles."""
        header: dict[str, Any] = {
            "extractor": self.extractor.model_dump(),
            "source": self.source,
            "digest": self.digest,
            "counts": {name: gaussian.count for name, gaussian in self.moments.items()},
        }
        if self.images is not None:
            header["images"] = self.images
        arrays: dict[str, np.ndarray] = {}
        for name, gaussian in self.moments.items():
            arrays[f"mean.{name}"] = gaussian.mean
            arrays[f"covariance.{name}"] = gaussian.covariance
        for name, rows in self.features.items():
            arrays[f"features.{name}"] = rows
        write_npz(path, _FORMAT, header, arrays)

    @classmethod
    def load(cls, path: Path) -> ReferenceStatistics:
        """Read what ``save`` wrote.

        Raises:
            MetricError: The file is missing, damaged or something else.
        """
        action = "build it with `rdm-batch reference build`"
        header, arrays = read_npz(path, _FORMAT, action)
        features = {
            name.removeprefix("features."): array
            for name, array in arrays.items()
            if name.startswith("features.")
        }
        with stored_fields(path, action):
            extractor = ExtractorDescription.model_validate(header["extractor"])
            moments = {}
            for name, count in header["counts"].items():
                width = extractor.layers[name]
                if count is not None and (type(count) is not int or count < 1):
                    raise FormatError(f"{name} is of {count!r} images")
                mean, covariance = arrays[f"mean.{name}"], arrays[f"covariance.{name}"]
                check_array(f"mean.{name}", mean, (width,))
                check_array(f"covariance.{name}", covariance, (width, width))
                moments[name] = GaussianStatistics(mean, covariance, count)
            for name, rows in features.items():
                check_array(name, rows, (len(rows), extractor.layers[name]))
            images = header.get("images")
            if images is not None and not isinstance(images, str):
                raise FormatError(f"images is {images!r}")
            source, digest = str(header["source"]), str(header["digest"])
            return cls(extractor, source, moments, features, digest, images)


def is_reference(path: Path) -> bool:
    """Say whether a file was written by ``ReferenceStatistics.save``, judging by its members."""
    try:
        with open_npz(path) as file:
            return HEADER in file.names
    except FormatError:
        return False


def _digest(layers: dict[str, Float32[np.ndarray, "n _"]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(layers):
        digest.update(f"{name} {layers[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(layers[name]).data)
    return digest.hexdigest()
