"""Files of the ADM evaluation suite (Dhariwal & Nichol 2021, arXiv:2105.05233).

Samples are one ``.npz`` with ``arr_0``: uint8, images by height by width by 3. A reference
may also hold ``mu, sigma`` (Inception's pooled features) and ``mu_s, sigma_s`` (its spatial
features) of a whole data set, of which ``arr_0`` is then a part.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import UInt8

from rdm_batch.errors import MetricError
from rdm_batch.files import file_sha256
from rdm_batch.metrics.moments import GaussianStatistics
from rdm_batch.specs.scores import SPATIAL_LAYER

_IMAGES: Final = "arr_0.npy"
_LOCAL_HEADER_BYTES: Final = 30
_LAYERS: Final = {"2048": ("mu", "sigma"), SPATIAL_LAYER: ("mu_s", "sigma_s")}


@dataclass(frozen=True)
class _StoredArray:
    shape: tuple[int, ...]
    dtype: np.dtype
    fortran_order: bool
    offset: int


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
            with zipfile.ZipFile(path) as archive:
                self.names = archive.namelist()
                self._images = self._find_images(archive) if _IMAGES in self.names else None
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise MetricError(
                str(path),
                f"not readable as .npz of images or statistics ({error})",
                "an .npz of the ADM suite, or a reference",
                "references are made by `rdm-batch reference build`",
            ) from error
        if self._images is None and "mu.npy" not in self.names:
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
        with np.load(self.path, allow_pickle=False) as file:
            for layer, (mean_name, covariance_name) in _LAYERS.items():
                if mean_name not in file.files and covariance_name not in file.files:
                    continue
                if mean_name not in file.files or covariance_name not in file.files:
                    raise MetricError(
                        str(self.path), f"one of {mean_name}, {covariance_name}", "both"
                    )
                mean = np.asarray(file[mean_name], dtype=np.float64)
                covariance = np.asarray(file[covariance_name], dtype=np.float64)
                if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
                    raise MetricError(
                        str(self.path),
                        f"{mean_name} of shape {mean.shape}, {covariance_name} of shape "
                        f"{covariance.shape}",
                        "a vector and its square matrix",
                    )
                found[layer] = GaussianStatistics(mean, covariance, None)
        return found

    def digest(self) -> str:
        """Hash the file."""
        return file_sha256(self.path)

    def _find_images(self, archive: zipfile.ZipFile) -> _StoredArray:
        info = archive.getinfo(_IMAGES)
        with archive.open(info) as member:
            version = np.lib.format.read_magic(member)
            read = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }.get(version)
            if read is None:
                raise ValueError(f"array format {version}")
            shape, fortran_order, dtype = read(member)
            header_bytes = member.tell()
        if dtype != np.uint8 or len(shape) != 4 or shape[3] != 3:
            raise ValueError(f"arr_0 is {dtype} of shape {shape}, not uint8 of n x h x w x 3")
        if info.compress_type != zipfile.ZIP_STORED or fortran_order:
            return _StoredArray(shape, dtype, fortran_order, -1)
        with self.path.open("rb") as file:
            file.seek(info.header_offset)
            local = file.read(_LOCAL_HEADER_BYTES)
        # The local header repeats the name and has an extra field of its own length.
        lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        offset = info.header_offset + _LOCAL_HEADER_BYTES + lengths + header_bytes
        return _StoredArray(shape, dtype, fortran_order, offset)

    def _need_images(self) -> _StoredArray:
        if self._images is None:
            raise MetricError(
                str(self.path),
                "holds moments but no images (arr_0)",
                "the images",
                "use it for fid and sfid alone, or name a file with images",
            )
        return self._images

    def _map(self, images: _StoredArray) -> UInt8[np.ndarray, "n height width 3"]:
        try:
            if images.offset >= 0:
                return np.memmap(
                    self.path, np.uint8, mode="r", offset=images.offset, shape=images.shape
                )
            # Compressed: no part can be reached without what is before it.
            with np.load(self.path, allow_pickle=False) as file:
                whole: UInt8[np.ndarray, "n height width 3"] = file["arr_0"]
                return whole
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise MetricError(
                str(self.path), f"ends before its images do ({error})", "", "copy it again"
            ) from error
