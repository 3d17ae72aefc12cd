"""Count the samples of a run while heads draw them, whole batches at a time."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from rdm_batch.reports.progress import Progress, Stage
from rdm_batch.storage.manifest import ShardEntry


class SampleCount:
    """Count each sample once: as drawn while its shard is made, as stored when it is committed.

    What a head that is lost had drawn stays counted until another has drawn as much; no count
    goes back.

    Args:
        progress: Shows the stage, which begins when the first head has loaded.
        total: Samples of the whole set.
        stored: Samples of it that are stored already.
        on_begun: Called when the first head has loaded.
    """

    def __init__(
        self,
        progress: Progress,
        total: int,
        stored: int,
        on_begun: Callable[[], None],
    ) -> None:
        self._progress = progress
        self._total = total
        self._stored = stored
        self._committed: set[Hashable] = set()
        self._drawn: dict[Hashable, int] = {}
        self._on_begun = on_begun
        self._stage: Stage | None = None

    def committed(self, entry: ShardEntry) -> None:
        """Count a shard of the one set that is made."""
        self.count_stored(entry.shard, entry.num_rows)

    def count_stored(self, shard: Hashable, num_samples: int) -> None:
        """Count a shard that is stored; of several sets, ``shard`` names the set as well."""
        self._committed.add(shard)
        self._drawn.pop(shard, None)
        self._stored += num_samples
        # A shard stored before a head was heard of took a time nobody knows: not in the rate.
        self._begin()
        self._show()

    def drawn(self, of_shard: Mapping[Any, int]) -> None:
        """Count what one head has drawn of each shard that it has not committed."""
        self._begin()
        for shard, count in of_shard.items():
            if shard not in self._committed:
                self._drawn[shard] = max(count, self._drawn.get(shard, 0))
        self._show()

    def finish(self) -> None:
        """End the stage."""
        if self._stage is not None:
            self._stage.finish()

    def _begin(self) -> None:
        if self._stage is None:
            self._on_begun()
            self._stage = self._progress.stage("generate", self._total, "samples", self._stored)

    def _show(self) -> None:
        if self._stage is not None:
            self._stage.reach(self._stored + sum(self._drawn.values()))
