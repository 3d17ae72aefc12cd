"""Say what a database is and whether its files are what its manifest lists."""

from __future__ import annotations

import hashlib

from rdm_batch.errors import DatabaseError
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval.database import MANIFEST_NAME, DatabaseManifest, parse_manifest
from rdm_batch.storage.object_store import open_store, redact
from rdm_batch.storage.store import Store

_READ_BYTES = 1 << 20


def open_manifest(uri: str) -> tuple[Store, DatabaseManifest]:
    """Read the manifest of a database anywhere, and nothing else.

    Raises:
        DatabaseError: There is no complete database, or its manifest is damaged.
    """
    store = open_store(uri, DatabaseError)
    if not store.exists(MANIFEST_NAME):
        raise DatabaseError(
            redact(uri),
            f"no {MANIFEST_NAME}",
            "a complete database",
            "build it with `rdm-batch database build`, or run an interrupted build again",
        )
    text = store.read_bytes(MANIFEST_NAME)
    return store, parse_manifest(text, store.child_uri(MANIFEST_NAME))


def describe_database(manifest: DatabaseManifest) -> dict[str, str]:
    """Summarize a database, one line per property."""
    source = manifest.source
    indexes = []
    for shard in manifest.shards:
        text: str = shard.index.kind
        if shard.recall_at_20 is not None:
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
        "rows": f"{manifest.rows:,} x {manifest.dim} {manifest.dtype}",
        "encoder": f"{manifest.encoder.name} ({digest[:12] if digest else 'file not recorded'})",
        "source": f"{source.description}: {source.images:,} images{patches}{skipped}",
        "shards": "; ".join(f"{count} x {text}" for text, count in counts.items()),
        "proposal": "none" if manifest.proposal is None else "stored",
        "size": f"{sum(file.num_bytes for file in manifest.files()):,} bytes",
        "digest": manifest.digest,
    }


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
    store, manifest = open_manifest(uri)
    files = manifest.files()
    stage = progress.stage("check", total=sum(file.num_bytes for file in files), unit="bytes")
    problems = []
    for file in files:
        info = store.stat(file.path)
        if info is None:
            problems.append(f"{file.path} is missing")
        elif info.num_bytes != file.num_bytes:
            problems.append(
                f"{file.path} has {info.num_bytes:,} bytes instead of {file.num_bytes:,}"
            )
        elif _digest(store, file.path) != file.sha256:
            problems.append(f"{file.path} has other content than its digest says")
        stage.advance(file.num_bytes)
    stage.finish()
    return problems


def _digest(store: Store, key: str) -> str:
    digest = hashlib.sha256()
    with store.open_read(key) as stream:
        while block := stream.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
