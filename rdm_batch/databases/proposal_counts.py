"""Count the neighbors of a training set, block by block, wherever there is room.

What came of a finished block lies in the work folder of the build and is never counted again. With
an index a block is a range of the training set, whose neighbors one worker counts; with the exact
engine it is a range of database rows, past which all images of a group are taken.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32

from rdm_batch.cluster.pool import Cluster, RetrieverNeeds, WorkerNeeds
from rdm_batch.cluster.streamed_search import search_all_rows
from rdm_batch.databases.parts import Parts, damaged_record
from rdm_batch.errors import DatabaseError, SpecError
from rdm_batch.files import UNREADABLE, written_aside
from rdm_batch.inputs.databases import Database, engine_for
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.database import ProposalRecord
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.exact import recall_at_k
from rdm_batch.retrieval.proposal import (
    Proposal,
    count_neighbors,
    merge_counts,
    top_overlap,
    total_variation,
)
from rdm_batch.specs.database import EngineChoice
from rdm_batch.storage.object_store import open_store

BLOCK_IMAGES = 2_048
"""Images whose neighbors are counted as one by an index: some seconds, and all that is lost."""
GROUP_IMAGES = 1 << 17
"""Images that the exact engine takes past all rows at once: a quarter of a GB of width 512."""
CHECKED_IMAGES = 10_000
"""Images, at most, whose neighbors are also looked for exactly, to judge the counts of an index."""
CHECKED_SHARE = 0.01
_FEWEST_CHECKED = 256
TOP_MS = (0.01, 0.1, 0.5)
"""Values of ``top_m`` for which kept rows are compared: the first is the best of the paper."""
_IDENTITY = b"rdm_batch.counts"


@dataclass(frozen=True)
class Counting:
    """Say how neighbors are counted.

    Attributes:
        k: Neighbors of each image.
        engine: What looks for them.
        share: Share of the training set that was encoded, for the record.
        workers: Workers that count blocks.
        threads: Blocks a worker counts at once.
        on_gpus: Whether the exact engine may use GPUs.
    """

    k: int
    engine: EngineChoice = "auto"
    share: float = 1.0
    workers: int = 1
    threads: int = 1
    on_gpus: bool = True


@dataclass(frozen=True)
class _Block:
    """Embeddings of consecutive images, and the file that what comes of them is kept in."""

    first: int
    last: int
    embeddings: Float32[np.ndarray, "n dim"]
    kept: Path
    identity: bytes


class NeighborCounter:
    """Count how often rows are neighbors of some images.

    Args:
        number: Number of this worker.
    """

    def __init__(self, number: int) -> None:
        self._number = number

    def count(self, block: _Block, retriever: CompositeRetriever, k: int) -> Proposal:
        """Count the k nearest rows of every image of a block."""
        return count_neighbors(retriever.search(block.embeddings, k).ids)


class _Images:
    """Give ranges of embeddings out of pieces, of which the last one read is kept.

    Args:
        parts: The pieces.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._starts = [0, *accumulate(parts.sizes)]
        self._read: tuple[int, Float32[np.ndarray, "n dim"]] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def between(self, first: int, last: int) -> Float32[np.ndarray, "n dim"]:
        """Read a range that holds at least one image."""
        low, high = np.searchsorted(self._starts, [first + 1, last], side="left") - 1
        found = [
            self._piece(number)[max(0, first - self._starts[number]) : last - self._starts[number]]
            for number in range(int(low), int(high) + 1)
        ]
        return np.concatenate(found)

    def at(self, places: list[int]) -> Float32[np.ndarray, "n dim"]:
        """Read single images, given in order."""
        return np.concatenate([self.between(place, place + 1) for place in places])

    def _piece(self, number: int) -> Float32[np.ndarray, "n dim"]:
        if self._read is None or self._read[0] != number:
            rows = self._parts.load(number).embeddings.astype(np.float32)
            check_embeddings(rows, "training set", self._starts[number])
            self._read = number, rows
        return self._read[1]


def count_proposal(
    cluster: Cluster,
    database: Database,
    training: Parts,
    counting: Counting,
    work: Path,
    progress: Progress,
) -> tuple[Proposal, ProposalRecord]:
    """Count how often each row is among the k nearest of an image of the training set.

    Args:
        cluster: Where blocks are counted.
        database: The database, which workers can open; its manifest need not be stored yet.
        training: Embeddings of the training set.
        counting: How they are counted.
        work: Folder that finished blocks are kept in.
        progress: Shows the images, or the rows of every group of them, that are done.

    Returns:
        The counts, and how they were made. Counts of an index are judged by exact ones of some of
        the images, chosen evenly: at most 10,000, at least 256, else one in a hundred.

    Raises:
        DatabaseError: A file of the database or of finished blocks is damaged, or there is no
            image.
        SpecError: There are fewer rows than neighbors.
        ClusterError: A worker was lost more often than it may be brought back.
    """
    images = _Images(training)
    if not len(images):
        raise DatabaseError("training set", "holds no image that can be read", "at least one")
    check_neighbors(counting.k, database.manifest.left)
    engine = engine_for(counting.engine, database.manifest)
    count = _count_exactly if engine == "exact" else _count_by_index
    counts, judged = count(cluster, database, images, counting, work / "counts", progress)
    record = ProposalRecord(
        images=len(images), k=counting.k, share=counting.share, engine=engine, **judged
    )
    return merge_counts(counts), record


def check_neighbors(k: int, rows: int) -> None:
    """Refuse to count more neighbors than there are rows.

    Raises:
        SpecError: There are fewer.
    """
    if k > rows:
        raise SpecError("--proposal-k", f"{k} neighbors of {rows} rows", f"at most {rows}")


