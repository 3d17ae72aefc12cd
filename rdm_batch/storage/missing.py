"""Which planned shards of a sample set are not stored, without a list of them all."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from rdm_batch.storage.manifest import SampleSetHeader


class MissingShards(Collection[int]):
    """The shards that are planned and not stored, in order; a plan may have a billion.

    Args:
        header: Of the set.
        stored: The shards that are there.
    """

    def __init__(self, header: SampleSetHeader, stored: Iterable[int]) -> None:
        self._header = header
        self._planned = range(header.num_shards)
        self._stored = {shard for shard in stored if shard in self._planned}

    def __len__(self) -> int:
        return len(self._planned) - len(self._stored)

    def __iter__(self) -> Iterator[int]:
        return (shard for shard in self._planned if shard not in self._stored)

    def __contains__(self, shard: object) -> bool:
        return shard in self._planned and shard not in self._stored

    @property
    def num_samples(self) -> int:
        """Samples of these shards."""
        stored = sum(len(self._header.rows_of(shard)) for shard in self._stored)
        return self._header.num_samples - stored
