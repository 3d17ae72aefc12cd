"""A tree over the centers of many leaves, which finds those to search without looking at all.

ScaNN makes it when it loads an index whose configuration asks for it, the same one each time. It is
not stored: what ScaNN writes of it differs from process to process, though searches by it do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rdm_batch.retrieval.database import TunedSearch

UPPER_LEVEL_FROM = 1_000
"""Leaves beyond which it is tried: looking at the centers of a thousand takes 0.1 ms a query."""
_GROUPS, _SHARE = 3, 0.2
"""Groups, times the square root of the leaves, and the share of them that is searched."""
_MOST_LEAVES, _RECALL_LOST = 1.5, 0.02
_CONFIG = "scann_config.pb"


class UpperLevel(NamedTuple):
    """What a tree over centers is made of.

    Attributes:
        groups: Of centers.
        searched: Groups that a query looks into.
    """

    groups: int
    searched: int


def upper_level_for(leaves: int) -> UpperLevel:
    """Choose one for the leaves of an index that is built."""
    groups = round(_GROUPS * math.sqrt(leaves))
    return UpperLevel(groups, math.ceil(_SHARE * groups))


def stored_upper_level(folder: Path) -> UpperLevel | None:
    """Give what the configuration of a stored index asks for; None where it asks for none."""
    upper = _configuration(folder).partitioning.bottom_up_top_level_partitioner
    if not upper.enabled:
        return None
    return UpperLevel(upper.num_centroids, upper.num_centroids_to_search)


def add_upper_level(folder: Path, level: UpperLevel) -> bytes:
    """Ask for it in the configuration of a stored index; give the configuration of before.

    Args:
        folder: Of the index.
        level: What it is made of.
    """
    path = folder / _CONFIG
    before, config = path.read_bytes(), _configuration(folder)
    upper = config.partitioning.bottom_up_top_level_partitioner
    upper.enabled = True
    upper.num_centroids, upper.num_centroids_to_search = level
    upper.quantization = upper.FIXED8
    path.write_bytes(config.SerializeToString(deterministic=True))
    return before


def remove_upper_level(folder: Path, before: bytes) -> None:
    """Put back what :func:`add_upper_level` gave."""
    (folder / _CONFIG).write_bytes(before)


def is_worth_it(without: Sequence[TunedSearch], tuned: Sequence[TunedSearch]) -> bool:
    """Tell whether it saves more than it costs, for every kind of query, by counts alone.

    Leaves without a structure above them (centers far from each other, in any direction) are not
    found by their groups: then nearly all that is asked for is missed, and no effort finds it.

    Args:
        without: How the search was tuned when all centers are looked at.
        tuned: How with the upper level, for the same kinds.
    """
    return all(
        found.leaves_to_search <= _MOST_LEAVES * plain.leaves_to_search
        and found.recall >= plain.recall - _RECALL_LOST
        for plain, found in zip(without, tuned, strict=True)
    )


def _configuration(folder: Path) -> Any:
    from scann.proto import scann_pb2

    return scann_pb2.ScannConfig.FromString((folder / _CONFIG).read_bytes())
