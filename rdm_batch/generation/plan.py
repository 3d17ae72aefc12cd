"""From a job to its units of work, as a pure function of the spec (design D2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from jaxtyping import Int64

from rdm_batch.errors import shortened
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.sampling import DiffusionSampling, SamplingSpec


@dataclass(frozen=True)
class ShardRange:
    """A fixed range of sample indices, computed and committed as one.

    Args:
        index: Position of the shard in the set.
        start: First sample index.
        stop: One past the last sample index.
    """

    index: int
    start: int
    stop: int

    @property
    def num_samples(self) -> int:
        """Samples in the shard."""
        return self.stop - self.start

    @property
    def indices(self) -> Int64[np.ndarray, " samples"]:
        """Sample indices of the shard."""
        return np.arange(self.start, self.stop, dtype=np.int64)

    def batches(self, batch_size: int) -> list[Int64[np.ndarray, " batch"]]:
        """Split the shard into the fixed batches a head computes at once."""
        return [
            np.arange(first, min(first + batch_size, self.stop), dtype=np.int64)
            for first in range(self.start, self.stop, batch_size)
        ]


class ShardPlan(Sequence[ShardRange]):
    """Every shard of a job, in order; made when it is asked for, for there may be a billion.

    Args:
        num_samples: Samples of the job.
        shard_size: Samples of every shard but the last.
    """

    def __init__(self, num_samples: int, shard_size: int) -> None:
        self._starts = range(0, num_samples, shard_size)

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, index: int) -> ShardRange: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[ShardRange]: ...
    def __getitem__(self, index: int | slice) -> ShardRange | Sequence[ShardRange]:
        """Give one shard, or some."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        start = self._starts[index]
        stop = min(start + self._starts.step, self._starts.stop)
        return ShardRange(start // self._starts.step, start, stop)

    def num_batches(self, batch_size: int) -> int:
        """Count the fixed batches of all shards."""
        last = self[-1]
        whole = -(-self._starts.step // batch_size)
        return (len(self) - 1) * whole + -(-last.num_samples // batch_size)


def plan_shards(spec: JobSpec) -> ShardPlan:
    """Plan every shard of a job, in order."""
    return ShardPlan(spec.sampling.num_samples, spec.output.shard_size)


def largest_batch(spec: JobSpec) -> int:
    """Say how many samples the largest batch of a job has."""
    return min(spec.sampling.batch_size, spec.output.shard_size, spec.sampling.num_samples)


def describe_plan(spec: JobSpec) -> list[str]:
    """Say in lines what a job will do, from its spec alone."""
    shards = plan_shards(spec)
    sampling = spec.sampling
    batches = shards.num_batches(sampling.batch_size)
    work = f"{batches:,} batches of up to {sampling.batch_size}{_evaluations(sampling)}"
    scores = "none" if spec.evaluation is None else ", ".join(spec.evaluation.scores)
    return [
        f"samples    {sampling.num_samples:,} in {len(shards):,} shards of up to "
        f"{spec.output.shard_size:,}",
        f"work       {work}",
        f"head       {spec.model.head}, sampler {sampling.sampler}",
        f"condition  {spec.conditioning.mode}, {spec.conditioning.k_nn} neighbors, "
        f"from {shortened(spec.database.uri)}",
        f"scores     {shortened(scores)}",
        f"output     {shortened(spec.output.uri)}",
    ]


def most_evaluations(sampling: SamplingSpec) -> int:
    """Count the network evaluations a sample takes at most; 0 where the spec does not tell."""
    weaker = isinstance(sampling, DiffusionSampling) and sampling.autoguidance is not None
    guided = sampling.guidance_scale > 1 or weaker
    return (sampling.columns.num_steps or 0) * (1 + guided)


def _evaluations(sampling: SamplingSpec) -> str:
    """Say how often a batch evaluates networks, where the spec alone tells."""
    steps = sampling.columns.num_steps
    if steps is None:
        return ""
    diffusion = sampling if isinstance(sampling, DiffusionSampling) else None
    interval = diffusion.guidance_interval if diffusion else None
    notes = ["conditional and unconditional"] if sampling.guidance_scale > 1 else []
    if diffusion and diffusion.autoguidance:
        notes = ["by the head and by a weaker one"]
    if interval:
        notes.append(f"guided where the noise level is {interval[0]:g} to {interval[1]:g}")
    if diffusion and diffusion.reuse_deep_features > 1:
        notes.append(f"deep features of every {diffusion.reuse_deep_features} steps")
    most = "at most " if interval else ""
    said = f", {most}{most_evaluations(sampling):,} network evaluations a batch"
    return f"{said} ({', '.join([f'{steps} steps', *notes])})" if notes else said
