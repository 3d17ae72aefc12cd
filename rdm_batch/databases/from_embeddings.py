"""Build a database of embeddings that were made elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from pydantic import JsonValue

from rdm_batch.cluster.local import LocalCluster
from rdm_batch.databases.embedding_files import (
    PIECE_ROWS,
    EmbeddingFile,
    EmbeddingParts,
    open_embedding_files,
)
from rdm_batch.databases.parts import Indexing, write_shards
from rdm_batch.databases.room import check_shards
from rdm_batch.databases.target import DatabaseTarget
from rdm_batch.errors import DatabaseError, SpecError
from rdm_batch.files import file_sha256
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest, EncoderRecord, SourceRecord
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.specs.database_embeddings import DatabaseOfEmbeddings
from rdm_batch.storage.object_store import local_path, redact


def build_from_embeddings(request: DatabaseOfEmbeddings, progress: Progress) -> DatabaseManifest:
    """Build a database of given embeddings, or finish what an interrupted build began.

    Every row is looked at before anything is written. Captions and addresses that stand beside the
    embeddings come along; pictures do not.

    Args:
        request: What to build.
        progress: Shows the stages.

    Returns:
        The manifest of the complete database.

    Raises:
        DatabaseError: The files are damaged, do not fit each other, or hold a row that is not
            finite or zero; or the location holds something else.
        SpecError: There are fewer rows than shards.
    """
    with progress.step("look at the embeddings"):
        path = local_path(request.embeddings, error=DatabaseError)
        metadata = None
        if request.metadata is not None:
            metadata = local_path(request.metadata, error=DatabaseError)
        files = open_embedding_files(path, metadata, request.column)
        described = _describe(request, files)
    rows = sum(file.vectors.num_rows for file in files)
    if request.shards > rows:
        raise SpecError("--shards", f"{request.shards} of {rows} rows", f"1 to {rows:,}")
    check_shards(request.shards, rows, files[0].vectors.dim)
    target = DatabaseTarget(request.out, described)
    finished = target.finished()
    if finished is not None:
        return finished
    parts = EmbeddingParts(files)
    stage = progress.stage("check", total=rows, unit="rows")
    for file in files:
        _check_rows(file, stage.advance)
    stage.finish()
    with target.exclusive():
        stage = progress.stage("index", total=rows, unit="rows")
        indexing = Indexing(request.index, LocalCluster(), num_threads=os.cpu_count() or 1)
        shards = write_shards(target.root, target.work, parts, request.shards, indexing, stage)
        first = files[0].vectors
        kind: Literal["float16", "float32"] = "float16" if first.dtype == "float16" else "float32"
        return target.publish(
            DatabaseManifest(
                rows=rows,
                dim=first.dim,
                dtype=kind,
                encoder=EncoderRecord(name=request.encoder, digest=request.encoder_digest),
                source=SourceRecord(
                    description=f"embeddings {redact(request.embeddings)}", images=rows
                ),
                build=described,
                shards=shards,
            )
        )


def _describe(request: DatabaseOfEmbeddings, files: list[EmbeddingFile]) -> dict[str, JsonValue]:
    """Name everything that decides the content, and nothing else."""
    names = {file.vectors.path: None for file in files} | {
        file.metadata: None for file in files if file.metadata is not None
    }
    return {
        "embeddings": {path.name: file_sha256(path) for path in names},
        "column": request.column,
        "encoder": request.encoder,
        "encoder_digest": request.encoder_digest,
        "shards": request.shards,
        "index": request.index.model_dump(mode="json"),
    }


def _check_rows(file: EmbeddingFile, advance: Callable[[int], object]) -> None:
    """Refuse rows without a direction, before the first shard is indexed."""
    vectors = file.vectors
    for start in range(0, vectors.num_rows, PIECE_ROWS):
        rows = vectors.read(start, start + PIECE_ROWS)
        check_embeddings(rows, str(vectors.path), start)
        advance(len(rows))
