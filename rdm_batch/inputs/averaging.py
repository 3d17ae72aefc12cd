"""Average the weights of heads: one file that is the mean of several of the same architecture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from rdm_batch.errors import CheckpointError
from rdm_batch.inputs.weights import CheckpointRequest, load_requested, save_as_new
from rdm_batch.models.checkpoint import CheckpointInfo

_SUM_TOLERANCE = 1e-6
"""Of what shares may miss 1 by: three thirds in decimals."""


def average_checkpoints(
    uris: Sequence[str], out: Path, shares: Sequence[float] | None = None
) -> CheckpointInfo:
    """Write the mean of several weights files, tensor by tensor.

    Weights that were trained on from the same ones often draw better averaged than each of them
    (Wortsman et al. 2022, arXiv:2203.05482 and arXiv:2109.01903). Sums are made in float64; what is
    stored has the types of the first file.

    Args:
        uris: At least two weights files that carry their architecture, all the same.
        out: File to write; an existing one is not replaced.
        shares: Weight of each in the mean, none negative, together 1. None: all equal.

    Returns:
        What the new file holds.

    Raises:
        CheckpointError: Less than two files, shares that are none, files of different
            architectures, weights that cannot be used, or ``out`` exists or cannot be written.
    """
    shares = _checked_shares(uris, shares)
    if out.exists():
        raise CheckpointError(str(out), "exists already", action="name another file")
    first = load_requested(CheckpointRequest(uris[0]))
    sums = {name: tensor.double() * shares[0] for name, tensor in first.state_dict.items()}
    for uri, share in zip(uris[1:], shares[1:], strict=True):
        other = load_requested(CheckpointRequest(uri))
        if other.architecture != first.architecture:
            raise CheckpointError(
                uri,
                f"holds a {other.architecture.kind!r} head of another architecture",
                f"that of {uris[0]}",
                "average weights that were trained on from the same ones",
            )
        for name, tensor in other.state_dict.items():
            sums[name].add_(tensor.double(), alpha=share)
    types = {name: tensor.dtype for name, tensor in first.state_dict.items()}
    mean: dict[str, torch.Tensor] = {name: sums[name].to(types[name]) for name in sums}
    return save_as_new(out, first.architecture, mean)


def _checked_shares(uris: Sequence[str], shares: Sequence[float] | None) -> list[float]:
    if len(uris) < 2:
        raise CheckpointError("average", f"of {len(uris)} file", "two or more")
    if shares is None:
        return [1 / len(uris)] * len(uris)
    if len(shares) != len(uris):
        raise CheckpointError(
            "--shares", f"are {len(shares)}", f"{len(uris)}, one for each of the files"
        )
    if not all(math.isfinite(share) and share >= 0 for share in shares):
        raise CheckpointError("--shares", f"are {list(shares)}", "none below 0")
    if abs(sum(shares) - 1) > _SUM_TOLERANCE:
        raise CheckpointError("--shares", f"add up to {sum(shares):g}", "1")
    return list(shares)
