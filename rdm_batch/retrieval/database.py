"""The manifest of a retrieval database, and the checks of its files against it.

A database is a folder: ``database.json`` (this manifest, written last), one parquet file
of embeddings, one of thumbnails and, if it keeps them, one of pictures per shard, one index
folder per partitioned shard, and optionally ``proposal.parquet``. Row ids are global and
contiguous: shard 0 holds the first rows, shard 1 the next, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from rdm_batch.errors import DatabaseError
from rdm_batch.files import Damage, canonical_digest, file_sha256, find_damage_in
from rdm_batch.formats.json_text import parse_json
from rdm_batch.specs.database import IndexSettings, Queries
from rdm_batch.specs.later import LaterFields
from rdm_batch.specs.messages import first_problem

MANIFEST_NAME = "database.json"
STORED = "store_images"
"""Says in a build's request how large the pictures are that the database keeps."""
# Beyond what any index here holds: numbers of a damaged manifest end where they are read.
_MAX_ROWS = 2**40
_MAX_DIM = 2**16


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StoredFile(_Frozen):
    """Name one file of the database with what it must contain."""

    path: str
    num_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not parts or path.startswith("/") or ".." in parts or "\\" in path:
            raise ValueError("must be a relative path inside the database")
        return path


class EncoderRecord(_Frozen):
    """Identify the encoder that made the embeddings."""

    name: str
    digest: str | None = Field(
        description="SHA-256 of its weights and configuration; None for imported embeddings."
    )


class SourceRecord(_Frozen):
    """Describe where the images came from."""

    description: str
    images: int = Field(ge=0)
    patches_per_image: int | None = Field(
        default=None, description="Random crops per image; None means whole images."
    )
    patch_seed: int | None = None
    skipped: tuple[str, ...] = Field(default=(), description="Damaged files that were left out.")


Share = Annotated[float, Field(ge=0, le=1)]


class TunedSearch(_Frozen):
    """State how a partitioned shard is searched for one kind of query, and what that finds."""

    queries: Queries
    source: str = Field(description="Where the queries it was tuned and measured on come from.")
    leaves_to_search: int = Field(ge=1)
    reorder: int = Field(ge=1)
    k: int = Field(ge=1)
    recall: Share = Field(description="Against exact search, on queries it was not tuned on.")
    error: float = Field(ge=0, description="Standard error of the recall.")
    num_queries: int = Field(ge=1)


class SearchLatency(_Frozen):
    """Time single queries of one kind on the machine that built the index, on one thread."""

    queries: Queries
    p50_ms: float = Field(ge=0)
    p99_ms: float = Field(ge=0)


class DatabaseShard(_Frozen, LaterFields):
    """Describe one shard: its rows, its files, its index."""

    later: ClassVar[tuple[str, ...]] = ("rows_file", "tuned", "latency", "scann", "images")

    rows: int = Field(ge=1, le=_MAX_ROWS)
    first_row: int = Field(ge=0, le=_MAX_ROWS)
    index: IndexSettings
    recall_at_20: float | None = Field(
        default=None,
        description="Measured when built, against exact search; None for exact shards.",
    )
    embeddings: StoredFile
    thumbnails: StoredFile | None = None
    index_files: tuple[StoredFile, ...] = ()
    rows_file: StoredFile | None = Field(
        default=None,
        description="The embeddings as a .npy file that is mapped; None: a column of the table.",
    )
    tuned: tuple[TunedSearch, ...] = ()
    latency: tuple[SearchLatency, ...] = Field(
        default=(), description="Outside of every digest: times are no content."
    )
    scann: str | None = Field(
        default=None,
        description="ScaNN that built the index reproducibly; None: no index, or one of before.",
    )
    images: StoredFile | None = Field(
        default=None, description="The pixels of its rows; None: they are not kept."
    )

    def files(self) -> tuple[StoredFile, ...]:
        """List every file of the shard."""
        return (*self.searched_files(), *([] if self.images is None else [self.images]))

    def searched_files(self) -> tuple[StoredFile, ...]:
        """List the files that searching takes: all but the pixels of its rows."""
        others = [file for file in (self.rows_file, self.thumbnails) if file is not None]
        return (self.embeddings, *others, *self.index_files)

    @property
    def row_bytes(self) -> StoredFile:
        """Name the file that holds the embeddings."""
        return self.embeddings if self.rows_file is None else self.rows_file

    def search_for(self, queries: Queries) -> TunedSearch | None:
        """Give how it is tuned for a kind of query; None where nothing is tuned."""
        return next((tuned for tuned in self.tuned if tuned.queries == queries), None)


class DatabaseChange(_Frozen):
    """Record how a database was changed after it had been built."""

    action: Literal["add", "remove"]
    rows: int = Field(ge=1, description="Rows added, or removed from searches.")
    source: SourceRecord | None = Field(default=None, description="Of added rows.")
    before: str = Field(description="Digest of the manifest it was made from.")
    request: str = Field(description="Digest of what was asked for; asked again, it is done.")


class ProposalRecord(_Frozen):
    """State how the proposal distribution was counted, and what an index changed about it."""

    images: int = Field(ge=1, description="Images of the training set that were counted.")
    k: int = Field(ge=1, description="Neighbors counted of each.")
    share: float = Field(gt=0, le=1, description="Share of the training set; below 1, a preview.")
    engine: Literal["scann", "exact"]
    checked: int = Field(
        default=0,
        ge=0,
        description="Images whose neighbors were also counted exactly; 0: all of them were.",
    )
    recall: Share = Field(default=1, description="Of their exact neighbors.")
    total_variation: Share = Field(
        default=0, description="Between the two distributions of these images."
    )
    overlaps: tuple[tuple[float, Share], ...] = Field(
        default=(),
        description="For values of top_m, the share of the rows kept of exact counts that are kept "
        "of the counts of the index.",
    )


