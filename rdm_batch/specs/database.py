"""What the commands that make a retrieval database are asked for."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from rdm_batch.specs.base import Spec, Uri
from rdm_batch.specs.later import LaterFields

BRUTE_FORCE_MAX_ROWS = 20_000
ROWS_PER_LEAF = 200
"""Measured, as big-ann's winners chose: about one leaf for 250 rows, not sqrt(rows) leaves."""

Queries = Literal["pictures", "texts"]
"""What is searched with. An index tuned for pictures misses what texts look for."""


EngineChoice = Literal["auto", "scann", "exact"]
"""What searches a database: its index, all rows past all queries, or the index if there is one."""


class IndexSettings(Spec, LaterFields):
    """Describe how a shard is indexed."""

    later: ClassVar[tuple[str, ...]] = ("target_recall",)

    kind: Literal["auto", "brute_force", "tree_soar", "tree_ah", "none"] = Field(
        default="auto",
        description=f"`auto` scans shards of up to {BRUTE_FORCE_MAX_ROWS:,} rows and partitions "
        "larger ones (`tree_soar`: many leaves, each row in two of them, tuned to `target_recall`, "
        "rows mapped from their file). `tree_ah` is what earlier versions built, rows in memory. "
        "`none` indexes nothing: for the exact engine.",
    )
    leaves: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description=f"Partitions of the tree. None: one for {ROWS_PER_LEAF} rows; of a `tree_ah` "
        "the square root of the rows.",
    )
    leaves_to_search: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Partitions searched for a query. None: as few as reach `target_recall`; of a "
        "`tree_ah` a fifth.",
    )
    reorder: Annotated[int, Field(ge=1)] = Field(
        default=200,
        description="Candidates rescored from the rows, per query; where leaves_to_search is "
        "tuned, the most there may be. Of a `tree_ah`, from less compressed vectors.",
    )
    quantization: Literal["float32", "bfloat16", "int8"] = Field(
        default="bfloat16",
        description="Storage of the vectors that rescore candidates of a `tree_ah`.",
    )
    target_recall: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.95,
        description="Recall@20 that the build tunes the search for, for pictures and for texts.",
    )

    def resolve(self, rows: int) -> IndexSettings:
        """Replace automatic values by those of a shard of ``rows`` rows.

        Only what is tuned stays open: ``leaves_to_search`` of a ``tree_soar``.
        """
        kind = self.kind
        if kind == "auto":
            kind = "brute_force" if rows <= BRUTE_FORCE_MAX_ROWS else "tree_soar"
        few = round(rows / ROWS_PER_LEAF) if kind == "tree_soar" else round(math.sqrt(rows))
        leaves = min(self.leaves or max(1, few), rows)
        searched = self.leaves_to_search
        if kind != "tree_soar":
            searched = searched or math.ceil(leaves / 5)
        if searched is not None:
            searched = min(searched, leaves)
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
    store_images: Annotated[int, Field(ge=8, le=4096)] | None = Field(
        default=None,
        description="Keep the pixels of every row as well, as squares of this side (the largest "
        "centered square, resized bicubically with antialiasing): training for edits reads them. "
        "None keeps none.",
    )
    strict: bool = Field(
        default=False, description="Fail on the first damaged image instead of leaving it out."
    )


class ProposalCounting(Spec):
    """Say whose neighbors are counted for the proposal distribution p_D, and how."""

    proposal_from: Uri | None = Field(
        default=None,
        description="Training set whose neighbors are counted for the proposal distribution: "
        "images in any form; beside `--embeddings`, embeddings in any of its forms.",
    )
    proposal_k: Annotated[int, Field(ge=1)] = Field(
        default=4, description="Neighbors counted per image of the training set."
    )
    proposal_engine: EngineChoice = Field(
        default="auto",
        description="What looks for them: the index (`scann`), or all rows past all images "
        "(`exact`). `auto` takes the index, where every shard has one.",
    )
    proposal_sample: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Share of the training set that is counted, chosen by lot: a preview. The same "
        "command with another share counts again and keeps everything else.",
    )


class DatabaseBuild(ProposalCounting):
    """Ask for a database of images."""

    images: Uri = Field(
        description="A folder of PNG, JPEG and WebP files, a parquet file or folder, uncompressed "
        "`.tar` archives of webdataset or a folder of them, or "
        "`shapes:SUBSET[:COUNT[:STYLE,STYLE...]]` for the embedded world."
    )
    out: Uri = Field(description="Where the database goes: a folder or `s3://bucket/prefix`.")
    shards: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Shards the rows are cut into. None: as few as hold at most 4 GB of rows each, "
        "in float32.",
    )
    encode: EncodeSettings = Field(default=EncodeSettings(), description="How images become rows.")
    index: IndexSettings = Field(default=IndexSettings(), description="How shards are indexed.")
    # Changes no row beyond its last digit, where a worker's number of threads moves the
    # encoder's float sums.
    workers: Annotated[int, Field(ge=1)] = Field(
        default=1,
        description="Workers that encode images, then index shards. One runs in this process, more "
        "are Ray actors, which take 8 s to start.",
    )
    memory: Annotated[float, Field(gt=0)] | None = Field(
        default=None,
        description="Ceiling of the memory that indexing may take, GB. What cannot stay below it "
        "is refused, with what it needs.",
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


class DatabaseAdd(Spec):
    """Ask for images to be appended to a database, with the encoder and settings it has."""

    out: Uri = Field(description="The database, a folder or `s3://bucket/prefix`.")
    images: Uri = Field(description="The images, in any form that `database build` takes.")
    strict: bool = Field(
        default=False, description="Fail on the first damaged image instead of leaving it out."
    )
    workers: Annotated[int, Field(ge=1)] = Field(default=1, description="As of `database build`.")
    memory: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="As of `database build`."
    )
    address: str = Field(default="local", description="As of `database build`.")


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
