"""Encode a collection of images in parts, by one worker or several."""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from rdm_batch.cluster.pool import Cluster, ClusterResources, Opened, WorkerNeeds
from rdm_batch.databases.parts import EncodedPart, PartTimes, part_path, save_part
from rdm_batch.datasets.fit import fit_image
from rdm_batch.datasets.patches import Box, patch_boxes
from rdm_batch.datasets.source import ImageItem, ImageSource
from rdm_batch.errors import ImageError
from rdm_batch.heads.devices import require_device
from rdm_batch.inputs.images import open_images
from rdm_batch.reports.encoding import EncodingSpeed
from rdm_batch.reports.progress import Stage
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.specs.database import EncodeSettings
from rdm_batch.specs.image_resize import ImageResize
from rdm_batch.storage.png import encode_png

PART_IMAGES = 256
_BATCH = 64
_BATCH_ON_GPU = 256
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


@runtime_checkable
class TextEncoder(Protocol):
    """An encoder that embeds texts beside images."""

    def encode_texts(self, texts: list[str]) -> Float32[np.ndarray, "n dim"]:
        """Embed texts; rows are not normalized."""


def encode_part(
    source: ImageSource,
    start: int,
    stop: int,
    encoder: ImageEncoder,
    settings: EncodeSettings,
    batch: int = _BATCH,
) -> EncodedPart:
    """Encode the images ``start`` to ``stop`` of a source, so many crops at once at most.

    Raises:
        ImageError: An image cannot be decoded and ``strict`` is set.
        DatabaseError: An embedding is not finite or zero.
    """
    part = _PartBuilder(encoder, settings, batch)
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

    A batch holds so many crops, or the crops of 32 million pixels, so that a part of large
    photographs is never in memory as a whole.
    """

    def __init__(self, encoder: ImageEncoder, settings: EncodeSettings, batch: int) -> None:
        self.skipped: list[str] = []
        self._started = time.perf_counter()
        self._encoder_s = 0.0
        self._gpu_s = _gpu_s(encoder)
        self._batch = batch
        self._encoder = encoder
        self._settings = settings
        self._crops: list[UInt8[np.ndarray, "_ _ 3"]] = []
        self._waiting_pixels = 0
        self._embeddings: list[Float[np.ndarray, "_ dim"]] = []
        self._item_ids: list[str] = []
        self._boxes: list[Box | None] = []
        self._captions: list[str | None] = []
        self._urls: list[str | None] = []
        self._thumbnails: list[bytes] = []
        self._images: list[bytes] = []
        side = settings.store_images
        self._kept = None if side is None else ImageResize(size=side)

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
        self._urls.append(item.url)
        if self._settings.thumbnail_size:
            self._thumbnails.append(make_thumbnail(crop, self._settings.thumbnail_size))
        if self._kept is not None:
            self._images.append(encode_png(fit_image(crop, self._kept)))
        self._waiting_pixels += crop.shape[0] * crop.shape[1]
        if len(self._crops) == self._batch or self._waiting_pixels >= _BATCH_PIXELS:
            self._encode()

    def _encode(self) -> None:
        started = time.perf_counter()
        encoded = self._encoder.encode_images(self._crops)
        self._encoder_s += time.perf_counter() - started
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
            urls=self._urls,
            images=None if self._kept is None else self._images,
        )
        gpu_s = _gpu_s(self._encoder)
        times = PartTimes(
            time.perf_counter() - self._started,
            self._encoder_s,
            None if gpu_s is None or self._gpu_s is None else gpu_s - self._gpu_s,
        )
        return EncodedPart(rows, tuple(self.skipped), times)


def _gpu_s(encoder: ImageEncoder) -> float | None:
    """Give the seconds that an encoder's batches took on its GPU so far, where it has one."""
    found: float | None = getattr(encoder, "gpu_s", None)
    return found


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
class Encoding:
    """What encodes a source: its images and the encoder."""

    source: ImageSource
    encoder: ImageEncoder


MakeEncoder = Callable[[str], ImageEncoder]
"""Load an encoder onto a device, ``cpu`` or ``cuda``."""


class ChosenImages:
    """Some images of a source, chosen by lot, always the same ones, in their order.

    Args:
        source: The source.
        share: How many of them, above 0 and at most 1; at least one image.
    """

    def __init__(self, source: ImageSource, share: float) -> None:
        self._source = source
        wanted = min(len(source), max(1, round(share * len(source))))
        drawn = np.random.default_rng(0).choice(len(source), wanted, replace=False)
        self._chosen = np.sort(drawn)

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, index: int) -> ImageItem:
        return self._source[int(self._chosen[index])]


