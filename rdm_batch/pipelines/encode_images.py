"""Encode a collection of images in parts, in this process or by Ray actors."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from rdm_batch.datasets.patches import Box, patch_boxes
from rdm_batch.datasets.source import ImageItem, ImageSource
from rdm_batch.errors import ImageError, RdmBatchError
from rdm_batch.inputs.images import open_images
from rdm_batch.pipelines.database_parts import EncodedPart, part_path, save_part
from rdm_batch.reports.progress import Stage
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.specs.database import EncodeSettings

PART_IMAGES = 256
_BATCH = 64
_BATCH_PIXELS = 32_000_000
_THUMBNAIL_COLORS = 64


@runtime_checkable
class ImageEncoder(Protocol):
    """What building a database needs of an encoder."""

    name: str
    dim: int
    digest: str

    def encode_images(
        self, images: list[UInt8[np.ndarray, "_ _ 3"]]
    ) -> Float32[np.ndarray, "n dim"]:
        """Embed RGB images of any size; rows are not normalized."""


def encode_part(
    source: ImageSource, start: int, stop: int, encoder: ImageEncoder, settings: EncodeSettings
) -> EncodedPart:
    """Encode the images ``start`` to ``stop`` of a source.

    Raises:
        ImageError: An image cannot be decoded and ``strict`` is set.
        DatabaseError: An embedding is not finite or zero.
    """
    part = _PartBuilder(encoder, settings)
    for index in range(start, stop):
        try:
            item = source[index]
        except ImageError as error:
            if settings.strict:
                raise
            part.skipped.append(str(error))
            continue
        if settings.patches is None:
            part.add(item, None)
            continue
        height, width = item.image.shape[:2]
        for box in patch_boxes(width, height, settings.patches, settings.patch_seed, index):
            part.add(item, box)
    return part.finish()


class _PartBuilder:
    """Collect rows; encode them in batches that end early where images are large.

    A batch holds 64 crops or the crops of 32 million pixels, so that a part of large
    photographs is never in memory as a whole.
    """

    def __init__(self, encoder: ImageEncoder, settings: EncodeSettings) -> None:
        self.skipped: list[str] = []
        self._encoder = encoder
        self._settings = settings
        self._crops: list[UInt8[np.ndarray, "_ _ 3"]] = []
        self._waiting_pixels = 0
        self._embeddings: list[Float[np.ndarray, "_ dim"]] = []
        self._item_ids: list[str] = []
        self._boxes: list[Box | None] = []
        self._captions: list[str | None] = []
        self._thumbnails: list[bytes] = []

    def add(self, item: ImageItem, box: Box | None) -> None:
        """Add one image, or the part of it in a box."""
        crop = item.image
        if box is not None:
            # A copy, so that the whole image can be forgotten.
            crop = crop[box[1] : box[3], box[0] : box[2]].copy()
        self._crops.append(crop)
        self._item_ids.append(item.item_id)
        self._boxes.append(box)
        self._captions.append(item.caption)
        if self._settings.thumbnail_size:
            self._thumbnails.append(make_thumbnail(crop, self._settings.thumbnail_size))
        self._waiting_pixels += crop.shape[0] * crop.shape[1]
        if len(self._crops) == _BATCH or self._waiting_pixels >= _BATCH_PIXELS:
            self._encode()

    def _encode(self) -> None:
        encoded = self._encoder.encode_images(self._crops)
        with np.errstate(over="ignore"):  # what overflows float16 is refused below, by name
            rows = encoded.astype(self._settings.dtype)
        for row, item_id in zip(rows, self._item_ids[-len(rows) :], strict=True):
            check_embeddings(row[None], f"embedding of {item_id}")
        self._embeddings.append(rows)
        self._crops, self._waiting_pixels = [], 0

    def finish(self) -> EncodedPart:
        """Encode what waits and give all rows."""
        if self._crops:
            self._encode()
        none = np.empty((0, self._encoder.dim), dtype=self._settings.dtype)
        rows = ShardRows(
            first_row=0,
            embeddings=np.concatenate([none, *self._embeddings]),
            item_ids=self._item_ids,
            patch_coords=self._boxes,
            captions=self._captions,
            thumbnails=self._thumbnails if self._settings.thumbnail_size else None,
        )
        return EncodedPart(rows, tuple(self.skipped))


def make_thumbnail(image: UInt8[np.ndarray, "height width 3"], size: int) -> bytes:
    """Make a small PNG of at most 64 colors: a third of the bytes, for looking at only."""
    small = Image.fromarray(image)
    small.thumbnail((size, size), Image.Resampling.LANCZOS)
    small = small.quantize(
        _THUMBNAIL_COLORS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE
    )
    stream = io.BytesIO()
    small.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def part_ranges(images: int) -> list[tuple[int, int]]:
    """Cut a source into the ranges that are encoded and resumed as one."""
    return [(start, min(start + PART_IMAGES, images)) for start in range(0, images, PART_IMAGES)]


@dataclass(frozen=True)
class FanOut:
    """Encode with several Ray actors, one CPU each, on a cluster that is joined already.

    Attributes:
        location: Where the actors open the source again.
        make_encoder: Loads the encoder in each actor.
        workers: Number of actors, at least 1.
    """

    location: str
    make_encoder: Callable[[], ImageEncoder]
    workers: int


def encode_source(
    source: ImageSource,
    folder: Path,
    encoder: ImageEncoder,
    settings: EncodeSettings,
    stage: Stage,
    fan_out: FanOut | None = None,
) -> list[Path]:
    """Encode every image of a source and give the files of its parts, in order.

    Parts that exist are kept, so an interrupted run continues where it stopped.

    Args:
        source: The images.
        folder: Folder of the parts.
        encoder: Encoder of this process.
        settings: How images become rows.
        stage: Progress over images.
        fan_out: Encode with Ray actors instead; None encodes in this process, where
            PyTorch uses every core by itself.

    Raises:
        ImageError: An image cannot be decoded and ``settings.strict`` is set.
    """
    ranges = part_ranges(len(source))
    paths = [part_path(folder, number) for number in range(len(ranges))]
    missing = [number for number, path in enumerate(paths) if not path.is_file()]
    stage.advance(len(source) - sum(ranges[n][1] - ranges[n][0] for n in missing))
    parts: Iterator[tuple[int, EncodedPart]]
    if fan_out is None:
        parts = ((n, encode_part(source, *ranges[n], encoder, settings)) for n in missing)
    else:
        parts = _encode_by_actors(fan_out, settings, [(n, *ranges[n]) for n in missing])
    for number, part in parts:
        save_part(paths[number], part)
        stage.advance(ranges[number][1] - ranges[number][0])
    return paths


class _Worker:
    """Encode ranges of a source in a Ray actor."""

    def __init__(
        self, location: str, make_encoder: Callable[[], ImageEncoder], settings: EncodeSettings
    ) -> None:
        self._source, _ = open_images(location)
        self._encoder = make_encoder()
        self._settings = settings

    def encode(self, number: int, start: int, stop: int) -> tuple[int, EncodedPart]:
        """Encode one range."""
        return number, encode_part(self._source, start, stop, self._encoder, self._settings)


def _encode_by_actors(
    fan_out: FanOut, settings: EncodeSettings, work: list[tuple[int, int, int]]
) -> Iterator[tuple[int, EncodedPart]]:
    import ray
    from ray.util import ActorPool

    remote: Any = ray.remote(num_cpus=1, max_restarts=1, max_task_retries=2)(_Worker)
    actors = [
        remote.remote(fan_out.location, fan_out.make_encoder, settings)
        for _ in range(min(fan_out.workers, len(work)))
    ]
    pool = ActorPool(actors)
    try:
        yield from pool.map_unordered(lambda actor, item: actor.encode.remote(*item), work)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, RdmBatchError):
            raise error.cause from None
        raise
