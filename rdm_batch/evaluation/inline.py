"""Features of samples while they are made: by the head that draws them, on its device.

What is stored is what an evaluation would store and look for, under the same names; whatever is
missing, such as features of a shard after whose commit its head was lost, it extracts as ever.
"""

from __future__ import annotations

import threading
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from rdm_batch.datasets.fit import fit_image
from rdm_batch.evaluation.features import extract_batches, store_part
from rdm_batch.inputs.extractors import load_extractor, scores_by_extractor
from rdm_batch.inputs.image_sets import SET_BATCH_IMAGES, shard_part
from rdm_batch.metrics.features import FeatureSet
from rdm_batch.specs.job import DatabaseSpec, EvaluationSpec
from rdm_batch.storage.manifest import ShardEntry
from rdm_batch.storage.sample_set import SampleSet


class InlineExtractors:
    """Hold the extractors of an evaluation, and what they are asked for.

    Safe to use from several threads.

    Args:
        sample_set: The set whose samples are judged.
        evaluation: How.
        database: Whose encoder scores of novelty use.
        device: Where to compute, ``cpu`` or ``cuda``; on a GPU in a stream of its own, beside the
            head's.

    Raises:
        RdmBatchError: An extractor cannot be loaded.
    """

    def __init__(
        self,
        sample_set: SampleSet,
        evaluation: EvaluationSpec,
        database: DatabaseSpec,
        device: str,
    ) -> None:
        self._set = sample_set
        self._resize = evaluation.resize
        self._extractors = [
            load_extractor(spec, device) for spec in scores_by_extractor(evaluation, database)
        ]
        self._stream = torch.cuda.Stream() if device == "cuda" else None  # type: ignore[no-untyped-call]
        self._turn = threading.Lock()

    def extract(
        self,
        ids: Int64[np.ndarray, " n"],
        images: UInt8[np.ndarray, "n height width 3"],
    ) -> list[FeatureSet]:
        """Extract the features of a shard's samples, in the batches an evaluation makes of them.

        Args:
            ids: Their indices.
            images: The samples.
        """
        starts = range(0, len(images), SET_BATCH_IMAGES)
        batches = [
            (ids[start : start + SET_BATCH_IMAGES], images[start : start + SET_BATCH_IMAGES])
            for start in starts
        ]
        if self._resize is not None:
            resize = self._resize
            batches = [
                (some, np.stack([fit_image(image, resize) for image in batch]))
                for some, batch in batches
            ]
        with self._turn, self._beside_the_head():
            return [
                extract_batches(iter(batches), extractor, self._set.uri)
                for extractor in self._extractors
            ]

    def store(self, entry: ShardEntry, features: list[FeatureSet]) -> None:
        """Keep the features of a shard where an evaluation finds them.

        Args:
            entry: The shard, which is stored.
            features: What was extracted from the same samples.
        """
        part = shard_part(entry, self._set.header.image_size, self._resize)
        for some in features:
            store_part(self._set.store, part, some)

    def _beside_the_head(self) -> AbstractContextManager[object]:
        if self._stream is None:
            return nullcontext()
        beside: AbstractContextManager[object] = torch.cuda.stream(self._stream)
        return beside
