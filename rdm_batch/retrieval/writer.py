"""Write the files of a database shard by shard. The manifest comes last, elsewhere."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from rdm_batch.errors import DatabaseError
from rdm_batch.files import PARTIAL_SUFFIX
from rdm_batch.retrieval.database import DatabaseShard, StoredFile, stored_file
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k
from rdm_batch.retrieval.index import (
    PARTITIONED,
    ShardIndex,
    build_index,
    load_index,
    save_index,
)
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.rows import write_rows
from rdm_batch.retrieval.shard import ShardSearcher
from rdm_batch.retrieval.tables import ShardRows, write_counts, write_embeddings, write_thumbnails
from rdm_batch.retrieval.tuning import held_out, time_searches, tune
from rdm_batch.retrieval.upper_level import (
    UPPER_LEVEL_FROM,
    add_upper_level,
    is_worth_it,
    remove_upper_level,
    upper_level_for,
)
from rdm_batch.specs.database import IndexSettings

_RECALL_QUERIES = 64
_RECALL_K = 20
_MAPPED = ("tree_soar", "none")
"""Kinds whose rows are mapped from a file of their own, beside the table."""


@dataclass(frozen=True)
class BuiltIndex:
    """What indexing one shard gave, wherever it was done.

    Attributes:
        fields: Of the shard's record.
        files: Content of each file of the index, by name.
    """

    fields: dict[str, Any]
    files: dict[str, bytes]


def write_shard(
    root: Path,
    number: int,
    rows: ShardRows,
    settings: IndexSettings,
    num_threads: int = 1,
    captions: Float32[np.ndarray, "texts dim"] | None = None,
) -> DatabaseShard:
    """Write one shard's tables and index, replacing what an interrupted build left.

    Args:
        root: Local database folder.
        number: Shard number.
        rows: The rows, embeddings in the type they are stored in.
        settings: Index settings, resolved here for this shard.
        num_threads: Training threads, at least 1.
        captions: Embeddings of captions, to tune the search for texts on. None where there are
            none.

    Raises:
        DatabaseError: A row is not finite or zero, or a column has another length.
    """
    shard = write_tables(root, number, rows, settings)
    where = f"{root} shard {number}"
    built = index_rows(rows.embeddings, settings, where, num_threads, captions)
    return put_index(root, number, shard, built)


def write_tables(
    root: Path, number: int, rows: ShardRows, settings: IndexSettings
) -> DatabaseShard:
    """Write all of a shard but its index; arguments as :func:`write_shard`."""
    where = f"{root} shard {number}"
    check_embeddings(rows.embeddings, where, rows.first_row)
    _check_lengths(rows, where)
    name = _name(number)
    resolved = settings.resolve(len(rows.embeddings))
    mapped = resolved.kind in _MAPPED
    embeddings_path = root / "embeddings" / f"{name}.parquet"
    write_embeddings(embeddings_path, rows, with_rows=not mapped)
    rows_file = None
    if mapped:
        rows_path = root / "rows" / f"{name}.npy"
        write_rows(rows_path, rows.embeddings)
        rows_file = stored_file(root, rows_path)
    thumbnails = None
    if rows.thumbnails is not None:
        thumbnails_path = root / "thumbnails" / f"{name}.parquet"
        write_thumbnails(thumbnails_path, rows.first_row, rows.thumbnails)
        thumbnails = stored_file(root, thumbnails_path)
    images = None
    if rows.images is not None:
        images_path = root / "images" / f"{name}.parquet"
        write_thumbnails(images_path, rows.first_row, rows.images)
        images = stored_file(root, images_path)
    return DatabaseShard(
        rows=len(rows.embeddings),
        first_row=rows.first_row,
        index=resolved,
        embeddings=stored_file(root, embeddings_path),
        thumbnails=thumbnails,
        rows_file=rows_file,
        images=images,
    )


def index_rows(
    embeddings: Float[np.ndarray, "rows dim"],
    settings: IndexSettings,
    where: str,
    num_threads: int = 1,
    captions: Float32[np.ndarray, "texts dim"] | None = None,
    doing: Callable[[str], object] | None = None,
) -> BuiltIndex:
    """Index and tune the rows of a shard.

    Args:
        embeddings: The rows.
        settings: As of :func:`write_shard`, like those that follow.
        where: URI or description used in messages.
        num_threads: Training threads, at least 1.
        captions: Embeddings of captions.
        doing: Told what begins after leaves and codes have been learned.

    Raises:
        DatabaseError: A row is not finite or zero, or there are too few rows for a tree.
    """
    resolved = settings.resolve(len(embeddings))
    if resolved.kind not in PARTITIONED:
        return BuiltIndex({"index": resolved}, {})
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "index"
        built, names = _build_into(folder, embeddings, settings, where, num_threads)
        index = load_index(folder, names, len(embeddings), built)
        fields: dict[str, Any] = {"index": built, "scann": version("scann")}
        if resolved.kind == "tree_soar":
            doing = doing or (lambda _: None)
            fields |= _tuned(index, embeddings, captions, where, doing)
            if (built.leaves or 1) > UPPER_LEVEL_FROM:
                before = add_upper_level(folder, upper_level_for(built.leaves or 1))
                index = load_index(folder, names, len(embeddings), built)
                found = _tuned(index, embeddings, captions, where, doing)
                if is_worth_it(fields["tuned"], found["tuned"]):
                    fields |= found
                else:
                    remove_upper_level(folder, before)
        else:
            searcher = ShardSearcher(embeddings, index, where=where)
            fields["recall_at_20"] = measure_recall(searcher, embeddings)
        return BuiltIndex(fields, {name: (folder / name).read_bytes() for name in names})


def _build_into(
    folder: Path,
    embeddings: Float[np.ndarray, "rows dim"],
    settings: IndexSettings,
    where: str,
    num_threads: int,
) -> tuple[IndexSettings, list[str]]:
    """Build and store an index, of which nothing stays in memory; give settings, file names."""
    index = build_index(embeddings, settings, where, num_threads)
    return index.settings, [path.name for path in save_index(index, folder)]


def put_index(root: Path, number: int, shard: DatabaseShard, built: BuiltIndex) -> DatabaseShard:
    """Write the files of an index aside, so that under its name there is a whole one or none.

    Args:
        root: Local database folder.
        number: Shard number.
        shard: Of :func:`write_tables`.
        built: Of :func:`index_rows`.

    Returns:
        The whole record of the shard.
    """
    folder = root / "index" / _name(number)
    aside = folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")
    for old in (aside, folder):
        shutil.rmtree(old, ignore_errors=True)
    if built.files:
        aside.mkdir(parents=True)
        for name, content in built.files.items():
            (aside / name).write_bytes(content)
        aside.replace(folder)
    files = tuple(stored_file(root, folder / name) for name in sorted(built.files))
    return shard.model_copy(update=built.fields | {"index_files": files})


def _name(number: int) -> str:
    return f"shard-{number:05d}"


def _tuned(
    index: ShardIndex,
    embeddings: Float[np.ndarray, "rows dim"],
    captions: Float32[np.ndarray, "texts dim"] | None,
    where: str,
    doing: Callable[[str], object],
) -> dict[str, Any]:
    """Tune the search for each kind of query; give the fields that say how."""
    tuned, latency = [], []
    for asked in held_out(embeddings, captions):
        doing(f"tune for {asked.kind}")
        found = tune(index, embeddings, asked, index.settings.target_recall)
        effort = {"leaves_to_search": found.leaves_to_search, "reorder": found.reorder}
        used = index.searching(index.settings.model_copy(update=effort))
        tuned.append(found)
        latency.append(time_searches(ShardSearcher(embeddings, used, where=where), asked))
    pictures = {"leaves_to_search": tuned[0].leaves_to_search, "reorder": tuned[0].reorder}
    return {
        "index": index.settings.model_copy(update=pictures),
        "tuned": tuple(tuned),
        "latency": tuple(latency),
        "recall_at_20": tuned[0].recall,
    }


def measure_recall(searcher: ShardSearcher, embeddings: Float[np.ndarray, "rows dim"]) -> float:
    """Measure recall@20 of a shard on queries spread evenly over its own rows."""
    k = min(_RECALL_K, len(embeddings))
    chosen = np.linspace(0, len(embeddings) - 1, min(_RECALL_QUERIES, len(embeddings)))
    queries = embeddings[chosen.astype(np.int64)].astype(np.float32)
    exact = exact_top_k(embeddings, queries, k)[1]
    return recall_at_k(searcher.search(queries, k).scores, exact)


def write_proposal(root: Path, proposal: Proposal, name: str = "proposal.parquet") -> StoredFile:
    """Write the proposal distribution of a database."""
    path = root / name
    write_counts(path, proposal.row_ids, proposal.counts)
    return stored_file(root, path)


def _check_lengths(rows: ShardRows, where: str) -> None:
    columns = {
        "item_ids": rows.item_ids,
        "patch_coords": rows.patch_coords,
        "captions": rows.captions,
        "thumbnails": rows.thumbnails,
        "images": rows.images,
        "urls": rows.urls,
    }
    for name, column in columns.items():
        if column is not None and len(column) != len(rows.embeddings):
            raise DatabaseError(
                where, f"{len(column)} {name}", f"{len(rows.embeddings)}, one per embedding"
            )
