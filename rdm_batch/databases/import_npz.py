"""Import the databases that the authors of RDM published into this package's layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from rdm_batch.cluster.local import LocalCluster
from rdm_batch.databases.parts import Indexing, write_shards
from rdm_batch.databases.room import check_shards
from rdm_batch.databases.target import DatabaseTarget
from rdm_batch.datasets.patches import Box
from rdm_batch.errors import DatabaseError, SpecError
from rdm_batch.files import file_sha256
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest, EncoderRecord, SourceRecord
from rdm_batch.retrieval.neighbor_memory import read_neighbor_memory
from rdm_batch.retrieval.npz_parts import order_parts, read_part
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.writer import write_proposal
from rdm_batch.specs.database import DatabaseImport
from rdm_batch.storage.object_store import local_path


class _PublishedParts:
    """Load published parts as rows, one at a time."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.sizes: list[int] = []
        self.shapes: set[tuple[int, str]] = set()
        for path in paths:  # one after the other: published databases exceed the memory
            embeddings = read_part(path).embeddings
            self.sizes.append(len(embeddings))
            self.shapes.add((embeddings.shape[1], embeddings.dtype.name))

    def load(self, number: int) -> ShardRows:
        """Load one part."""
        part = read_part(self._paths[number])
        boxes: list[Box | None] = [None] * len(part.embeddings)
        if part.patch_coords is not None:
            boxes = [(x0, y0, x1, y1) for x0, y0, x1, y1 in part.patch_coords.tolist()]
        return ShardRows(
            first_row=0,
            embeddings=part.embeddings,
            item_ids=[str(image) for image in part.image_ids.tolist()],
            patch_coords=boxes,
            captions=[None] * len(part.embeddings),
            thumbnails=None,
        )


def _parts_in_order(request: DatabaseImport) -> list[Path]:
    if request.order is not None:
        folder = local_path(request.parts[0], error=DatabaseError)
        return order_parts(folder, request.order)
    paths = [local_path(part, error=DatabaseError) for part in request.parts]
    repeated = [path.name for path in paths if sum(other.name == path.name for other in paths) > 1]
    if repeated:
        raise DatabaseError(repeated[0], "stands twice", "every part exactly once, in row order")
    return paths


def _folder_of(part: str) -> str:
    return (part.rpartition("/")[0] or ".") if part.endswith(".npz") else part


def import_database(request: DatabaseImport, progress: Progress) -> DatabaseManifest:
    """Import a published database with its neighbor memory.

    Rows keep their values and their order, so row ids of the neighbor memory stay valid.

    Args:
        request: What to import.
        progress: Shows the stages.

    Returns:
        The manifest of the complete database.

    Raises:
        DatabaseError: A part is damaged, the order is incomplete, the neighbor memory
            names other rows, or the location holds something else.
        SpecError: There are fewer rows than shards.
    """
    paths = _parts_in_order(request)
    # What the manifest has always called them: the folder, as it was given.
    where = ", ".join(dict.fromkeys(map(_folder_of, request.parts)))
    described: dict[str, JsonValue] = {
        "parts": {path.name: file_sha256(path) for path in paths},
        "order": [path.stem for path in paths],
        "encoder": request.encoder,
        "encoder_digest": request.encoder_digest,
        "shards": request.shards,
        "index": request.index.model_dump(mode="json"),
        "neighbor_memory": None,
    }
    memory = None
    if request.neighbor_memory is not None:
        memory_path = local_path(request.neighbor_memory, error=DatabaseError)
        memory = read_neighbor_memory(memory_path)
        described["neighbor_memory"] = file_sha256(memory_path)
    target = DatabaseTarget(request.out, described)
    finished = target.finished()
    if finished is not None:
        return finished
    parts = _PublishedParts(paths)
    rows = sum(parts.sizes)
    if len(parts.shapes) != 1:
        raise DatabaseError(
            where, f"parts of widths and types {sorted(parts.shapes)}", "one of each"
        )
    if not 1 <= request.shards <= rows:
        raise SpecError("--shards", f"{request.shards} of {rows} rows", f"1 to {rows}")
    check_shards(request.shards, rows, next(iter(parts.shapes))[0])
    if memory is not None:
        memory.check_rows(rows)
    [(dim, dtype)] = parts.shapes
    with target.exclusive():
        indexing = Indexing(request.index, LocalCluster(), num_threads=os.cpu_count() or 1)
        shards = write_shards(target.root, target.work, parts, request.shards, indexing, progress)
        kind: Literal["float16", "float32"] = "float16" if dtype == "float16" else "float32"
        return target.publish(
            DatabaseManifest(
                rows=rows,
                dim=dim,
                dtype=kind,
                encoder=EncoderRecord(name=request.encoder, digest=request.encoder_digest),
                source=SourceRecord(description=f"published parts {where}", images=rows),
                build=described,
                shards=shards,
                proposal=None if memory is None else write_proposal(target.root, memory),
            )
        )
