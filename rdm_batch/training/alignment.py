"""Pictures of a database laid over training pictures: the partners that content is taken from.

Evangelidis and Psarakis 2008 (doi:10.1109/TPAMI.2008.113): the warp that maximizes the enhanced
correlation coefficient (ECC) of two pictures, as OpenCV computes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from rdm_batch.errors import SpecError

_ITERATIONS = 30
_LEAST_GAIN = 1e-3
_BLUR_PIXELS = 3
"""Side of the Gaussian filter before derivatives are taken, as OpenCV wants it: odd."""


@dataclass(frozen=True)
class Pairs:
    """Hold training pictures with what their content is replaced from.

    Attributes:
        rows: The training pictures that have a partner, rising.
        partners: The partner of each, laid over it.
        num_skipped: Pictures left out: their partner could not be aligned, or correlates badly.
    """

    rows: Int64[np.ndarray, " pairs"]
    partners: UInt8[np.ndarray, "pairs height width 3"]
    num_skipped: int

    @property
    def skipped_share(self) -> float:
        """Give the share of the training pictures that was left out."""
        return self.num_skipped / (self.num_skipped + len(self.rows))


def opencv() -> Any:
    """Import OpenCV, which is an extra of this package.

    Raises:
        SpecError: It is not installed.
    """
    try:
        import cv2
    except ImportError:
        raise SpecError(
            "train knn_edit",
            "pictures are aligned with OpenCV, which is not installed",
            "opencv-python-headless",
            "install rdm_batch[edit]",
        ) from None
    cv2.setNumThreads(1)  # the pictures are small, and results the same on every machine
    return cv2


def aligned(
    cv2: Any, image: UInt8[np.ndarray, "height width 3"], other: UInt8[np.ndarray, "height width 3"]
) -> tuple[UInt8[np.ndarray, "height width 3"], float] | None:
    """Lay a picture over another by the affine map that maximizes their ECC.

    Args:
        cv2: OpenCV.
        image: What it is laid over.
        other: The picture.

    Returns:
        The picture as it lies, what it does not cover repeated from its border, and the
        correlation reached; None where the iteration does not converge.
    """
    criteria = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ITERATIONS, _LEAST_GAIN)
    gray = [cv2.cvtColor(np.ascontiguousarray(part), cv2.COLOR_RGB2GRAY) for part in (image, other)]
    start = np.eye(2, 3, dtype=np.float32)
    try:
        correlation, warp = cv2.findTransformECC(
            *gray, start, cv2.MOTION_AFFINE, criteria, None, _BLUR_PIXELS
        )
    except cv2.error:  # singular, or the pictures do not overlap
        return None
    height, width = image.shape[:2]
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    laid: UInt8[np.ndarray, "height width 3"] = cv2.warpAffine(
        other, warp, (width, height), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return laid, float(correlation)


def align_all(
    images: UInt8[np.ndarray, "images height width 3"],
    partner_of: Callable[[int], UInt8[np.ndarray, "height width 3"]],
    least_correlation: float,
) -> Pairs:
    """Align a partner to every training picture, and leave out what does not fit.

    Args:
        images: The training pictures.
        partner_of: Gives the partner of one.
        least_correlation: Pictures whose aligned partner correlates less are left out.

    Raises:
        SpecError: OpenCV is not installed, or no picture is left.
    """
    cv2 = opencv()
    rows, partners = [], []
    for row, image in enumerate(images):
        found = aligned(cv2, image, partner_of(row))
        if found is not None and found[1] >= least_correlation:
            rows.append(row)
            partners.append(found[0])
    if not rows:
        raise SpecError(
            "least_correlation",
            f"is {least_correlation:g}, which no partner of {len(images):,} pictures reaches",
            "a lower one, or a database whose pictures are more alike",
        )
    return Pairs(np.array(rows, np.int64), np.stack(partners), len(images) - len(rows))


class AlikePartners:
    """Choose for a picture the one of some pictures drawn at random whose pixels differ least.

    Correlation would not see another background, as long as it is darker or brighter where that
    of the picture is.

    Args:
        images: The training pictures.
        pool: Pictures of the database.
        candidates: How many of them are drawn for each.
        seed: Decides which.
    """

    def __init__(
        self,
        images: UInt8[np.ndarray, "images height width 3"],
        pool: UInt8[np.ndarray, "rows height width 3"],
        candidates: int,
        seed: int,
    ) -> None:
        self._images, self._pool = images, pool
        random = np.random.default_rng(seed)
        self._drawn = random.integers(len(pool), size=(len(images), candidates))

    def __call__(self, row: int) -> UInt8[np.ndarray, "height width 3"]:
        """Give the partner of a training picture."""
        drawn = self._pool[self._drawn[row]]
        apart = drawn.astype(np.int32) - self._images[row]
        partner: UInt8[np.ndarray, "height width 3"] = drawn[
            np.argmin((apart**2).sum(axis=(1, 2, 3)))
        ]
        return partner
