"""Intermediate results of a database build, one file for each range of source images.

They are what an interrupted build resumes from; a finished database keeps none of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float, Float32

from rdm_batch.cluster.pool import Cluster, WorkerNeeds
from rdm_batch.databases.index_progress import IndexProgress
from rdm_batch.errors import DatabaseError
from rdm_batch.files import UNREADABLE, find_damage_in, written_aside
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseShard
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.tuning import chosen_rows
from rdm_batch.retrieval.writer import BuiltIndex, index_rows, put_index, write_tables
from rdm_batch.specs.database import IndexSettings

_FEWEST_CAPTIONS = 64
_SKIPPED_KEY = b"rdm_batch.skipped"


@dataclass(frozen=True)
class PartTimes:
    """Say what encoding a range of images took, in seconds.

    Attributes:
        total_s: In all.
        encoder_s: Of it in the encoder.
        gpu_s: How long its batches took on a GPU, by its clock; None on a CPU.
    """

    total_s: float
    encoder_s: float
    gpu_s: float | None = None


@dataclass(frozen=True)
class EncodedPart:
    """Hold what encoding one range of source images gave.

    Attributes:
        rows: The rows; ``first_row`` counts within the part and is 0.
        skipped: Items that could not be decoded, with the reason.
        times: What it took; None of a part that was read back.
    """

    rows: ShardRows
    skipped: tuple[str, ...]
    times: PartTimes | None = None


def part_path(folder: Path, number: int) -> Path:
    """Name the file of a part."""
    return folder / f"part-{number:06d}.parquet"


def save_part(path: Path, part: EncodedPart) -> None:
    """Write a part, complete or not at all."""
    rows = part.rows
    count, dim = rows.embeddings.shape
    values = pa.array(np.ascontiguousarray(rows.embeddings).reshape(-1))
    columns = {
        "embedding": pa.FixedSizeListArray.from_arrays(values, dim),
        "item_id": pa.array(list(rows.item_ids), pa.string()),
        "patch_coords": pa.array(list(rows.patch_coords), pa.list_(pa.int32(), 4)),
        "caption": pa.array(list(rows.captions), pa.string()),
    }
    if rows.urls is not None and any(rows.urls):
        columns["url"] = pa.array(list(rows.urls), pa.string())
    if rows.thumbnails is not None:
        columns["png"] = pa.array(list(rows.thumbnails), pa.binary())
    if rows.images is not None:
        columns["image"] = pa.array(list(rows.images), pa.binary())
    table = pa.table(columns).replace_schema_metadata(
        {_SKIPPED_KEY: json.dumps(part.skipped).encode()}
    )
    with written_aside(path) as aside:
        pq.write_table(table, aside, row_group_size=max(count, 1))


def damaged_record(path: Path, found: str, remove: str = "it") -> DatabaseError:
    """Make the error for a file of an interrupted build that no build of this program wrote.

    Args:
        path: The file.
        found: What is wrong with it.
        remove: What has to go.
    """
    return DatabaseError(
        str(path),
        f"damaged ({found})",
        "what an interrupted build kept",
        f"remove {remove}, and run the same command again: what it held is made again",
    )


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Name a file of an interrupted build that cannot be read."""
    try:
        yield
    except (pa.ArrowException, *UNREADABLE) as error:
        raise damaged_record(path, " ".join(str(error).split())[:200]) from None


def load_part(path: Path) -> EncodedPart:
    """Read a part back.

    Raises:
        DatabaseError: It is damaged.
    """
    with _reading(path):
        return _load_part(path)


def _load_part(path: Path) -> EncodedPart:
    table = pq.read_table(path)
    embeddings = table.column("embedding").combine_chunks()
    dim = embeddings.type.list_size
    flat = embeddings.flatten().to_numpy(zero_copy_only=False)
    coords = table.column("patch_coords").to_pylist()
    return EncodedPart(
        rows=ShardRows(
            first_row=0,
            embeddings=flat.reshape(len(table), dim),
            item_ids=table.column("item_id").to_pylist(),
            patch_coords=[None if box is None else tuple(box) for box in coords],
            captions=table.column("caption").to_pylist(),
            thumbnails=table.column("png").to_pylist() if "png" in table.column_names else None,
            urls=table.column("url").to_pylist() if "url" in table.column_names else None,
            images=table.column("image").to_pylist() if "image" in table.column_names else None,
        ),
        skipped=tuple(json.loads(table.schema.metadata[_SKIPPED_KEY])),
    )


