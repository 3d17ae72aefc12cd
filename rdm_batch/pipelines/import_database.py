"""Import the databases that the authors of RDM published into this package's layout."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from rdm_batch.datasets.patches import Box
from rdm_batch.errors import DatabaseError, SpecError
from rdm_batch.files import file_sha256
from rdm_batch.pipelines.database_parts import write_shards
from rdm_batch.pipelines.database_target import DatabaseTarget
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import DatabaseManifest, EncoderRecord, SourceRecord
from rdm_batch.retrieval.index import IndexSettings
from rdm_batch.retrieval.npz_parts import order_parts, read_neighbor_memory, read_part
from rdm_batch.retrieval.tables import ShardRows
from rdm_batch.retrieval.writer import write_proposal
from rdm_batch.storage.object_store import local_path


@dataclass(frozen=True)
class DatabaseImport:
    """Ask for a published database in this package's layout.

    Attributes:
        parts: Folder of the ``.npz`` parts, a path or ``s3://``.
        order: Names of the parts in row order; row ids of the neighbor memory count
            through the parts in this order.
        out: Where the database goes.
        neighbor_memory: The ``.p`` file of the proposal distribution; None for none.
        encoder: Name of the encoder that made the embeddings.
        encoder_digest: Its digest; None when its file is not at hand.
        shards: Number of shards, at least 1.
        index: How shards are indexed.
    """

    parts: str
    order: tuple[str, ...]
    out: str
    neighbor_memory: str | None = None
    encoder: str = "ViT-B-32-quickgelu"
    encoder_digest: str | None = None
    shards: int = 1
    index: IndexSettings = field(default_factory=IndexSettings)


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
    folder = local_path(request.parts, error=DatabaseError)
    paths = order_parts(folder, request.order)
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
            request.parts, f"parts of widths and types {sorted(parts.shapes)}", "one of each"
        )
    if not 1 <= request.shards <= rows:
        raise SpecError("--shards", f"{request.shards} of {rows} rows", f"1 to {rows}")
    if memory is not None:
        memory.check_rows(rows)
    [(dim, dtype)] = parts.shapes
    with target.exclusive():
        stage = progress.stage("index", total=request.shards, unit="shards")
        shards = write_shards(
            target.root,
            target.work,
            parts,
            request.shards,
            request.index,
            os.cpu_count() or 1,
            stage,
        )
        kind: Literal["float16", "float32"] = "float16" if dtype == "float16" else "float32"
        return target.publish(
            DatabaseManifest(
                rows=rows,
                dim=dim,
                dtype=kind,
                encoder=EncoderRecord(name=request.encoder, digest=request.encoder_digest),
                source=SourceRecord(description=f"published parts {request.parts}", images=rows),
                build=described,
                shards=shards,
                proposal=None if memory is None else write_proposal(target.root, memory),
            )
        )
