"""Random square patches of images, as retrieval databases of large photographs hold.

The OpenImages database of RDM (Blattmann et al. 2022, arXiv:2204.11824, Section 4) holds
several patches of each photograph and records where each was cut.
"""

from __future__ import annotations

import numpy as np

Box = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels; the right and lower edges are excluded."""

MIN_PATCH_SHARE = 0.5


def patch_boxes(
    width: int,
    height: int,
    count: int,
    seed: int,
    index: int,
    min_share: float = MIN_PATCH_SHARE,
) -> list[Box]:
    """Choose squares inside an image: side and position are uniform.

    The choice follows from the seed and the index alone, on every machine: it uses raw
    words of the counter-based generator Philox, three to a patch.

    Args:
        width: Image width, pixels.
        height: Image height, pixels.
        count: Patches to choose, at least 1.
        seed: Seed of the whole database, at least 0.
        index: Position of the image in its source.
        min_share: Smallest side, as a share of the image's shorter side.
    """
    words = np.random.Philox(key=[seed, index]).random_raw(3 * count).reshape(count, 3)
    uniforms = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    longest = min(width, height)
    shortest = max(1, round(min_share * longest))
    boxes = []
    for side_draw, x_draw, y_draw in uniforms.tolist():
        side = shortest + int(side_draw * (longest - shortest + 1))
        x0 = int(x_draw * (width - side + 1))
        y0 = int(y_draw * (height - side + 1))
        boxes.append((x0, y0, x0 + side, y0 + side))
    return boxes
