"""Append embeddings that were made elsewhere to a database, as new shards."""

from __future__ import annotations

import os

import numpy as np

from rdm_batch.databases.build import workers_of
from rdm_batch.databases.embedding_files import EmbeddingParts, RowPictures
from rdm_batch.databases.from_embeddings import check_rows, digests_of, open_embeddings
from rdm_batch.databases.parts import Indexing, Parts, write_shards
from rdm_batch.databases.room import check_memory, shards_needed
from rdm_batch.databases.target import DatabaseTarget
from rdm_batch.errors import DatabaseError, ImageError
from rdm_batch.files import canonical_digest
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.images import open_images
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseChange, DatabaseManifest, SourceRecord
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.specs.database import IndexSettings
from rdm_batch.specs.database_embeddings import EmbeddingsAdd
from rdm_batch.storage.object_store import redact


def add_embeddings(request: EmbeddingsAdd, progress: Progress) -> DatabaseManifest:
    """Append embeddings, or finish what an interrupted call of the same request began.

    They become new shards, cut and indexed as the others were, in the type the database stores.
    A proposal distribution stays as it is.

    Args:
        request: What is added, and where.
        progress: Shows the stages.

    Returns:
        The manifest with the new rows; also when this very request was the last change.

    Raises:
        DatabaseError: There is no database, another encoder made it, another change is
            unfinished, or the embeddings are damaged or have another width.
        ImageError: There are not as many pictures as rows, or one cannot be decoded.
        SpecError: The ceiling of memory is too low.
        ClusterError: Ray cannot be joined, or has too few CPUs for the workers.
    """
    before = Database.open(request.out).manifest
    _check_encoder(request, before)
    with progress.step("look at the embeddings"):
        files = open_embeddings(request.embeddings, request.metadata, request.column)
        asked = canonical_digest({"add": digests_of(files), "pictures": request.pictures})
    if before.changes and before.changes[-1].request == asked:
        return before
    rows, dim = sum(file.vectors.num_rows for file in files), files[0].vectors.dim
    if dim != before.dim:
        found = f"holds rows of {dim} numbers"
        raise DatabaseError(str(files[0].vectors.path), found, f"{before.dim}, as the database")
    pictures = None
    if request.pictures is not None:
        source, _ = open_images(request.pictures)
        if len(source) != rows:
            found = f"holds {len(source):,} images"
            raise ImageError(request.pictures, found, f"{rows:,}, one for each row in their order")
        size = before.build.get("thumbnail_size")
        pictures = RowPictures(source, size if isinstance(size, int) and size else 64)
    num_shards = shards_needed(rows, dim)
    check_memory(request.memory, num_shards, rows, dim, before.dtype, request.workers)
    target = DatabaseTarget(request.out, {"add": asked, "to": before.digest})
    target.unfinished()
    stage = progress.stage("check", rows, "rows")
    for file in files:
        check_rows(file, stage.advance)
    stage.finish()
    with target.exclusive(), workers_of(request) as cluster:
        threads = (os.cpu_count() or 1) if request.workers == 1 else 1
        settings = IndexSettings.model_validate(before.build.get("index", {}))
        shards = write_shards(
            target.root,
            target.work,
            _AsStored(EmbeddingParts(files, pictures), before.dtype),
            num_shards,
            Indexing(settings, cluster, request.workers, threads),
            progress,
            len(before.shards),
            before.rows,
        )
        change = DatabaseChange(
            action="add",
            rows=rows,
            source=SourceRecord(
                description=f"embeddings {redact(request.embeddings)}", images=rows
            ),
            before=before.digest,
            request=asked,
        )
        manifest = before.model_copy(
            update={
                "rows": before.rows + rows,
                "shards": (*before.shards, *shards),
                "changes": (*before.changes, change),
            }
        )
        with progress.step("publish"):
            return target.publish(manifest, [file for shard in shards for file in shard.files()])


def _check_encoder(request: EmbeddingsAdd, before: DatabaseManifest) -> None:
    made = before.encoder
    digests = {made.digest, request.encoder_digest} - {None}
    if request.encoder != made.name or len(digests) > 1:
        raise DatabaseError(
            redact(request.out),
            f"was made by {made.name} {(made.digest or '')[:12]}".rstrip(),
            f"{request.encoder} {(request.encoder_digest or '')[:12]}".rstrip()
            + ", the encoder named here",
            "add embeddings of the encoder that made the database",
        )


class _AsStored:
    """Give rows in the type that a database stores.

    Args:
        parts: The rows.
        dtype: The type.
    """

    def __init__(self, parts: Parts, dtype: str) -> None:
        self._parts = parts
        self._dtype = dtype
        self.sizes = parts.sizes

    def load(self, number: int) -> ShardRows:
        """Load one piece; what overflows is refused as a row without direction."""
        rows = self._parts.load(number)
        with np.errstate(over="ignore"):
            stored = rows.embeddings.astype(self._dtype, copy=False)
        return ShardRows(
            rows.first_row,
            stored,
            rows.item_ids,
            rows.patch_coords,
            rows.captions,
            rows.thumbnails,
            rows.urls,
        )
