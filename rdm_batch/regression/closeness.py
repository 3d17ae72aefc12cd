"""How far the samples of two canaries are from each other, stage by stage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from rdm_batch.regression.canary import FEATURES, IMAGES, NEIGHBORS, QUERIES, SIMILARITIES, Canary
from rdm_batch.storage.png import decode_png


@dataclass(frozen=True)
class StageDifference:
    """Say how one stage of two canaries differs.

    Args:
        stage: Which.
        differ: Samples that differ.
        samples: Samples compared.
        first: Index of the first that differs.
        largest: Largest difference: of a byte of an image; of a similarity; of the features of a
            sample, relative to their length. For neighbors the most rows of a sample that are
            others. None where there is no measure.
        mean: Mean difference of the bytes of all images. None for other stages.
        reordered: Samples that have the same neighbors in another order, and nothing else.
    """

    stage: str
    differ: int
    samples: int
    first: int
    largest: float | None = None
    mean: float | None = None
    reordered: int = 0

    def __str__(self) -> str:
        words = f"{self.stage} of {self.differ:,} of {self.samples:,} samples"
        if self.stage == IMAGES and self.largest is None:
            words += ", of another size"
        elif self.stage == IMAGES:
            words += f", largest byte difference {self.largest:.0f} (mean {self.mean:.2g})"
        elif self.stage == NEIGHBORS and self.reordered == self.differ:
            words += ", the same rows in another order"
        elif self.stage == NEIGHBORS and self.largest is not None:
            words += f", up to {self.largest:.0f} rows of a sample are others"
        elif self.largest is not None:
            kind = "largest relative distance" if self.stage.startswith(FEATURES) else "largest"
            words += f", {kind} {self.largest:.2g}"
        return f"{words}, first at index {self.first}"


def compare_canaries(accepted: Canary, found: Canary) -> list[StageDifference]:
    """List the stages in which samples differ, in the order samples go through them.

    Only stages that both have, and samples of the same index, are compared.
    """
    _, mine, other = np.intersect1d(
        accepted.indices, found.indices, assume_unique=True, return_indices=True
    )
    before, now = accepted.stages(), found.stages()
    differences = []
    for stage in before:
        if stage not in now:
            continue
        unlike = np.array(
            [before[stage][a] != now[stage][b] for a, b in zip(mine, other, strict=True)]
        )
        if unlike.any():
            differences.append(_difference(stage, accepted, found, mine, other, unlike))
    return differences


def _difference(
    stage: str,
    accepted: Canary,
    found: Canary,
    mine: Int64[np.ndarray, " n"],
    other: Int64[np.ndarray, " n"],
    unlike: Bool[np.ndarray, " n"],
) -> StageDifference:
    largest: float | None = None
    mean: float | None = None
    reordered = 0
    if stage == IMAGES:
        sizes, sums = [], []
        for a, b in zip(mine, other, strict=True):
            one, two = decode_png(accepted.images[a]), decode_png(found.images[b])
            if one.shape != two.shape:
                break
            distance = np.abs(one.astype(np.int16) - two.astype(np.int16))
            sizes.append(int(distance.max()))
            sums.append(float(distance.mean()))
        else:
            largest, mean = float(max(sizes)), float(np.mean(sums))
    elif stage == NEIGHBORS:
        assert accepted.neighbors is not None
        assert found.neighbors is not None
        rows = [
            (accepted.neighbors[a].tolist(), found.neighbors[b].tolist())
            for a, b in zip(mine[unlike], other[unlike], strict=True)
        ]
        reordered = sum(sorted(one) == sorted(two) for one, two in rows)
        others = [max(len(set(one) - set(two)), len(set(two) - set(one))) for one, two in rows]
        largest = float(max(others))
    elif stage == SIMILARITIES:
        largest = _largest_of(accepted.similarities, found.similarities, mine, other)
    elif stage.startswith(FEATURES):
        name = stage.removeprefix(FEATURES)
        largest = _relative(accepted.features[name][mine], found.features[name][other])
    else:
        assert stage == QUERIES
    places = np.flatnonzero(unlike)
    return StageDifference(
        stage=stage,
        differ=len(places),
        samples=len(unlike),
        first=int(accepted.indices[mine[places[0]]]),
        largest=largest,
        mean=mean,
        reordered=reordered,
    )


def _largest_of(
    accepted: Float32[np.ndarray, "n k"] | None,
    found: Float32[np.ndarray, "m l"] | None,
    mine: Int64[np.ndarray, " both"],
    other: Int64[np.ndarray, " both"],
) -> float | None:
    assert accepted is not None
    assert found is not None
    if accepted.shape[1] != found.shape[1]:
        return None
    return float(np.abs(accepted[mine] - found[other]).max())


def _relative(
    accepted: Float32[np.ndarray, "n d"], found: Float32[np.ndarray, "n e"]
) -> float | None:
    """Give the largest ``|b - a| / |a|`` of all rows."""
    if accepted.shape != found.shape:
        return None
    lengths = np.linalg.norm(accepted, axis=1)
    distances = np.linalg.norm(found - accepted, axis=1)
    return float((distances / np.maximum(lengths, np.finfo(np.float32).tiny)).max())
