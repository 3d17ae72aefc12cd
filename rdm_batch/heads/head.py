"""What every decoding head offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from rdm_batch.errors import DatabaseError
from rdm_batch.heads.drawing import Drawing
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.edits import EditSpec
from rdm_batch.specs.sampling import SamplingSpec


@runtime_checkable
class Head(Protocol):
    """Turn neighbors and noise into images.

    Attributes:
        image_size: Side length of the images, pixels.
        context_dim: Width of the neighbor embeddings it was trained with.
        fixed_batches: Whether every batch must have the same shape: short ones are then filled
            up, and what was added is dropped.
    """

    image_size: int
    context_dim: int
    fixed_batches: bool

    def warm_up(self, context: Float32[np.ndarray, "batch k_nn dim"]) -> None:
        """Do once what costs only the first batch of a shape, such as compilation.

        Args:
            context: As ``generate`` will be given.
        """
        ...

    def start(self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise) -> Drawing:
        """Begin to generate one image for every sample, and collect them later.

        On a GPU this returns when the batch is launched, so that the next one can be launched
        before its images are waited for; elsewhere when it is drawn. Batches are started and
        collected by one thread, in one order.

        Args:
            context: As ``generate``.
            noise: As ``generate``.
        """
        ...

    def generate(
        self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Generate one image for every sample.

        A sample's image depends on its row of ``context`` and its own noise; other samples
        of the batch only move the last digits of float sums. Equal batch shapes give equal
        bytes on CPU.

        Args:
            context: Neighbor embeddings as stored in the database (not normalized).
            noise: The samples' noise.
        """
        ...


@dataclass(frozen=True)
class HowDrawn:
    """Say how a head draws: what heads around the same networks do not share.

    Args:
        sampling: Sampler and its settings.
        edit: How given pictures are made into others. None: the head makes them from nothing.
    """

    sampling: SamplingSpec
    edit: EditSpec | None = None


@runtime_checkable
class EditingHead(Head, Protocol):
    """A head that can make given pictures into others."""

    def start_edit(
        self,
        context: Float32[np.ndarray, "batch k_nn dim"],
        sources: UInt8[np.ndarray, "batch height width 3"],
        noise: SampleNoise,
    ) -> Drawing:
        """Begin to make each of some pictures into another, and collect them later.

        Args:
            context: As ``start``.
            sources: The pictures, of the head's size.
            noise: As ``start``.
        """
        ...


def check_context(
    context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise, context_dim: int
) -> None:
    """Refuse neighbor embeddings that a head cannot be conditioned on.

    Raises:
        DatabaseError: Their number or width is wrong, or they are not finite.
    """
    if len(context) != len(noise) or context.shape[1] == 0:
        raise DatabaseError(
            "neighbor embeddings",
            f"{len(context)} rows of {context.shape[1]} neighbors for {len(noise)} samples",
            "one row for every sample, with at least one neighbor",
        )
    if context.shape[2] != context_dim:
        raise DatabaseError(
            "neighbor embeddings",
            f"are {context.shape[2]} wide",
            f"width {context_dim}, which the head was trained with",
            "use a database whose encoder has that width",
        )
    finite = np.isfinite(context).all(axis=(1, 2))
    if not finite.all():
        sample = int(noise.sample_indices[np.argmin(finite)])
        raise DatabaseError(
            f"sample {sample}",
            f"its neighbor embeddings are not finite ({int((~finite).sum())} of "
            f"{len(finite)} samples of the batch)",
            action="check the database with `rdm-batch database check`",
        )


def no_context(num_samples: int, context_dim: int) -> Float32[np.ndarray, "sample 1 dim"]:
    """Give the context of heads that never see neighbors, one entry of zeros a sample."""
    return np.zeros((num_samples, 1, context_dim), dtype=np.float32)
