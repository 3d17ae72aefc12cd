"""What the commands that make a retrieval database are asked for."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rdm_batch.specs.base import Spec, Uri

BRUTE_FORCE_MAX_ROWS = 20_000


class IndexSettings(Spec):
    """Describe how a shard is indexed."""

    kind: Literal["auto", "brute_force", "tree_ah"] = Field(
        default="auto",
        description=f"`auto` scans shards of up to {BRUTE_FORCE_MAX_ROWS:,} rows and partitions "
        "larger ones, as ScaNN's documentation recommends.",
    )
    leaves: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Partitions of the tree. None: the square root of the rows."
    )
    leaves_to_search: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Partitions searched for a query. None: a fifth of the leaves."
    )
    reorder: Annotated[int, Field(ge=1)] = Field(
        default=200, description="Candidates rescored from less compressed vectors, per query."
    )
    quantization: Literal["float32", "bfloat16", "int8"] = Field(
        default="bfloat16", description="Storage of the vectors that rescore candidates."
    )

    def resolve(self, rows: int) -> IndexSettings:
        """Replace every automatic value by the one used for a shard of ``rows`` rows."""
        kind = self.kind
        if kind == "auto":
            kind = "brute_force" if rows <= BRUTE_FORCE_MAX_ROWS else "tree_ah"
        leaves = min(self.leaves or max(1, round(math.sqrt(rows))), rows)
        searched = min(self.leaves_to_search or math.ceil(leaves / 5), leaves)
        return self.model_copy(
            update={"kind": kind, "leaves": leaves, "leaves_to_search": searched}
        )


class EncodeSettings(Spec):
    """Say how images become rows."""

    dtype: Literal["float16", "float32"] = Field(
        default="float16", description="Type the embeddings are stored in."
    )
    patches: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Random square patches per image. None: whole images."
    )
    patch_seed: Annotated[int, Field(ge=0)] = Field(default=0, description="Seed of the patches.")
    thumbnail_size: Annotated[int, Field(ge=0)] = Field(
        default=64, description="Longest side of a thumbnail in pixels; 0 stores none."
    )
    strict: bool = Field(
        default=False, description="Fail on the first damaged image instead of leaving it out."
    )


class DatabaseBuild(Spec):
    """Ask for a database of images."""

    images: Uri = Field(
        description="A folder of PNG, JPEG and WebP files, a parquet file or folder, or "
        "`shapes:SUBSET[:COUNT[:STYLE,STYLE...]]` for the embedded world."
    )
    out: Uri = Field(description="Where the database goes: a folder or `s3://bucket/prefix`.")
    shards: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Shards the rows are cut into."
    )
    encode: EncodeSettings = Field(default=EncodeSettings(), description="How images become rows.")
    index: IndexSettings = Field(default=IndexSettings(), description="How shards are indexed.")
    proposal_from: Uri | None = Field(
        default=None,
        description="Training set whose neighbors are counted for the proposal distribution, in "
        "any form images have.",
    )
    proposal_k: Annotated[int, Field(ge=1)] = Field(
        default=4, description="Neighbors counted per image of the training set."
    )
    # Changes no row beyond its last digit, where a worker's number of threads moves the
    # encoder's float sums.
    workers: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Encoders. One runs in this process, more are Ray actors, which take 8 s to "
        "start.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto",
        description="Where encoders compute. `auto`: on GPUs where there are some, which the "
        "workers share. Moves no row beyond its last digits.",
    )
    address: str = Field(
        default="local",
        description="For more than one worker, the Ray to use: `local` starts one here, `auto` "
        "joins the running one, or the address of a cluster.",
    )


class DatabaseImport(Spec):
    """Ask for a published database in this package's layout."""

    parts: Annotated[tuple[Uri, ...], Field(min_length=1)] = Field(
        description="Every `.npz` part, in row order; or their folder, with an order. Row ids of "
        "the neighbor memory count through the parts."
    )
    order: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        default=None, description="Names of all parts of the folder, in row order."
    )
    out: Uri = Field(description="Where the database goes: a folder or `s3://bucket/prefix`.")
    neighbor_memory: Uri | None = Field(
        default=None, description="The `.p` file of the proposal distribution. None: no proposal."
    )
    encoder: str = Field(
        default="ViT-B-32-quickgelu", description="Name of the encoder that made the embeddings."
    )
    encoder_digest: str | None = Field(
        default=None, description="Its digest. None: its file is not at hand."
    )
    shards: Annotated[int, Field(ge=1)] = Field(
        default=1, description="Shards the rows are cut into."
    )
    index: IndexSettings = Field(default=IndexSettings(), description="How shards are indexed.")

    @model_validator(mode="after")
    def _has_one_order(self) -> DatabaseImport:
        if self.order is not None:
            if len(self.parts) > 1:
                raise ValueError(
                    "order names the parts of one folder; files given one by one are in row "
                    "order already"
                )
            return self
        folders = [part for part in self.parts if not part.endswith(".npz")]
        if folders:
            raise ValueError(
                f"{folders[0]} is not the name of an .npz part; give every part in row order, or "
                "their folder and an order"
            )
        return self