def chosen_of(source: ImageSource, share: float) -> ImageSource:
    """Give a share of a source; all of it is the source itself."""
    return source if share == 1 else ChosenImages(source, share)


def open_encoding(
    location: str, make_encoder: MakeEncoder, device: str, share: float = 1.0
) -> Encoding:
    """Open a share of a source, and load an encoder for it.

    Raises:
        ClusterError: A GPU was reserved, and PyTorch can use none.
    """
    source, _ = open_images(location)
    return Encoding(chosen_of(source, share), make_encoder(require_device(device)))


def worker_needs(device: str, resources: ClusterResources, workers: int) -> WorkerNeeds:
    """Say what each of several encoders takes: a CPU, and its share of the GPUs.

    Decoding takes the time of several cores for every GPU, so workers share one, each with an
    encoder of its own on it.

    Args:
        device: What they compute on, ``cpu`` or ``cuda``.
        resources: What there is.
        workers: How many there are.
    """
    if device == "cpu":
        return WorkerNeeds()
    # Rounded down to what Ray tells apart, or the last of them would wait for room for ever.
    share = math.floor(resources.num_gpus / workers * 1e4) / 1e4
    return WorkerNeeds(num_gpus=share if share < 1 else 1.0)


class EncoderWorker:
    """Hold a source and an encoder, and encode parts of it.

    Args:
        encoding: Both of them.
        settings: How images become rows.
        device: What the encoder computes on.
        number: Number of this worker.
    """

    def __init__(
        self, encoding: Opened[Encoding], settings: EncodeSettings, device: str, number: int
    ) -> None:
        self._encoding = encoding.thing
        self._settings = settings
        self._batch = _BATCH if device == "cpu" else _BATCH_ON_GPU

    def encode(self, part: tuple[int, int]) -> EncodedPart:
        """Encode the images of a range."""
        used = self._encoding
        return encode_part(used.source, *part, used.encoder, self._settings, self._batch)


def encode_source(
    cluster: Cluster,
    encoding: Opened[Encoding],
    folder: Path,
    settings: EncodeSettings,
    stage: Stage,
    workers: int = 1,
    device: str = "cpu",
    told: Callable[[EncodingSpeed], object] | None = None,
) -> list[Path]:
    """Encode every image of a source and give the files of its parts, in order.

    Parts that exist are kept, so an interrupted run continues where it stopped.

    Args:
        cluster: Where workers live.
        encoding: The images and their encoder.
        folder: Folder of the parts.
        settings: How images become rows.
        stage: Progress over images.
        workers: Most workers to start, one CPU each. In this process there is one, and PyTorch
            uses every core by itself.
        device: What they compute on, ``cpu`` or ``cuda``.
        told: Told how fast that was, unless every part was there.

    Raises:
        ImageError: An image cannot be decoded and ``settings.strict`` is set.
        ClusterError: A worker was lost more often than it may be brought back.
    """
    ranges = part_ranges(len(encoding.thing.source))
    paths = {part: part_path(folder, number) for number, part in enumerate(ranges)}
    missing = [part for part in ranges if not paths[part].is_file()]
    stage.advance(len(encoding.thing.source) - sum(stop - start for start, stop in missing))
    if missing:
        count = min(workers, len(missing))
        needs = worker_needs(device, cluster.resources, count)
        worker = partial(EncoderWorker, encoding, settings, device)
        times, started = [], time.perf_counter()
        with cluster.workers(worker, count, needs) as pool:
            encoded = pool.map(
                EncoderWorker.encode, missing, where=lambda part: f"images {part[0]} to {part[1]}"
            )
            for (start, stop), rows in encoded:
                save_part(paths[start, stop], rows)
                times += [rows.times] if rows.times is not None else []
                stage.advance(stop - start)
        if told is not None:
            seconds = time.perf_counter() - started
            told(_speed(stage.name, missing, seconds, count, device, times, cluster.resources))
    return list(paths.values())


def _speed(
    name: str,
    parts: list[tuple[int, int]],
    seconds: float,
    workers: int,
    device: str,
    times: list[PartTimes],
    resources: ClusterResources,
) -> EncodingSpeed:
    encoder_s = sum(part.encoder_s for part in times)
    on_gpus = [part.gpu_s for part in times if part.gpu_s is not None]
    return EncodingSpeed(
        name=name,
        images=sum(stop - start for start, stop in parts),
        seconds=seconds,
        workers=workers,
        device=device,
        encoder_s=encoder_s,
        reading_s=max(0.0, sum(part.total_s for part in times) - encoder_s),
        # No worker has more than one.
        gpus=0 if device == "cpu" else min(float(workers), resources.num_gpus),
        gpu_s=sum(on_gpus) if on_gpus else None,
    )
