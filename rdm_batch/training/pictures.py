"""Pictures that show how a training goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from rdm_batch.files import written_aside

NUM_PREVIEWED = 64
"""Images of the training set that pictures show."""


def save_grid(
    images: UInt8[np.ndarray, "image height width 3"], path: Path, columns: int = 16
) -> None:
    """Write images of one size side by side, row by row, each pixel doubled.

    Args:
        images: At least one image; an incomplete last row is filled with white.
        path: PNG file to write.
        columns: Images per row.
    """
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    cells = np.full((rows * columns, height, width, 3), 255, dtype=np.uint8)
    cells[:count] = images
    grid = cells.reshape(rows, columns, height, width, 3).swapaxes(1, 2)
    picture = Image.fromarray(grid.reshape(rows * height, columns * width, 3))
    doubled = picture.resize((picture.width * 2, picture.height * 2), Image.Resampling.NEAREST)
    with written_aside(path) as aside:
        doubled.save(aside, "PNG")


def alternate(
    originals: UInt8[np.ndarray, "image height width 3"],
    made: UInt8[np.ndarray, "image height width 3"],
    columns: int = 16,
) -> UInt8[np.ndarray, "_ height width 3"]:
    """Put rows of originals above rows of what was made of them."""
    rows = []
    for start in range(0, len(originals), columns):
        rows += [originals[start : start + columns], made[start : start + columns]]
    return np.concatenate(rows)


def save_losses(losses: Sequence[float], path: Path) -> None:
    """Draw the loss of every step, and its running mean, on a logarithmic scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    window = max(len(losses) // 50, 1)
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss", yscale="log")
    axes.plot(losses, color="0.8", linewidth=0.5)
    axes.plot(np.arange(window - 1, len(losses)), smooth, color="tab:blue")
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=100, format="png")
