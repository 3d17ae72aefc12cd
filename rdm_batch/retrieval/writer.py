"""Write the files of a database shard by shard. The manifest comes last, elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rdm_batch.errors import DatabaseError
from rdm_batch.files import PARTIAL_SUFFIX
from rdm_batch.retrieval.database import DatabaseShard, StoredFile, stored_file
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.exact import exact_top_k, recall_at_k
from rdm_batch.retrieval.index import ShardIndex, build_index, save_index
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.shard import ShardSearcher
from rdm_batch.retrieval.tables import ShardRows, write_counts, write_embeddings, write_thumbnails
from rdm_batch.specs.database import IndexSettings

_RECALL_QUERIES = 64
_RECALL_K = 20


def write_shard(
    root: Path, number: int, rows: ShardRows, settings: IndexSettings, num_threads: int = 1
) -> DatabaseShard:
    """Write one shard's tables and index, replacing what an interrupted build left.

    Args:
        root: Local database folder.
        number: Shard number.
        rows: The rows, embeddings in the type they are stored in.
        settings: Index settings, resolved here for this shard.
        num_threads: Training threads, at least 1.

    Raises:
        DatabaseError: A row is not finite or zero, or a column has another length.
    """
    where = f"{root} shard {number}"
    check_embeddings(rows.embeddings, where, rows.first_row)
    _check_lengths(rows, where)
    name = f"shard-{number:05d}"
    embeddings_path = root / "embeddings" / f"{name}.parquet"
    write_embeddings(embeddings_path, rows)
    thumbnails = None
    if rows.thumbnails is not None:
        thumbnails_path = root / "thumbnails" / f"{name}.parquet"
        write_thumbnails(thumbnails_path, rows.first_row, rows.thumbnails)
        thumbnails = stored_file(root, thumbnails_path)
    index = build_index(rows.embeddings, settings, where, num_threads)
    index_files = tuple(
        stored_file(root, path) for path in _save_index(index, root / "index" / name)
    )
    recall = None
    if index.settings.kind == "tree_ah":
        searcher = ShardSearcher(rows.embeddings, index, where=where)
        recall = measure_recall(searcher, rows.embeddings)
    return DatabaseShard(
        rows=len(rows.embeddings),
        first_row=rows.first_row,
        index=index.settings,
        recall_at_20=recall,
        embeddings=stored_file(root, embeddings_path),
        thumbnails=thumbnails,
        index_files=index_files,
    )


def _save_index(index: ShardIndex, folder: Path) -> list[Path]:
    """Save an index aside, so that under its own name there is a whole one or none."""
    aside = folder.with_name(f".{folder.name}{PARTIAL_SUFFIX}")
    for old in (aside, folder):
        shutil.rmtree(old, ignore_errors=True)
    saved = save_index(index, aside)
    if saved:
        aside.replace(folder)
    return [folder / path.name for path in saved]


def measure_recall(searcher: ShardSearcher, embeddings: Float[np.ndarray, "rows dim"]) -> float:
    """Measure recall@20 of a shard on queries spread evenly over its own rows."""
    k = min(_RECALL_K, len(embeddings))
    chosen = np.linspace(0, len(embeddings) - 1, min(_RECALL_QUERIES, len(embeddings)))
    queries = embeddings[chosen.astype(np.int64)].astype(np.float32)
    exact = exact_top_k(embeddings, queries, k)[1]
    return recall_at_k(searcher.search(queries, k).scores, exact)


def write_proposal(root: Path, proposal: Proposal) -> StoredFile:
    """Write the proposal distribution of a database."""
    path = root / "proposal.parquet"
    write_counts(path, proposal.row_ids, proposal.counts)
    return stored_file(root, path)


def _check_lengths(rows: ShardRows, where: str) -> None:
    columns = {
        "item_ids": rows.item_ids,
        "patch_coords": rows.patch_coords,
        "captions": rows.captions,
        "thumbnails": rows.thumbnails,
    }
    for name, column in columns.items():
        if column is not None and len(column) != len(rows.embeddings):
            raise DatabaseError(
                where, f"{len(column)} {name}", f"{len(rows.embeddings)}, one per embedding"
            )
