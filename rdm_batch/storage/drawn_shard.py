"""A shard that is drawn and not stored yet: its images, and how it becomes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import UInt8

from rdm_batch.storage.manifest import Measured, ShardEntry, epoch_s
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.table import (
    SOURCE_CAPTION_COLUMN,
    SOURCE_COLUMN,
    image_array,
    make_table,
)


@dataclass(frozen=True)
class SourceImages:
    """Hold what the samples of a shard are edits of.

    Attributes:
        images: The pictures, of the samples' size.
        names: Theirs.
        captions: Theirs; None where one has none.
    """

    images: UInt8[np.ndarray, "samples height width 3"]
    names: Sequence[str]
    captions: Sequence[str | None]

    def columns(self) -> dict[str, pa.Array]:
        """Encode the pictures into the columns that record them."""
        # Pictures come again with every text and every sample.
        encoded: dict[str, bytes] = {}
        for name, image in zip(self.names, self.images, strict=True):
            if name not in encoded:
                encoded[name] = encode_png(image)
        return {
            SOURCE_COLUMN: image_array([encoded[name] for name in self.names], self.names),
            SOURCE_CAPTION_COLUMN: pa.array(self.captions, pa.string()),
        }


@dataclass(frozen=True)
class DrawnShard:
    """Hold what a shard's file is made from.

    Attributes:
        shard: Position of the shard in its set.
        images: Its samples.
        columns: The other arguments of ``make_table``.
        measured: Who made it and how fast; ``encode`` and ``write`` are still to come.
        sources: What the samples are edits of; None where they were made from nothing.
    """

    shard: int
    images: UInt8[np.ndarray, "samples height width 3"]
    columns: Mapping[str, Any]
    measured: Measured | None = None
    sources: SourceImages | None = None

    def table(self) -> pa.Table:
        """Encode the images and put them beside their provenance."""
        columns = dict(self.columns)
        if self.sources is not None:
            columns["others"] = {**columns["others"], **self.sources.columns()}
        return make_table(images=[encode_png(image) for image in self.images], **columns)

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
