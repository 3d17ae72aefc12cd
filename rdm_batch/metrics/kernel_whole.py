"""Squared kernel distance over whole sets: KD, CMMD, and what every sample does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32, Float64

from rdm_batch.metrics.pairing import mean_influences
from rdm_batch.metrics.pairwise import DEFAULT_BLOCK_SIZE, blocks
from rdm_batch.metrics.resampling import Estimate
from rdm_batch.metrics.tasks import HERE, TaskRunner, share_out

CMMD_SIGMA = 10.0
"""Width of the Gaussian kernel between embeddings of length 1 (Jayasumana et al. 2024, Sec. 4)."""
CMMD_SCALE = 1000.0
"""What the squared distance is multiplied by, for readability, as published."""
_TINY = np.finfo(np.float64).tiny

Kernel = Callable[[Float64[np.ndarray, "n d"], Float64[np.ndarray, "m d"]], np.ndarray]
"""Gives the kernel of every pair of two blocks of rows."""


def cubic_kernel(
    x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]
) -> Float64[np.ndarray, "n m"]:
    """Compute ``(x.y / d + 1)^3``, the kernel of KID (Binkowski et al. 2018)."""
    product = x @ y.T
    product /= x.shape[1]
    product += 1
    cubed: Float64[np.ndarray, "n m"] = np.square(product)
    cubed *= product
    return cubed


def gaussian_kernel(
    x: Float64[np.ndarray, "n d"], y: Float64[np.ndarray, "m d"]
) -> Float64[np.ndarray, "n m"]:
    """Compute ``exp(-|x - y|^2 / (2 sigma^2))`` of rows brought to length 1.

    There ``|x - y|^2 = 2 - 2 x.y``.
    """
    product = _unit(x) @ _unit(y).T
    product -= 1
    product /= CMMD_SIGMA**2
    found: Float64[np.ndarray, "n m"] = np.exp(product, out=product)
    return found


def whole_kernel_distance(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    kernel: Kernel,
    block_size: int = DEFAULT_BLOCK_SIZE,
    runner: TaskRunner = HERE,
) -> Estimate:
    """Compute the unbiased squared kernel distance of two sets, over all pairs.

    Gretton et al. 2012, Eq. 3. Nothing is drawn. The influences hold the reference fixed. Cost:
    ``n^2 + n m + m^2`` kernels, in float64.

    Args:
        generated: Generated features, two rows or more.
        reference: Reference features, two rows or more.
        kernel: Of two blocks of rows; a function of a module, so that it can be sent.
        block_size: Rows and columns of one tile; bounds memory.
        runner: Where blocks of rows are computed.
    """
    among = _row_means(generated, None, kernel, block_size, runner)
    across = _row_means(generated, reference, kernel, block_size, runner)
    apart = _row_means(reference, None, kernel, block_size, runner)
    value = float(among.mean() + apart.mean() - 2 * across.mean())
    return Estimate(value, mean_influences(2 * (among - across)))


def kernel_influences(
    generated: Float32[np.ndarray, "n d"],
    reference: Float32[np.ndarray, "m d"],
    kernel: Kernel = cubic_kernel,
    runner: TaskRunner = HERE,
) -> Float64[np.ndarray, " n"]:
    """Compute the influences on the squared kernel distance.

    ``2 (mean_j k(x_i, x_j) - mean_j k(x_i, y_j))`` over all others, less the mean: the projection
    of the unbiased estimate on single samples (Serfling 1980, Sec. 5.3). Taken over the whole
    sets, also where the distance itself is a mean over subsets.

    Args:
        generated: Generated features, two rows or more.
        reference: Reference features.
        kernel: Of two blocks of rows.
        runner: Where blocks of rows are computed.
    """
    among = _row_means(generated, None, kernel, DEFAULT_BLOCK_SIZE, runner)
    across = _row_means(generated, reference, kernel, DEFAULT_BLOCK_SIZE, runner)
    return mean_influences(2 * (among - across))


def _row_means(
    rows: Float32[np.ndarray, "n d"],
    columns: Float32[np.ndarray, "m d"] | None,
    kernel: Kernel,
    block_size: int,
    runner: TaskRunner,
) -> Float64[np.ndarray, " n"]:
    """Average the kernel of each row with all columns; None means with all other rows."""
    found = np.empty(len(rows))
    task = partial(_means_of_blocks, kernel=kernel, block_size=block_size)
    shared = (rows,) if columns is None else (rows, columns)
    items = share_out(list(blocks(len(rows), block_size)), runner.num_tasks)
    for part in runner(task, shared, items):
        for block, means in part:
            found[block] = means
    return found


def _means_of_blocks(
    rows: Float32[np.ndarray, "n d"],
    *rest: Float32[np.ndarray, "m d"] | Sequence[slice],
    kernel: Kernel,
    block_size: int,
) -> list[tuple[slice, Float64[np.ndarray, " _"]]]:
    *others, parts = rest
    same = not others
    columns = rows if same else np.asarray(others[0])
    found = []
    for block in parts:
        assert isinstance(block, slice)
        own = rows[block].astype(np.float64)
        sums = np.zeros(len(own))
        for place in blocks(len(columns), block_size):
            tile = kernel(own, columns[place].astype(np.float64))
            if same and place == block:
                np.fill_diagonal(tile, 0)
            sums += tile.sum(axis=1)
        found.append((block, sums / (len(columns) - same)))
    return found


def _unit(rows: Float64[np.ndarray, "n d"]) -> Float64[np.ndarray, "n d"]:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Float64[np.ndarray, "n d"] = rows / np.maximum(lengths, _TINY)
    return unit
