"""Files of the ADM evaluation suite (Dhariwal & Nichol 2021, arXiv:2105.05233).

Samples are one ``.npz`` with ``arr_0``: uint8, images by height by width by 3. A reference
may also hold ``mu, sigma`` (Inception's pooled features) and ``mu_s, sigma_s`` (its spatial
features) of a whole data set, of which ``arr_0`` is then a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from rdm_batch.errors import MetricError
from rdm_batch.files import file_sha256
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npz_file import NpzFile, open_npz
from rdm_batch.metrics.moments import GaussianStatistics
from rdm_batch.specs.scores import SPATIAL_LAYER

_IMAGES: Final = "arr_0"
_MAX_FEATURES: Final = 1 << 14
_LAYERS: Final = {"2048": ("mu", "sigma"), SPATIAL_LAYER: ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class _StoredImages:
    shape: tuple[int, ...]
    offset: int | None


class AdmFile:
    """Open a file of the ADM suite.

    Args:
        path: Local file.

    Raises:
        MetricError: It is no such file, or holds neither images nor moments.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open_npz(path) as file:
                self.names = file.names
                self._images = _find_images(file) if _IMAGES in self.names else None
        except FormatError as problem:
            raise MetricError(
                str(path),
                f"not readable as .npz of images or statistics ({problem})",
                "an .npz of the ADM suite, or a reference",
                "references are made by `rdm-batch reference build`",
            ) from None
        if self._images is None and "mu" not in self.names:
            raise MetricError(
                str(path),
                f"holds {', '.join(self.names) or 'nothing'}",
                "arr_0, or mu and sigma, as in the ADM suite",
            )
        self._mapped: UInt8[np.ndarray, "n height width 3"] | None = None

    @property
    def num_images(self) -> int:
        """Return the number of images; 0 for a file of moments alone."""
        return 0 if self._images is None else self._images.shape[0]

    def read(self, start: int, stop: int) -> UInt8[np.ndarray, "n height width 3"]:
        """Read some of the images, without reading the others where the file allows it.

        Raises:
            MetricError: The file holds no images, or ends before they do.
        """
        images = self._need_images()
        if self._mapped is None:
            self._mapped = self._map(images)
        return np.array(self._mapped[start:stop])

    @property
    def image_shape(self) -> tuple[int, int] | None:
        """Return height and width of the images; None where there are none."""
        return None if self._images is None else (self._images.shape[1], self._images.shape[2])

    def moments(self) -> dict[str, GaussianStatistics]:
        """Read the moments by layer of ``inception-v3-compat``; empty when there are none.

        The file does not say how many images are behind them.

        Raises:
            MetricError: An array of a pair is missing, or their shapes do not fit.
        """
        found = {}
        try:
            with open_npz(self.path) as file:
                for layer, names in _LAYERS.items():
                    there = [name for name in names if name in file.names]
                    if there and len(there) < 2:
                        raise FormatError(f"one of {', '.join(names)}; needed both")
                    if there:
                        found[layer] = _read_moments(file, *names)
        except FormatError as problem:
            raise MetricError(
                str(self.path), f"its moments cannot be used ({problem})", action="copy it again"
            ) from None
        return found

    def digest(self) -> str:
        """Hash the file."""
        return file_sha256(self.path)

    def _need_images(self) -> _StoredImages:
        if self._images is None:
            raise MetricError(
                str(self.path),
                "holds moments but no images (arr_0)",
                "the images",
                "use it for fid and sfid alone, or name a file with images",
            )
        return self._images

    def _map(self, images: _StoredImages) -> UInt8[np.ndarray, "n height width 3"]:
        try:
            if images.offset is not None:
                return np.memmap(
                    self.path, np.uint8, mode="r", offset=images.offset, shape=images.shape
                )
            # Compressed: no part can be reached without what is before it.
            with open_npz(self.path) as file:
                whole: UInt8[np.ndarray, "n height width 3"] = file.read(_IMAGES)
                return whole
        except (OSError, ValueError) as problem:
            raise MetricError(
                str(self.path), f"its images cannot be read ({problem})", "", "copy it again"
            ) from None


def _find_images(file: NpzFile) -> _StoredImages:
    header = file.header(_IMAGES)
    if header.dtype != np.uint8 or len(header.shape) != 4 or header.shape[3] != 3:
        raise FormatError(f"{_IMAGES} is {header}, not uint8 of n x h x w x 3")
    if 0 in header.shape:
        raise FormatError(f"{_IMAGES} holds no images, its shape is {header.shape}")
    offset = None if header.fortran_order else file.stored_position(_IMAGES)
    return _StoredImages(header.shape, offset)


def _read_moments(file: NpzFile, mean_name: str, covariance_name: str) -> GaussianStatistics:
    mean, covariance = file.header(mean_name), file.header(covariance_name)
    fit = len(mean.shape) == 1 and covariance.shape == 2 * mean.shape
    if (
        not fit
        or not 0 < mean.shape[0] <= _MAX_FEATURES
        or "U" in mean.dtype.kind + covariance.dtype.kind
    ):
        raise FormatError(
            f"{mean_name} is {mean}, {covariance_name} is {covariance}; needed a vector and its "
            "square matrix"
        )
    return GaussianStatistics(
        np.asarray(file.read(mean_name), dtype=np.float64),
        np.asarray(file.read(covariance_name), dtype=np.float64),
        None,
    )
