"""Any set of images that is judged, or judged against, in parts of fixed size.

Features are computed part by part and kept: beside a sample set of ours, or for anything else in
the user's cache, where a changed file makes another key.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from rdm_batch.datasets.fit import fit_image
from rdm_batch.datasets.folder import ImageFolder
from rdm_batch.datasets.parquet import ImageParquet
from rdm_batch.datasets.source import ImageSource
from rdm_batch.errors import MetricError, SampleSetError
from rdm_batch.files import user_cache
from rdm_batch.inputs.images import open_images
from rdm_batch.metrics.adm import AdmFile
from rdm_batch.specs.image_resize import ImageResize
from rdm_batch.storage.manifest import ShardEntry
from rdm_batch.storage.object_store import local_path, open_store
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.reading import iter_shard
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.storage.store import Store

PART_IMAGES = 1024
SET_PART_IMAGES = 256
"""Images in a part of a sample set, where its shards are smaller."""
SET_BATCH_IMAGES = 128
# Headers read before work begins, and sizes named in a message.
_LOOKED_AT = 10_000
_NAMED_SIZES = 5
# Decoding releases the interpreter; an accelerator takes images faster than one thread gives.
_DECODE_THREADS = 4

Batch = tuple[Int64[np.ndarray, " n"], UInt8[np.ndarray, "n height width 3"]]


@dataclass(frozen=True)
class ImagePart:
    """A fixed part of a set: the unit of extraction and of resume.

    Args:
        number: Tells the parts of a set apart.
        first: Id of its first image.
        num_images: Images in it.
        digest: Changes when the images do.
    """

    number: int
    first: int
    num_images: int
    digest: str


class ImageSet(ABC):
    """A set of images in parts.

    Args:
        uri: Where it is, for messages.
        store: Where features of its parts are kept.
        parts: Its parts, in order.
        resize: How images of another size are brought to one. None takes them as they are.
        as_stored: Whether all have the size of ``resize`` already, so that features of them as
            they are serve as well.
    """

    def __init__(
        self,
        uri: str,
        store: Store,
        parts: Sequence[ImagePart],
        resize: ImageResize | None = None,
        as_stored: bool = False,
    ) -> None:
        self.uri = uri
        self.store = store
        self.resize = resize
        self.as_stored = resize is None or as_stored
        self.parts = tuple(parts if self.as_stored else map(self._resized_part, parts))

    @property
    def num_images(self) -> int:
        """Return the number of images."""
        return sum(part.num_images for part in self.parts)

    @property
    def partial(self) -> bool:
        """Say whether images that were planned are missing."""
        return False

    def check_sizes(self) -> None:
        """Look, as far as that takes seconds, whether all images can be judged together.

        Raises:
            RdmBatchError: Images differ in size, or one of those looked at is damaged.
        """
        return

    def _fitted(self, image: UInt8[np.ndarray, "_ _ 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
        return image if self.resize is None else fit_image(image, self.resize)

    def _resized_part(self, part: ImagePart) -> ImagePart:
        assert self.resize is not None
        return _resized(part, self.resize)

    @abstractmethod
    def batches(self, part: ImagePart) -> Iterator[Batch]:
        """Stream ids and images of a part, in batches that do not depend on who asks.

        Raises:
            RdmBatchError: An image is damaged, or not of the size of the others.
        """


class SampleImages(ImageSet):
    """The samples of a set of ours; small shards are read together.

    Args:
        sample_set: The set.
        resize: As in ``ImageSet``.
        column: Which pictures: the samples, or what they are edits of.
    """

    def __init__(
        self,
        sample_set: SampleSet,
        resize: ImageResize | None = None,
        column: str = "image",
    ) -> None:
        self.sample_set = sample_set
        self._column = column
        header, entries = sample_set.header, sample_set.entries()
        self._partial = len(entries) < header.num_shards
        runs = _runs(entries, max(1, SET_PART_IMAGES // header.shard_size))
        self._runs = {run[0].shard: run for run in runs}
        super().__init__(
            sample_set.uri,
            sample_set.store,
            [_sample_part(run, column) for run in runs],
            resize,
            as_stored=resize is not None and header.image_size == resize.size,
        )

    @property
    def partial(self) -> bool:
        """Say whether shards that were planned are missing."""
        return self._partial

    def shards_of(self, part: ImagePart) -> list[ImagePart]:
        """Give the shards of a part as parts of their own."""
        size = self.sample_set.header.image_size
        return [
            shard_part(entry, size, self.resize, self._column) for entry in self._runs[part.number]
        ]

    def batches(self, part: ImagePart) -> Iterator[Batch]:
        """Stream a part, in batches that go across the borders of its shards."""
        rows = self._rows(self._runs[part.number])
        with ThreadPoolExecutor(_DECODE_THREADS) as pool:
            while batch := list(islice(rows, SET_BATCH_IMAGES)):
                ids, files = zip(*batch, strict=True)
                images = list(pool.map(self._decode, files))
                yield np.array(ids, dtype=np.int64), np.stack(images)

    def _decode(self, file: bytes) -> UInt8[np.ndarray, "_ _ 3"]:
        return self._fitted(decode_png(file))

    def _rows(self, run: Sequence[ShardEntry]) -> Iterator[tuple[int, bytes]]:
        store, header = self.sample_set.store, self.sample_set.header
        for entry in run:
            columns = ["sample_index", self._column]
            for batch in iter_shard(store, header, entry, columns):
                ids, images = (batch.column(name).to_pylist() for name in columns)
                yield from zip(ids, (image["bytes"] for image in images), strict=True)


class SourceImages(ImageSet):
    """Images of a folder, a parquet table or the shapes world, of one size or brought to one.

    Args:
        uri: Where they are.
        source: The images.
        digest: Changes when they do.
        resize: As in ``ImageSet``.
    """

    def __init__(
        self, uri: str, source: ImageSource, digest: str, resize: ImageResize | None = None
    ) -> None:
        self._source = source
        parts = _equal_parts(len(source), digest)
        super().__init__(uri, _cache(digest), parts, resize)
        self._shape = self._fitted(source[0].image).shape

    def check_sizes(self) -> None:
        """Look at the headers of up to ``_LOOKED_AT`` images; see ``ImageSet.check_sizes``."""
        source, count = self._source, len(self._source)
        if self.resize is not None or not isinstance(source, ImageFolder | ImageParquet):
            return
        # Of a folder all over it; a table is read in order.
        step = max(1, count // _LOOKED_AT) if isinstance(source, ImageFolder) else 1
        for index in islice(range(0, count, step), _LOOKED_AT):
            if source.size(index) != self._shape[:2]:
                raise self._mixed_sizes(index)

    def batches(self, part: ImagePart) -> Iterator[Batch]:
        """Decode a part.

        Raises:
            MetricError: Images differ in size; counts those of the whole set that do.
        """
        for ids, items in self._decoded(part):
            for index, image in zip(ids, items, strict=True):
                if image.shape != self._shape:
                    raise self._mixed_sizes(index)
            yield np.array(ids, dtype=np.int64), np.stack(items)

    def _mixed_sizes(self, example: int) -> MetricError:
        expected, sizes = self._shape[:2], Counter(self._sizes())
        item = self._source[example]
        other = ", ".join(
            f"{count:,} of {width} x {height}"
            for (height, width), count in sizes.most_common(_NAMED_SIZES)
            if (height, width) != expected
        )
        return MetricError(
            self.uri,
            f"images of several sizes: {sizes[expected]:,} of {expected[1]} x {expected[0]}, "
            f"{other}; {item.item_id} is {item.image.shape[1]} x {item.image.shape[0]}"
            + (f" (of the first {_LOOKED_AT:,})" if len(self._source) > _LOOKED_AT else ""),
            "images of one size",
            "name a resize (evaluation.resize, or --resize-to), which brings all of them to one",
        )

    def _sizes(self) -> Iterator[tuple[int, int]]:
        for index in range(min(len(self._source), _LOOKED_AT)):
            if isinstance(self._source, ImageFolder | ImageParquet):
                yield self._source.size(index)
            else:
                yield self._source[index].image.shape[:2]

    def _decoded(self, part: ImagePart) -> Iterator[tuple[range, list[UInt8[np.ndarray, "_ _ 3"]]]]:
        # Other sources keep a place between calls and are asked by one thread.
        threads = _DECODE_THREADS if isinstance(self._source, ImageFolder) else 1
        with ThreadPoolExecutor(threads) as pool:
            for ids in _batched(part):
                yield ids, list(pool.map(self._image, ids))

    def _image(self, index: int) -> UInt8[np.ndarray, "_ _ 3"]:
        # The photographs of a batch are never in memory as they are, only as they are judged.
        return self._fitted(self._source[index].image)


class AdmImages(ImageSet):
    """The images of an ADM ``.npz``.

    Args:
        uri: Where it is.
        file: The file.
        resize: As in ``ImageSet``.
    """

    def __init__(self, uri: str, file: AdmFile, resize: ImageResize | None = None) -> None:
        self._file = file
        digest = _files_digest(file.path.parent, [file.path])
        super().__init__(
            uri,
            _cache(digest),
            _equal_parts(file.num_images, digest),
            resize,
            as_stored=resize is not None and file.image_shape == (resize.size, resize.size),
        )

    def batches(self, part: ImagePart) -> Iterator[Batch]:
        """Read a part."""
        for ids in _batched(part):
            images = self._file.read(ids.start, ids.stop)
            if not self.as_stored:
                images = np.stack([self._fitted(image) for image in images])
            yield np.array(ids, dtype=np.int64), images


def open_image_set(
    uri: str, allow_partial: bool = False, resize: ImageResize | None = None
) -> ImageSet:
    """Open images to be judged or judged against.

    Args:
        uri: A sample set of ours, a folder or parquet of images, an ADM ``.npz``, or
            ``shapes:SUBSET[:COUNT]``; local or ``s3://``.
        allow_partial: Accept a sample set with missing shards.
        resize: How images of another size are brought to one. None takes them as they are.

    Raises:
        RdmBatchError: Nothing usable is there, or a sample set is incomplete.
    """
    if uri.startswith("shapes:"):
        source, _ = open_images(uri)
        # Drawn anew by every version of the program: the first picture stands for all.
        drawn = hashlib.sha256(uri.encode() + source[0].image.tobytes()).hexdigest()
        return SourceImages(uri, source, drawn, resize)
    if uri.endswith(".npz"):
        return AdmImages(uri, AdmFile(local_path(uri, error=MetricError)), resize)
    if SampleSet.find(uri) is not None:
        sample_set = SampleSet.open(uri, allow_partial)
        if not sample_set.entries():
            raise SampleSetError(uri, "no shard is stored yet", "", "run the job first")
        return SampleImages(sample_set, resize)
    source, _ = open_images(uri)
    path = local_path(uri, error=MetricError)
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return SourceImages(uri, source, _files_digest(path, files), resize)


def shard_part(
    entry: ShardEntry, image_size: int, resize: ImageResize | None, column: str = "image"
) -> ImagePart:
    """Give one shard of a sample set as a part of its own, as its features are named.

    Args:
        entry: The shard.
        image_size: Side of the set's samples.
        resize: As in ``ImageSet``.
        column: As in ``SampleImages``.
    """
    part = _sample_part([entry], column)
    return part if resize is None or resize.size == image_size else _resized(part, resize)


def _resized(part: ImagePart, resize: ImageResize) -> ImagePart:
    text = f"{part.digest} {resize.describe()}"
    return replace(part, digest=hashlib.sha256(text.encode()).hexdigest())


def _runs(entries: Sequence[ShardEntry], most: int) -> list[list[ShardEntry]]:
    """Put neighboring shards together; where runs end follows from their numbers alone."""
    runs: list[list[ShardEntry]] = []
    for entry in entries:
        if runs and entry.shard % most and entry.shard == runs[-1][-1].shard + 1:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return runs


def _sample_part(run: Sequence[ShardEntry], column: str) -> ImagePart:
    # Of the samples themselves as it always was, so that kept features are found.
    named = [] if column == "image" else [column]
    words = " ".join([*named, *(entry.sha256 for entry in run)])
    digest = hashlib.sha256(words.encode()).hexdigest()
    return ImagePart(run[0].shard, run[0].first_index, sum(entry.num_rows for entry in run), digest)


def _equal_parts(count: int, digest: str) -> list[ImagePart]:
    return [
        ImagePart(number, first, min(PART_IMAGES, count - first), digest)
        for number, first in enumerate(range(0, count, PART_IMAGES))
    ]


def _batched(part: ImagePart) -> Iterator[range]:
    stop = part.first + part.num_images
    for first in range(part.first, stop, SET_BATCH_IMAGES):
        yield range(first, min(first + SET_BATCH_IMAGES, stop))


def _files_digest(root: Path, files: Sequence[Path]) -> str:
    lines = []
    for path in files:
        status = path.stat()
        name = os.path.relpath(path, root)
        lines.append(f"{name} {status.st_size} {status.st_mtime_ns}")
    return hashlib.sha256("\n".join([str(root), *lines]).encode()).hexdigest()


def _cache(digest: str) -> Store:
    return open_store(str(user_cache() / "features" / digest[:32]), MetricError)
