"""Say what a database is and whether its files are what its manifest lists."""

from __future__ import annotations

import math
from typing import get_args

from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.progress import Progress
from rdm_batch.reports.units import format_bytes, format_count, format_seconds, format_share
from rdm_batch.retrieval.database import STORED, DatabaseManifest
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.residency import resident_bytes_of
from rdm_batch.specs.database import Queries
from rdm_batch.storage.object_store import open_store


def describe_database(manifest: DatabaseManifest) -> dict[str, str]:
    """Summarize a database, one line per property."""
    source = manifest.source
    indexes = []
    for shard in manifest.shards:
        text: str = shard.index.kind
        if shard.tuned:
            searched = "; ".join(
                f"{tuned.queries}: {tuned.leaves_to_search} of {shard.index.leaves} leaves and "
                f"{tuned.reorder} candidates, recall@{tuned.k} {tuned.recall:.3f} "
                f"± {tuned.error:.3f} on {tuned.source}"
                for tuned in shard.tuned
            )
            text += f" ({searched})"
        elif shard.recall_at_20 is not None:
            text += (
                f" ({shard.index.leaves_to_search} of {shard.index.leaves} leaves searched, "
                f"recall@20 {shard.recall_at_20:.3f})"
            )
        indexes.append(text)
    counts = {text: indexes.count(text) for text in dict.fromkeys(indexes)}
    patches = ""
    if source.patches_per_image is not None:
        patches = f", {source.patches_per_image} patches each (seed {source.patch_seed})"
    skipped = f", {len(source.skipped):,} damaged ones left out" if source.skipped else ""
    digest = manifest.encoder.digest
    return {
        "rows": f"{manifest.rows:,} x {manifest.dim} {manifest.dtype}"
        + (f", {gone:,} removed" if (gone := manifest.rows - manifest.left) else ""),
        "encoder": f"{manifest.encoder.name} ({digest[:12] if digest else 'file not recorded'})",
        "source": f"{source.description}: {source.images:,} images{patches}{skipped}",
        "shards": "; ".join(f"{count} x {text}" for text, count in counts.items()),
        "pictures": _pictures(manifest),
        **_searches(manifest),
        "memory": _memory(manifest),
        "proposal": _proposal(manifest),
        "size": f"{sum(file.num_bytes for file in manifest.files()):,} bytes",
        "digest": manifest.digest,
    }


def _searches(manifest: DatabaseManifest) -> dict[str, str]:
    """Say for each kind of query what a search finds and takes, one line a kind.

    Recall is that of the shards, each counted by its rows. A query asks all shards at once where
    they are spread over retrievers, so the slowest of them is told.
    """
    lines = {}
    for kind in get_args(Queries):
        tuned = [(shard.search_for(kind), shard.rows) for shard in manifest.shards]
        known = [(search, rows) for search, rows in tuned if search is not None]
        if not known:
            continue
        total = sum(rows for _, rows in known)
        recall = sum(search.recall * rows for search, rows in known) / total
        error = math.sqrt(sum((search.error * rows) ** 2 for search, rows in known)) / total
        text = f"recall@{known[0][0].k} {recall:.3f} ± {error:.3f}"
        times = [t for shard in manifest.shards for t in shard.latency if t.queries == kind]
        if times:
            slowest = max(times, key=lambda time: time.p50_ms)
            text += (
                f"; a query takes {format_seconds(slowest.p50_ms / 1e3)} (p50), "
                f"{format_seconds(slowest.p99_ms / 1e3)} (p99), as built on one thread"
            )
            text += ", the slowest shard" if len(times) > 1 else ""
        if len(known) < len(tuned):
            text += f"; not known of {format_count(len(tuned) - len(known), 'shard')}"
        lines[kind] = text
    return lines


def _pictures(manifest: DatabaseManifest) -> str:
    """Say what there is of the pictures of rows."""
    small = sum(shard.thumbnails.num_bytes for shard in manifest.shards if shard.thumbnails)
    kept = sum(shard.images.num_bytes for shard in manifest.shards if shard.images)
    text = f"{format_bytes(small)} of thumbnails" if small else "no thumbnails"
    if not kept:
        return f"{text}; pixels are not kept"
    side = manifest.build.get(STORED)
    lacking = sum(shard.images is None for shard in manifest.shards)
    text += f"; pixels of every row, {side} x {side}, {format_bytes(kept)}"
    return text + (f" (not of {format_count(lacking, 'shard')})" if lacking else "")


def _proposal(manifest: DatabaseManifest) -> str:
    """Say how p_D was counted, and what an index changed about it."""
    if manifest.proposal is None:
        return "none"
    counted = manifest.counted
    if counted is None:
        return "stored"
    text = f"{counted.k} neighbors of {counted.images:,} images, by {counted.engine}"
    if counted.share < 1:
        text += f" (a preview: {format_share(counted.share)} of the training set)"
    if not counted.checked:
        return f"{text}; exact"
    kept = ", ".join(f"{top_m:g} {format_share(share)}" for top_m, share in counted.overlaps)
    return (
        f"{text}; against exact counts of {counted.checked:,} of them: recall "
        f"{counted.recall:.3f}, total variation {counted.total_variation:.3f}, rows that top_m "
        f"keeps of both: {kept}"
    )


def _memory(manifest: DatabaseManifest) -> str:
    """Say what searching takes: rows that are scored, index files that are searched.

    Resident is what opened shards keep; the rows of others are mapped.
    """
    resident = sum(resident_bytes_of(shard, manifest, SearchEffort()) for shard in manifest.shards)
    rows = manifest.rows * manifest.dim * (2 if manifest.dtype == "float16" else 4)
    index = sum(file.num_bytes for shard in manifest.shards for file in shard.index_files)
    per_leaf = [
        shard.rows / (shard.index.leaves or 1) for shard in manifest.shards if shard.index_files
    ]
    text = f"{format_bytes(rows)} of rows"
    text += " (mapped)" if any(shard.rows_file for shard in manifest.shards) else ""
    text += f", {format_bytes(index)} of index"
    if per_leaf:
        text += f" ({sum(per_leaf) / len(per_leaf):,.0f} rows a leaf)"
    return f"{text}; {format_bytes(resident)} resident when opened"


def check_database(uri: str, progress: Progress) -> list[str]:
    """Compare every file of a database with its manifest, by size and digest.

    Args:
        uri: The database, a path or ``s3://``.
        progress: Shows the bytes read.

    Returns:
        What is wrong, one entry per damaged file; empty when the database is whole.

    Raises:
        DatabaseError: There is no database, or its manifest is damaged.
    """
    files = Database.open(uri).manifest.files()
    stage = progress.stage("check", total=sum(file.num_bytes for file in files), unit="bytes")
    store = open_store(uri, DatabaseError)
    damage = store.find_damage(files, digests=True, advance=stage.advance)
    stage.finish()
    return [str(damaged) for damaged in damage]
