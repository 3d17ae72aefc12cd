"""Show how far indexing is: rows of finished shards, and what is done to each in the meantime.

ScaNN tells nothing while it learns leaves and codes, which takes minutes for a million rows: the
line says how long it has been at it, and how long that takes by counted operations.
"""

from __future__ import annotations

from rdm_batch.reports.progress import Progress, Stage
from rdm_batch.reports.units import format_duration
from rdm_batch.retrieval.index import PARTITIONED, learning_products
from rdm_batch.specs.database import IndexSettings

_PRODUCTS_PER_S = 40e9
"""Multiply-adds of float32 on one core while ScaNN learns leaves, measured."""
LEARNING = "learn leaves and codes"


class IndexProgress:
    """Follow the shards of a build. Workers elsewhere tell nothing: a shard is one step then.

    Args:
        progress: Where it is shown.
        rows: Rows of all shards.
        settings: How they are indexed.
        dim: Width of a row.
        num_threads: Threads that index a shard.
    """

    def __init__(
        self, progress: Progress, rows: int, settings: IndexSettings, num_threads: int
    ) -> None:
        self._progress = progress
        self._rows = progress.stage("index", total=rows, unit="rows")
        self._settings = settings
        self._num_threads = num_threads
        self._steps: dict[int, Stage] = {}

    def kept(self, rows: int) -> None:
        """Count a shard that an interrupted build has finished."""
        self._rows.advance(rows)

    def begin(self, number: int, rows: int, dim: int) -> None:
        """Show that a shard is given to whoever indexes it."""
        resolved = self._settings.resolve(rows)
        if resolved.kind not in PARTITIONED:
            return
        seconds = learning_products(resolved, rows, dim) / _PRODUCTS_PER_S / self._num_threads
        about = format_duration(seconds)
        self._step(number, f"shard {number}: {LEARNING} (about {about})")

    def turn_to(self, number: int, doing: str) -> None:
        """Show what is done to a shard now."""
        self._step(number, f"shard {number}: {doing}")

    def done(self, number: int, rows: int) -> None:
        """Count a shard."""
        if number in self._steps:
            self._steps.pop(number).finish()
        self._rows.advance(rows)

    def finish(self) -> None:
        """End the stage."""
        self._rows.finish()

    def _step(self, number: int, name: str) -> None:
        if number in self._steps:
            self._steps.pop(number).finish()
        self._steps[number] = self._progress.begin(name)
