"""Random draws that belong to a sample, not to a batch, a worker or a device.

Every sample has its own counter-based generator (Salmon et al. 2011, Philox-4x64), keyed
by (seed, sample index). Streams separate what is drawn for different purposes: they are
the highest word of the counter, so no stream ever runs into another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

QUERY = 0
"""Stream that draws a sample's pseudo-query."""
POOL = 1
"""Stream that draws a sample's neighbors out of a pool."""
START = 2
"""Stream of the noise that sampling starts from."""
TOKENS = 3
"""Stream that draws the tokens of an autoregressive head, one number each."""
_STEP_BASE = 1 << 32


def step_stream(step: int) -> int:
    """Give the stream of the noise that solver step ``step`` (from 0) adds."""
    return _STEP_BASE + step


@dataclass(frozen=True)
class SampleNoise:
    """Draw random numbers for a batch of samples, each from its own generator.

    Attributes:
        seed: Seed of the job, 0 to 2^64 - 1.
        sample_indices: Index of every sample of the batch, at least 0.
    """

    seed: int
    sample_indices: Int64[np.ndarray, " batch"]

    def __len__(self) -> int:
        return len(self.sample_indices)

    def _generators(self, stream: int) -> Iterator[np.random.Generator]:
        """Yield one generator again and again, set to the stream of the next sample.

        Setting the state of a Philox generator costs a quarter of making a new one.
        """
        philox = np.random.Philox(key=0)
        generator = np.random.Generator(philox)
        state = philox.state
        for index in self.sample_indices.tolist():
            state["state"]["key"][:] = (self.seed, index)
            state["state"]["counter"][:] = (0, 0, 0, stream)
            philox.state = state
            yield generator

    def normal(self, stream: int, shape: tuple[int, ...]) -> Float32[np.ndarray, " batch *shape"]:
        """Draw standard normal numbers of the given shape for every sample."""
        out = np.empty((len(self), *shape), dtype=np.float32)
        self.fill_normal(stream, out)
        return out

    def fill_normal(self, stream: int, out: Float32[np.ndarray, "batch ..."]) -> None:
        """Write the numbers that ``normal`` draws into an array, such as one in pinned memory."""
        for row, generator in zip(out, self._generators(stream), strict=True):
            generator.standard_normal(out=row, dtype=np.float32)

    def uniform(self, stream: int, shape: tuple[int, ...]) -> Float64[np.ndarray, " batch *shape"]:
        """Draw numbers uniform in [0, 1) of the given shape for every sample."""
        out = np.empty((len(self), *shape), dtype=np.float64)
        self.fill_uniform(stream, out)
        return out

    def fill_uniform(self, stream: int, out: Float64[np.ndarray, "batch ..."]) -> None:
        """Write the numbers that ``uniform`` draws into an array."""
        for row, generator in enumerate(self._generators(stream)):
            out[row] = generator.random(out.shape[1:])