def _count_exactly(
    cluster: Cluster,
    database: Database,
    images: _Images,
    counting: Counting,
    folder: Path,
    progress: Progress,
) -> tuple[list[Proposal], dict[str, Any]]:
    """Take groups of images past all rows, one after the other."""
    counts = []
    store = open_store(str(folder), DatabaseError)
    total = math.ceil(len(images) / GROUP_IMAGES)
    for number, block in enumerate(_blocks(images, database, counting, folder, GROUP_IMAGES), 1):
        found = _kept(block)
        if found is None:
            state = f"rows-{block.first:010d}.parquet"
            best = search_all_rows(
                cluster,
                database,
                block.embeddings,
                counting.k,
                store,
                state,
                progress,
                workers=counting.workers,
                on_gpus=counting.on_gpus,
                doing="count neighbors" + (f" ({number} of {total})" if total > 1 else ""),
            )
            found = count_neighbors(best.ids)
            _keep(block, found)
            store.delete(state)
        counts.append(found)
    return counts, {}


def _count_by_index(
    cluster: Cluster,
    database: Database,
    images: _Images,
    counting: Counting,
    folder: Path,
    progress: Progress,
) -> tuple[list[Proposal], dict[str, Any]]:
    """Ask the index for ranges of images, and judge what it counts."""
    counts: list[Proposal] = []
    with cluster.retriever(database, RetrieverNeeds()) as retriever:
        stage = progress.stage("count neighbors", total=len(images), unit="images")

        def missing() -> Iterator[_Block]:
            for block in _blocks(images, database, counting, folder, BLOCK_IMAGES):
                found = _kept(block)
                if found is None:
                    yield block
                    continue
                counts.append(found)
                stage.advance(block.last - block.first)

        needs = WorkerNeeds(in_flight=counting.threads)
        with cluster.workers(NeighborCounter, counting.workers, needs) as pool:
            done = pool.map(
                NeighborCounter.count,
                missing(),
                where=lambda block: f"neighbors of images {block.first:,} to {block.last:,}",
                shared=(retriever, counting.k),
            )
            for block, found in done:
                _keep(block, found)
                counts.append(found)
                stage.advance(block.last - block.first)
        stage.finish()
        kinds = {shard.index.resolve(shard.rows).kind for shard in database.manifest.shards}
        if kinds == {"brute_force"}:  # scans find all there is
            return counts, {}
        return counts, _judged(cluster, database, retriever, images, counting, folder, progress)


def _judged(
    cluster: Cluster,
    database: Database,
    retriever: CompositeRetriever,
    images: _Images,
    counting: Counting,
    folder: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Compare what an index counts for some images with what is counted exactly for them."""
    wanted = max(_FEWEST_CHECKED, min(CHECKED_IMAGES, round(CHECKED_SHARE * len(images))))
    places = np.unique(np.linspace(0, len(images) - 1, wanted).astype(np.int64))
    queries, k = images.at(places.tolist()), counting.k
    exact = search_all_rows(
        cluster,
        database,
        queries,
        k,
        open_store(str(folder), DatabaseError),
        "checked.parquet",
        progress,
        workers=counting.workers,
        on_gpus=counting.on_gpus,
        doing="compare with exact",
    )
    searched = [
        retriever.search(queries[start : start + BLOCK_IMAGES], k)
        for start in range(0, len(queries), BLOCK_IMAGES)
    ]
    found = count_neighbors(np.concatenate([part.ids for part in searched]))
    scores = np.concatenate([part.scores for part in searched])
    true = count_neighbors(exact.ids)
    return {
        "checked": len(queries),
        "recall": recall_at_k(scores, exact.scores),
        "total_variation": total_variation(found, true),
        "overlaps": tuple((top_m, top_overlap(found, true, top_m)) for top_m in TOP_MS),
    }


def _blocks(
    images: _Images, database: Database, counting: Counting, folder: Path, size: int
) -> Iterator[_Block]:
    """Cut images into blocks, each with what its counts follow from."""
    manifest = database.manifest
    rows = manifest.digest or manifest.content_digest()
    engine = engine_for(counting.engine, manifest)
    for first in range(0, len(images), size):
        last = min(first + size, len(images))
        embeddings = images.between(first, last)
        digest = hashlib.sha256(f"{rows} {engine} {counting.k} {embeddings.shape}".encode())
        digest.update(np.ascontiguousarray(embeddings).data)
        name = f"block-{first:010d}.parquet"
        yield _Block(first, last, embeddings, folder / name, digest.hexdigest().encode())


def _kept(block: _Block) -> Proposal | None:
    """Read the counts of a block that was finished before; None where there are none of it."""
    if not block.kept.is_file():
        return None
    try:
        table = pq.read_table(block.kept)
        if (table.schema.metadata or {}).get(_IDENTITY) != block.identity:
            return None
        row_ids, counts = (table.column(name).to_numpy() for name in ("row_id", "count"))
        return Proposal(row_ids.astype(np.int64), counts.astype(np.int64))
    except (pa.ArrowException, DatabaseError, *UNREADABLE) as error:
        raise damaged_record(block.kept, str(error)) from None


def _keep(block: _Block, counts: Proposal) -> None:
    """Write the counts of a block, complete or not at all."""
    table = pa.table({"row_id": counts.row_ids, "count": counts.counts})
    with written_aside(block.kept) as aside:
        pq.write_table(
            table.replace_schema_metadata({_IDENTITY: block.identity}), aside, compression="zstd"
        )
