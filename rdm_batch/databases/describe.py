"""Say what a database is and whether its files are what its manifest lists."""

from __future__ import annotations

from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import Database
from rdm_batch.reports.progress import Progress
from rdm_batch.reports.units import format_bytes
from rdm_batch.retrieval.database import DatabaseManifest
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
        "memory": _memory(manifest),
        "proposal": "none" if manifest.proposal is None else "stored",
        "size": f"{sum(file.num_bytes for file in manifest.files()):,} bytes",
        "digest": manifest.digest,
    }


def _memory(manifest: DatabaseManifest) -> str:
    """Say what searching takes: rows that are scored, index files that are searched."""
    rows = manifest.rows * manifest.dim * (2 if manifest.dtype == "float16" else 4)
    index = sum(file.num_bytes for shard in manifest.shards for file in shard.index_files)
    per_leaf = [
        shard.rows / (shard.index.leaves or 1)
        for shard in manifest.shards
        if shard.index.kind == "tree_ah"
    ]
    text = f"{format_bytes(rows)} of rows, {format_bytes(index)} of index"
    if per_leaf:
        text += f" ({sum(per_leaf) / len(per_leaf):,.0f} rows a leaf)"
    return text


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
