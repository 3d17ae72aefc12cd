"""A shard that is drawn and not stored yet: its images, and how it becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from rdm_batch.storage.manifest import Measured, ShardEntry, epoch_s
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import make_table


@dataclass(frozen=True)
class DrawnShard:
    """Hold what a shard's file is made from.

    Attributes:
        shard: Position of the shard in its set.
        images: Its samples.
        columns: The other arguments of ``make_table``.
        measured: Who made it and how fast; ``encode`` and ``write`` are still to come.
    """

    shard: int
    images: UInt8[np.ndarray, "samples height width 3"]
    columns: Mapping[str, Any]
    measured: Measured | None = None

    def table(self) -> pa.Table:
        """Encode the images and put them beside their provenance."""
        return make_table(images=[encode_png(image) for image in self.images], **self.columns)

    def commit(self, sample_set: SampleSet) -> ShardEntry:
        """Encode and store the shard; see ``SampleSet.commit_shard``.

        Raises:
            SampleSetError: The rows are not the planned ones, or the store refuses.
        """
        begin = epoch_s()
        table = self.table()
        measured = self.measured
        if measured is not None:
            intervals = {**measured.intervals, "encode": (begin, epoch_s())}
            measured = measured.model_copy(update={"intervals": intervals})
        return sample_set.commit_shard(self.shard, table, measured)