class DatabaseManifest(_Frozen, LaterFields):
    """Describe a complete database. Its digest covers every other field, times excepted."""

    later: ClassVar[tuple[str, ...]] = ("removed", "changes", "counted")

    format: Literal["rdm_batch.database"] = "rdm_batch.database"
    version: Literal[1] = 1
    rows: int = Field(ge=1, le=_MAX_ROWS)
    dim: int = Field(ge=1, le=_MAX_DIM)
    dtype: Literal["float16", "float32"]
    encoder: EncoderRecord
    source: SourceRecord
    build: dict[str, JsonValue] = Field(
        description="The request this database answers; equal requests are the same build."
    )
    shards: tuple[DatabaseShard, ...] = Field(min_length=1)
    proposal: StoredFile | None = None
    counted: ProposalRecord | None = Field(
        default=None, description="Outside of every digest: how it was counted is no content."
    )
    removed: StoredFile | None = Field(
        default=None, description="Table of the rows that no search finds any more."
    )
    changes: tuple[DatabaseChange, ...] = Field(
        default=(), description="What was added and removed since it was built, in order."
    )
    digest: str = ""

    @model_validator(mode="after")
    def _rows_are_contiguous(self) -> DatabaseManifest:
        next_row = 0
        for number, shard in enumerate(self.shards):
            if shard.first_row != next_row:
                raise ValueError(
                    f"shard {number} starts at row {shard.first_row}, needed {next_row}"
                )
            next_row += shard.rows
        if next_row != self.rows:
            raise ValueError(f"shards hold {next_row} rows, the manifest says {self.rows}")
        return self

    @property
    def left(self) -> int:
        """Rows that a search may find: all that were not removed."""
        return self.rows - sum(c.rows for c in self.changes if c.action == "remove")

    def content_digest(self) -> str:
        """Compute the digest over every field that describes content."""
        return _digest_of(self.model_dump(mode="json"))

    def with_digest(self) -> DatabaseManifest:
        """Fill in the digest."""
        return self.model_copy(update={"digest": self.content_digest()})

    def files(self) -> tuple[StoredFile, ...]:
        """List every file of the database except the manifest."""
        others = [file for file in (self.proposal, self.removed) if file is not None]
        return (*(file for shard in self.shards for file in shard.files()), *others)


def _digest_of(fields: dict[str, Any]) -> str:
    """Digest the fields of a manifest that describe its content."""
    content = {name: value for name, value in fields.items() if name not in ("digest", "counted")}
    content["shards"] = [
        {name: value for name, value in shard.items() if name != "latency"}
        for shard in fields["shards"]
    ]
    return canonical_digest(content)


def stored_file(root: Path, path: Path) -> StoredFile:
    """Record a file of the database in ``root``."""
    return StoredFile(
        path=path.relative_to(root).as_posix(),
        num_bytes=path.stat().st_size,
        sha256=file_sha256(path),
    )


def render_manifest(manifest: DatabaseManifest) -> bytes:
    """Render a manifest as the content of its file."""
    return (manifest.model_dump_json(indent=1) + "\n").encode()


def parse_manifest(text: bytes | None, database: str) -> DatabaseManifest:
    """Parse and check the content of a manifest.

    Args:
        text: The content. None when there is no such file.
        database: Where the database is, for messages.

    Raises:
        DatabaseError: There is no manifest (the build did not finish), it does not
            parse, or its digest does not match its content.
    """
    if text is None:
        raise DatabaseError(
            database,
            f"holds no {MANIFEST_NAME}",
            "a complete database",
            "check the path, build it with `rdm-batch database build`, or run an interrupted "
            "build again",
        )
    where = f"{database.rstrip('/')}/{MANIFEST_NAME}"
    try:
        fields = parse_json(text)
        manifest = DatabaseManifest.model_validate(fields)
    except ValidationError as error:
        found = first_problem(error, "the manifest")
        raise DatabaseError(where, found, "a database manifest", "rebuild the database") from error
    except ValueError as error:
        raise DatabaseError(
            where, str(error), "a database manifest", "rebuild the database"
        ) from error
    # Of the text, not of the model: a later version may know more fields.
    content = _digest_of(fields)
    if manifest.digest != content:
        raise DatabaseError(
            where,
            f"the digest {manifest.digest[:12] or '(none)'} for other content",
            f"{content[:12]}",
            "the manifest was edited or damaged: rebuild or copy the database again",
        )
    return manifest


def check_files(root: Path, files: Iterable[StoredFile], digests: bool = False) -> None:
    """Refuse files of a local folder that are missing, truncated or (with ``digests``) altered.

    Raises:
        DatabaseError: Names the first damaged file and how many there are.
    """
    listed = tuple(files)
    refuse_damage(str(root), find_damage_in(root, listed, digests), len(listed))


def refuse_damage(
    database: str,
    damage: Sequence[Damage],
    num_files: int,
    action: str = "copy the database again or rebuild it",
) -> None:
    """Refuse a database whose files are not what its manifest says.

    Args:
        database: Where it is.
        damage: What is wrong, one entry per damaged file.
        num_files: Files that were looked at.
        action: What the user can do.

    Raises:
        DatabaseError: A file is damaged; names the first and how many there are.
    """
    if damage:
        raise DatabaseError(
            f"{database.rstrip('/')}/{damage[0].path}",
            f"{damage[0].found} ({len(damage):,} of {num_files:,} files are damaged)",
            damage[0].needed,
            action,
        )
