"""Build a database of embeddings that were made elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Literal

from pydantic import JsonValue

from rdm_batch.databases.build import workers_of
from rdm_batch.databases.embedding_files import (
    PIECE_ROWS,
    ChosenParts,
    EmbeddingFile,
    EmbeddingParts,
    RowPictures,
    open_embedding_files,
)
from rdm_batch.databases.parts import Indexing, write_shards
from rdm_batch.databases.proposal import (
    PROPOSAL_REQUEST,
    count_again,
    counted,
    counting_of,
    describe_counting,
    workers_elsewhere,
)
from rdm_batch.databases.proposal_counts import check_neighbors
from rdm_batch.databases.room import check_memory, check_shards, shards_needed
from rdm_batch.databases.target import DatabaseTarget
from rdm_batch.errors import DatabaseError, ImageError, SpecError
from rdm_batch.files import canonical_digest, file_sha256
from rdm_batch.inputs.images import open_images
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest, EncoderRecord, SourceRecord
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.specs.database_embeddings import DatabaseOfEmbeddings
from rdm_batch.storage.object_store import local_path, redact


def build_from_embeddings(request: DatabaseOfEmbeddings, progress: Progress) -> DatabaseManifest:
    """Build a database of given embeddings, or finish what an interrupted build began.

    Every row is looked at before anything is written. Captions and addresses that stand beside the
    embeddings come along, and thumbnails of the pictures where they are named.

    Args:
        request: What to build.
        progress: Shows the stages.

    Returns:
        The manifest of the complete database.

    Raises:
        DatabaseError: The files are damaged, do not fit each other, or hold a row that is not
            finite or zero; or the location holds something else.
        ImageError: There are not as many pictures as rows, or one cannot be decoded.
        SpecError: There are fewer rows than shards or than neighbors to count, or the ceiling of
            memory is too low.
        ClusterError: Ray cannot be joined, or has too few CPUs for the workers.
    """
    with progress.step("look at the embeddings"):
        files = open_embeddings(request.embeddings, request.metadata, request.column)
        training = None
        if request.proposal_from is not None:
            training = open_embeddings(request.proposal_from)
        pictures, fingerprint = None, None
        if request.pictures is not None:
            source, fingerprint = open_images(request.pictures)
            pictures = RowPictures(source, request.thumbnail_size)
    first, rows = files[0].vectors, sum(file.vectors.num_rows for file in files)
    num_shards = request.shards or shards_needed(rows, first.dim)
    request = request.model_copy(update={"shards": num_shards})
    _check_fit(request, first.dim, rows, training, pictures)
    kind: Literal["float16", "float32"] = "float16" if first.dtype == "float16" else "float32"
    check_shards(num_shards, rows, first.dim)
    check_memory(request.memory, num_shards, rows, first.dim, kind, request.workers)
    with progress.step("digest the embeddings"):
        described = _describe(request, files, training, fingerprint)
    target = DatabaseTarget(request.out, described)
    before = target.to_count_again(PROPOSAL_REQUEST) if training is not None else None
    finished = target.finished() if before is None else None
    if finished is not None:
        return finished
    if before is not None:
        target.unfinished()
    looked_at = [*(files if before is None else ()), *(training or ())]
    stage = progress.stage("check", sum(file.vectors.num_rows for file in looked_at), "rows")
    for file in looked_at:
        check_rows(file, stage.advance)
    stage.finish()
    with target.exclusive(), workers_of(request) as cluster:
        manifest = before
        if manifest is None:
            threads = (os.cpu_count() or 1) if request.workers == 1 else 1
            indexing = Indexing(request.index, cluster, request.workers, threads)
            parts = EmbeddingParts(files, pictures)
            shards = write_shards(target.root, target.work, parts, num_shards, indexing, progress)
            manifest = DatabaseManifest(
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
        if training is not None:
            device = "cuda" if cluster.resources.num_gpus else "cpu"
            counting = counting_of(request, device)
            queries = ChosenParts(EmbeddingParts(training), request.proposal_sample)
            if before is not None:
                return count_again(target, before, cluster, queries, counting, progress)
            manifest = counted(
                target, manifest, workers_elsewhere(request), cluster, queries, counting, progress
            )
        with progress.step("publish"):
            return target.publish(manifest)


def open_embeddings(
    location: str, metadata: str | None = None, column: str | None = None
) -> list[EmbeddingFile]:
    """Find embeddings; arguments as the fields of the request.

    Raises:
        DatabaseError: They are damaged, or do not fit each other.
    """
    path = local_path(location, error=DatabaseError)
    known = None if metadata is None else local_path(metadata, error=DatabaseError)
    return open_embedding_files(path, known, column)


def _check_fit(
    request: DatabaseOfEmbeddings,
    dim: int,
    rows: int,
    training: list[EmbeddingFile] | None,
    pictures: RowPictures | None,
) -> None:
    """Refuse what does not go together, before a row is read.

    Raises:
        DatabaseError: The training set has another width.
        ImageError: There are not as many pictures as rows.
        SpecError: There are fewer rows than shards, or than neighbors to count.
    """
    if request.shards is not None and request.shards > rows:
        raise SpecError("--shards", f"{request.shards} of {rows} rows", f"1 to {rows:,}")
    if training is not None and training[0].vectors.dim != dim:
        raise DatabaseError(
            str(training[0].vectors.path),
            f"holds rows of {training[0].vectors.dim} numbers",
            f"{dim}, as the database",
            "give embeddings of the same encoder",
        )
    if training is not None:
        check_neighbors(request.proposal_k, rows)
    if pictures is not None and len(pictures.source) != rows:
        raise ImageError(
            str(request.pictures),
            f"holds {len(pictures.source):,} images",
            f"{rows:,}, one for each row in the same order",
            "name the source that the embeddings were made of, or build without pictures",
        )


def _describe(
    request: DatabaseOfEmbeddings,
    files: list[EmbeddingFile],
    training: list[EmbeddingFile] | None,
    pictures: str | None,
) -> dict[str, JsonValue]:
    """Name everything that decides the content, and nothing else."""
    others: dict[str, JsonValue] = {}
    # Not where they say nothing: requests of before answer to the same.
    if training is not None:
        fingerprint = f"sha256:{canonical_digest(digests_of(training))}"
        others |= describe_counting(request, fingerprint)
    if pictures is not None:
        others |= {"pictures": pictures, "thumbnail_size": request.thumbnail_size}
    return {
        "embeddings": digests_of(files),
        "column": request.column,
        "encoder": request.encoder,
        "encoder_digest": request.encoder_digest,
        "shards": request.shards,
        "index": request.index.model_dump(mode="json"),
        **others,
    }


def digests_of(files: list[EmbeddingFile]) -> dict[str, JsonValue]:
    """Digest every file of embeddings and of what is known of them, by name."""
    paths = {file.vectors.path: None for file in files} | {
        file.metadata: None for file in files if file.metadata is not None
    }
    return {path.name: file_sha256(path) for path in paths}


def check_rows(file: EmbeddingFile, advance: Callable[[int], object]) -> None:
    """Refuse rows without a direction, before the first shard is indexed."""
    vectors = file.vectors
    for start in range(0, vectors.num_rows, PIECE_ROWS):
        rows = vectors.read(start, start + PIECE_ROWS)
        check_embeddings(rows, str(vectors.path), start)
        advance(len(rows))