@runtime_checkable
class Parts(Protocol):
    """Rows in consecutive pieces that are loaded one at a time."""

    @property
    def sizes(self) -> Sequence[int]:
        """Rows of each piece."""

    def load(self, number: int) -> ShardRows:
        """Load one piece."""


class PartFiles:
    """The parts an encoding run has written.

    Args:
        paths: Their files, in order.

    Raises:
        DatabaseError: One is damaged.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        self.sizes: list[int] = []
        skipped: list[str] = []
        for path in paths:
            with _reading(path):
                file = pq.ParquetFile(path)
                skipped.extend(json.loads(file.schema_arrow.metadata[_SKIPPED_KEY]))
                self.sizes.append(file.metadata.num_rows)
        self.skipped = tuple(skipped)

    @property
    def rows(self) -> int:
        """Rows of all parts."""
        return sum(self.sizes)

    def load(self, number: int) -> ShardRows:
        """Load the rows of one part."""
        return load_part(self.paths[number]).rows


@dataclass(frozen=True)
class Indexing:
    """Say how shards are indexed, and where.

    Attributes:
        settings: Index settings.
        cluster: Where workers live.
        workers: Most workers to start, one CPU each. In this process there is one.
        num_threads: Threads each trains with; the index is the same with any number.
        embed_captions: Embeds texts as the database's pictures were, to tune the search for
            texts on. None where there is no such encoder.
    """

    settings: IndexSettings
    cluster: Cluster
    workers: int = 1
    num_threads: int = 1
    embed_captions: Callable[[list[str]], Float32[np.ndarray, "texts dim"]] | None = None


@dataclass(frozen=True)
class _Shard:
    """The rows of one shard, on their way to whoever indexes them."""

    number: int
    record: DatabaseShard
    embeddings: Float[np.ndarray, "rows dim"]
    captions: Float32[np.ndarray, "texts dim"] | None


class IndexWorker:
    """Index shards.

    Args:
        settings: Index settings.
        num_threads: Training threads.
        doing: Told what is done to which shard. None: nobody is, from another process.
        number: Number of this worker.
    """

    def __init__(
        self,
        settings: IndexSettings,
        num_threads: int,
        doing: Callable[[int, str], object] | None,
        number: int,
    ) -> None:
        self._settings = settings
        self._num_threads = num_threads
        self._doing = doing

    def index(self, shard: _Shard) -> BuiltIndex:
        """Index and tune the rows of a shard."""
        return index_rows(
            shard.embeddings,
            self._settings,
            f"shard {shard.number}",
            self._num_threads,
            shard.captions,
            None if self._doing is None else partial(self._doing, shard.number),
        )


def write_shards(
    root: Path,
    work: Path,
    parts: Parts,
    num_shards: int,
    indexing: Indexing,
    progress: Progress,
    first_shard: int = 0,
    first_row: int = 0,
) -> tuple[DatabaseShard, ...]:
    """Cut the rows of all parts into shards of equal size and write each.

    A shard that an interrupted build has finished is kept. Rows travel to the workers and indexes
    back: as many shards are held in memory as there are workers, and one.

    Args:
        root: Folder of the database.
        work: Folder of intermediate results.
        parts: The rows.
        num_shards: Number of shards, at most the number of rows.
        indexing: How shards are indexed, and where.
        progress: Shows the rows that are done, and what is done to every shard.
        first_shard: Number of the first of these shards.
        first_row: Id of the first of these rows.
    """
    starts = [0, *accumulate(parts.sizes)]
    bounds = [starts[-1] * number // num_shards for number in range(num_shards + 1)]
    shards: dict[int, DatabaseShard] = {}
    missing = []
    shown = IndexProgress(progress, starts[-1], indexing.settings, indexing.num_threads)
    for number in range(num_shards):
        finished = _finished_shard(root, _record(work, first_shard + number))
        if finished is None:
            missing.append(number)
        else:
            shards[number] = finished
            shown.kept(finished.rows)

    def waiting() -> Iterator[_Shard]:
        for number in missing:
            first, last = bounds[number], bounds[number + 1]
            pieces = [
                cut_rows(parts.load(piece), first - start, last - start)
                for piece, (start, stop) in enumerate(pairwise(starts))
                if start < last and stop > first
            ]
            rows = join_rows(first_row + first, pieces)
            record = write_tables(root, first_shard + number, rows, indexing.settings)
            shard = _Shard(number, record, rows.embeddings, _captions(rows, record, indexing))
            shown.begin(number, *rows.embeddings.shape)
            yield shard

    def keep(number: int, shard: DatabaseShard) -> None:
        with written_aside(_record(work, first_shard + number)) as aside:
            aside.write_text(shard.model_dump_json())
        shards[number] = shard
        shown.done(number, shard.rows)

    if missing:
        here = indexing.workers == 1
        doing = shown.turn_to if here else None
        worker = partial(IndexWorker, indexing.settings, indexing.num_threads, doing)
        count = min(indexing.workers, len(missing))
        with indexing.cluster.workers(worker, count, WorkerNeeds()) as pool:
            found = pool.map(
                IndexWorker.index, waiting(), where=lambda shard: f"index of shard {shard.number}"
            )
            for shard, built in found:
                number = first_shard + shard.number
                keep(shard.number, put_index(root, number, shard.record, built))
    shown.finish()
    return tuple(shards[number] for number in range(num_shards))


def _record(work: Path, number: int) -> Path:
    return work / f"shard-{number:05d}.json"


def _captions(
    rows: ShardRows, record: DatabaseShard, indexing: Indexing
) -> Float32[np.ndarray, "texts dim"] | None:
    """Embed captions of the rows that queries are made of, where there are some."""
    if indexing.embed_captions is None or record.index.kind != "tree_soar":
        return None
    texts = [rows.captions[row] for row in chosen_rows(len(rows.embeddings)).tolist()]
    found = [text for text in texts if text]
    return indexing.embed_captions(found) if len(found) >= _FEWEST_CAPTIONS else None


def _finished_shard(root: Path, record: Path) -> DatabaseShard | None:
    if not record.is_file():
        return None
    with _reading(record):  # what pydantic refuses is a ValueError
        shard = DatabaseShard.model_validate_json(record.read_bytes())
    return None if find_damage_in(root, shard.files()) else shard


def join_rows(first_row: int, pieces: Sequence[ShardRows]) -> ShardRows:
    """Join consecutive pieces into the rows of one shard."""
    embeddings: Float[np.ndarray, "rows dim"] = np.concatenate([p.embeddings for p in pieces])
    thumbnails = None
    if all(piece.thumbnails is not None for piece in pieces):
        thumbnails = [png for piece in pieces for png in piece.thumbnails or ()]
    images = None
    if all(piece.images is not None for piece in pieces):
        images = [png for piece in pieces for png in piece.images or ()]
    return ShardRows(
        first_row=first_row,
        embeddings=embeddings,
        item_ids=[item for piece in pieces for item in piece.item_ids],
        patch_coords=[box for piece in pieces for box in piece.patch_coords],
        captions=[caption for piece in pieces for caption in piece.captions],
        thumbnails=thumbnails,
        urls=[url for piece in pieces for url in piece.urls or [None] * len(piece.item_ids)],
        images=images,
    )


def cut_rows(rows: ShardRows, start: int, stop: int) -> ShardRows:
    """Take the rows in a range; what lies outside of them is left away."""
    start = max(start, 0)
    return ShardRows(
        first_row=rows.first_row + start,
        embeddings=rows.embeddings[start:stop],
        item_ids=rows.item_ids[start:stop],
        patch_coords=rows.patch_coords[start:stop],
        captions=rows.captions[start:stop],
        thumbnails=None if rows.thumbnails is None else rows.thumbnails[start:stop],
        urls=None if rows.urls is None else rows.urls[start:stop],
        images=None if rows.images is None else rows.images[start:stop],
    )
