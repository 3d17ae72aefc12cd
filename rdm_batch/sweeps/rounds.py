"""When a sweep looks at what it has: early, and then each time there is four times as much."""

from __future__ import annotations

from collections.abc import Sequence

from rdm_batch.generation.preflight import CheckedJob
from rdm_batch.inputs.image_sets import SET_PART_IMAGES

_RATIO = 4


def looks_of(jobs: Sequence[CheckedJob]) -> list[int]:
    """List numbers of shards after which all cells are looked at; the last is all of them.

    Whole parts of features, which are shards of 256 samples together, so that none is extracted
    twice.

    Args:
        jobs: Of the cells.
    """
    last = max(len(job.shards) for job in jobs)
    each = max(1, SET_PART_IMAGES // jobs[0].spec.output.shard_size)
    looks = []
    while each < last:
        looks.append(each)
        each *= _RATIO
    return [*looks, last]
