"""Check a job's database, its encoder, and what the conditioning asks of both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rdm_batch.errors import DatabaseError, RdmBatchError, SpecError
from rdm_batch.inputs.databases import check_stored_files, fetch_manifest, load_proposal
from rdm_batch.inputs.encoders import named_encoder_digest
from rdm_batch.retrieval.database import DatabaseManifest, check_files
from rdm_batch.retrieval.embeddings import check_embeddings
from rdm_batch.retrieval.index import check_index_folder
from rdm_batch.retrieval.tables import read_embeddings
from rdm_batch.specs.conditioning import ClassConditioning, UnconditionalConditioning
from rdm_batch.specs.job import JobSpec
from rdm_batch.storage.object_store import local_path

_READ_AT_ONCE_BYTES = 256 << 20
"""Local databases up to this size are read before the job starts; of larger ones every
retriever checks the rows it loads."""


def check_database(spec: JobSpec) -> DatabaseManifest:
    """Check that the database is complete and its rows are usable.

    Raises:
        DatabaseError: It is missing, damaged, holds rows without a direction, or lacks the
            proposal distribution its manifest names.
    """
    uri = spec.database.uri
    manifest = fetch_manifest(uri)
    check_stored_files(uri, manifest)
    size = sum(shard.embeddings.num_bytes for shard in manifest.shards)
    if not uri.startswith("s3://") and size <= _READ_AT_ONCE_BYTES:
        _check_content(local_path(uri, error=DatabaseError), manifest)
    if isinstance(spec.conditioning, UnconditionalConditioning):
        load_proposal(uri, manifest)
    return manifest


def _check_content(root: Path, manifest: DatabaseManifest) -> None:
    check_files(root, manifest.files(), digests=True)
    for number, shard in enumerate(manifest.shards):
        path = root / shard.embeddings.path
        rows = read_embeddings(path, shard.rows, manifest.dim, manifest.dtype)
        check_embeddings(rows, str(path), shard.first_row)
        if shard.index.resolve(shard.rows).kind == "tree_ah":
            names = [Path(file.path).name for file in shard.index_files]
            check_index_folder(root / f"index/shard-{number:05d}", names)


def conditioning_problems(spec: JobSpec, manifest: DatabaseManifest) -> Iterator[RdmBatchError]:
    """List what the conditioning asks for and the database cannot give."""
    conditioning = spec.conditioning
    if conditioning.k_nn > manifest.rows:
        yield SpecError(
            "conditioning.k_nn",
            f"is {conditioning.k_nn} but {spec.database.uri} holds {manifest.rows:,} rows",
            f"at most {manifest.rows:,}",
        )
    if isinstance(conditioning, ClassConditioning) and conditioning.pool_size > manifest.rows:
        yield SpecError(
            "conditioning.pool_size",
            f"is {conditioning.pool_size} but {spec.database.uri} holds {manifest.rows:,} rows",
            f"at most {manifest.rows:,}",
        )
    if (
        isinstance(conditioning, UnconditionalConditioning)
        and manifest.proposal is None
        and (conditioning.weighting == "proposal" or conditioning.top_m < 1)
    ):
        yield SpecError(
            "conditioning.weighting",
            f"{spec.database.uri} was built without a proposal distribution",
            "the neighbor counts of a training set",
            "rebuild it with --proposal-from, or set weighting: uniform and top_m: 1.0",
        )


def check_encoder(spec: JobSpec, manifest: DatabaseManifest | None) -> str | None:
    """Check that texts are embedded by the encoder the database was built with.

    Returns:
        The digest of the encoder; None where the job embeds no text.

    Raises:
        RdmBatchError: Its weights are missing, or it is another encoder.
    """
    encoder = spec.database.encoder
    if spec.conditioning.mode == "unconditional" or encoder is None:
        return None
    digest = named_encoder_digest(encoder.name, encoder.weights)
    if manifest is not None:
        built_with = manifest.encoder
        # Imported embeddings come without the digest of what made them; their name must do.
        same = (
            encoder.name == built_with.name
            if built_with.digest is None
            else digest == built_with.digest
        )
        if not same:
            raise DatabaseError(
                f"Database {spec.database.uri}",
                f"was built with {_named(built_with.name, built_with.digest)}, but "
                f"database.encoder is {_named(encoder.name, digest)}",
                "one encoder for images and texts",
                "rebuild the database, or name the encoder it was built with",
            )
    return digest


def _named(name: str, digest: str | None) -> str:
    return f"{name} (digest {digest[:12]})" if digest else name
