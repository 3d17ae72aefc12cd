"""Change a database that is there: append rows as new shards, take rows out of searches.

What is stored is never rewritten: new shards get new files, removed rows a list of their ids, and
the manifest is replaced last. Who has the old manifest keeps the old database.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from rdm_batch.cluster.pool import Opened
from rdm_batch.databases.build import (
    device_here,
    device_of,
    index_parts,
    refuse_skipped,
    source_of,
    workers_of,
)
from rdm_batch.databases.encode import Encoding, MakeEncoder, encode_source, open_encoding
from rdm_batch.databases.parts import PartFiles
from rdm_batch.databases.room import check_memory, shards_needed
from rdm_batch.databases.target import DatabaseTarget
from rdm_batch.errors import DatabaseError, ImageError
from rdm_batch.files import canonical_digest
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.images import open_images
from rdm_batch.inputs.locations import from_anywhere
from rdm_batch.reports.encoding import EncodingSpeed
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import STORED, DatabaseChange, DatabaseManifest, stored_file
from rdm_batch.retrieval.tables import write_removed
from rdm_batch.specs.database import DatabaseAdd, DatabaseBuild, EncodeSettings, IndexSettings
from rdm_batch.storage.object_store import redact


def add_images(
    request: DatabaseAdd,
    make_encoder: MakeEncoder,
    progress: Progress,
    told: Callable[[EncodingSpeed], object] | None = None,
) -> DatabaseManifest:
    """Append images to a database, or finish what an interrupted call of the same request began.

    They become new shards, encoded, cut and indexed as the others were. A proposal distribution
    stays as it is: it counted neighbors among the rows that were there.

    Args:
        request: What is added, and where.
        make_encoder: Loads the encoder onto a device; it must be the one that made the database.
        progress: Shows the stages.
        told: Told how fast the images were encoded.

    Returns:
        The manifest with the new rows; also when this very request was the last change.

    Raises:
        DatabaseError: There is no database, another encoder made it, it was not built from
            images, or another change is unfinished.
        ImageError: No image is readable, or ``strict`` is set and one is damaged.
        SpecError: The ceiling of memory is too low.
        ClusterError: Ray cannot be joined, or has too few CPUs for the workers, or no GPU for
            those that want one.
    """
    before = Database.open(request.out).manifest
    with progress.step("look at the images"):
        source, fingerprint = open_images(request.images)
    build = _as_built(request, before)
    with progress.step("load the encoder"):
        encoder = make_encoder(device_here(build))
    if encoder.digest != before.encoder.digest or encoder.dim != before.dim:
        raise DatabaseError(
            redact(request.out),
            f"was made by {before.encoder.name} {(before.encoder.digest or 'unknown')[:12]}",
            f"{encoder.name} {encoder.digest[:12]}, the encoder named here",
            "name the encoder that made the database",
        )
    asked = canonical_digest({"add": fingerprint, "strict": request.strict})
    if before.changes and before.changes[-1].request == asked:
        return before
    target = DatabaseTarget(request.out, {"add": fingerprint, "to": before.digest})
    target.unfinished()
    most = len(source) * (build.encode.patches or 1)
    num_shards = shards_needed(most, before.dim)
    check_memory(request.memory, num_shards, most, before.dim, before.dtype, request.workers)
    joining = progress.begin("get ready to work")
    with target.exclusive(), workers_of(build) as cluster:
        joining.finish()
        stage = progress.stage("encode images", total=len(source), unit="images")
        device = device_of(build, cluster.resources)
        again = partial(open_encoding, from_anywhere(request.images), make_encoder, device)
        encoding = Opened(Encoding(source, encoder), again)
        folder = target.work / "images"
        parts = PartFiles(
            encode_source(
                cluster, encoding, folder, build.encode, stage, request.workers, device, told
            )
        )
        stage.finish()
        refuse_skipped(build, parts.skipped)
        if parts.rows < num_shards:
            raise ImageError(request.images, f"{parts.rows} readable images of {len(source):,}")
        shards = index_parts(
            build, target, parts, encoder, cluster, progress, num_shards, after=before
        )
        change = DatabaseChange(
            action="add",
            rows=parts.rows,
            source=source_of(build, parts, len(source)),
            before=before.digest,
            request=asked,
        )
        manifest = before.model_copy(
            update={
                "rows": before.rows + parts.rows,
                "shards": (*before.shards, *shards),
                "changes": (*before.changes, change),
            }
        )
        with progress.step("publish"):
            return target.publish(manifest, [file for shard in shards for file in shard.files()])


def _as_built(request: DatabaseAdd, before: DatabaseManifest) -> DatabaseBuild:
    """Give the request that the database answered, with other images."""
    index = before.build.get("index")
    size = before.build.get("thumbnail_size")
    if not isinstance(index, dict) or not isinstance(size, int):
        raise DatabaseError(
            redact(request.out),
            "was not built from images by `rdm-batch database build`",
            "a database that says how its rows were made",
        )
    seed = before.source.patch_seed
    kept = before.build.get(STORED)
    return DatabaseBuild(
        images=request.images,
        out=request.out,
        encode=EncodeSettings(
            dtype=before.dtype,
            patches=before.source.patches_per_image,
            patch_seed=0 if seed is None else seed,
            thumbnail_size=size,
            store_images=kept if isinstance(kept, int) else None,
            strict=request.strict,
        ),
        index=IndexSettings.model_validate(index),
        workers=request.workers,
        address=request.address,
    )


def remove_rows(uri: str, row_ids: Sequence[int]) -> DatabaseManifest:
    """Take rows out of every search. Their ids stay theirs, and their embeddings where they are.

    Args:
        uri: The database, a path or ``s3://``.
        row_ids: The rows.

    Returns:
        The new manifest; the old one where all of them were removed before.

    Raises:
        DatabaseError: There is no database, an id is no row, or nothing would be left.
    """
    database = Database.open(uri)
    before, gone = database.manifest, database.removed()
    asked = np.unique(np.array(row_ids, dtype=np.int64))
    outside = asked[(asked < 0) | (asked >= before.rows)]
    if len(outside):
        found = f"row id {int(outside[0])} ({len(outside)} of {len(asked)} ids)"
        raise DatabaseError(redact(uri), found, f"0 <= id < {before.rows:,}")
    new = np.setdiff1d(asked, gone)
    if not len(new):
        return before
    removed = np.union1d(gone, new)
    if len(removed) == before.rows:
        raise DatabaseError(redact(uri), "no row would be left", "at least one")
    request = {"remove": asked.tolist(), "to": before.digest}
    target = DatabaseTarget(uri, request)
    target.unfinished()
    with target.exclusive():
        # A name of its own: who reads the old manifest finds the old list.
        path = target.root / f"removed-{canonical_digest(removed.tolist())[:12]}.parquet"
        write_removed(path, removed)
        stored = stored_file(target.root, path)
        change = DatabaseChange(
            action="remove",
            rows=len(new),
            before=before.digest,
            request=canonical_digest(request),
        )
        changes = (*before.changes, change)
        manifest = before.model_copy(update={"removed": stored, "changes": changes})
        complete = target.publish(manifest, [stored])
    if before.removed is not None:
        target.store.delete(before.removed.path)
    return complete
