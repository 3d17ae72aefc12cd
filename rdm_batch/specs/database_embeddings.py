"""What ``rdm-batch database build --embeddings`` is asked for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from rdm_batch.specs.base import Spec, Uri
from rdm_batch.specs.database import IndexSettings, ProposalCounting


class DatabaseOfEmbeddings(ProposalCounting):
    """Ask for a database of embeddings that were made elsewhere."""

    embeddings: Uri = Field(
        description="Existing embeddings instead of images: a folder as clip-retrieval writes it "
        "(`img_emb_*.npy` beside or above `metadata_*.parquet`), a `.npy` array of shape (N, "
        "width), or a parquet table with a vector column."
    )
    metadata: Uri | None = Field(
        default=None,
        description="For a `.npy`: a parquet table of as many rows, with captions, addresses, "
        "paths. None: nothing is known of the rows.",
    )
    column: str | None = Field(
        default=None,
        description="Vector column of a parquet table. None: `embedding`, or the only one.",
    )
    pictures: Uri | None = Field(
        default=None,
        description="Images of the same rows in the same order, in any form images have, to make "
        "thumbnails of. None: no pictures.",
    )
    thumbnail_size: Annotated[int, Field(ge=1)] = Field(
        default=64, description="Longest side of a thumbnail in pixels."
    )
    out: Uri = Field(description="Where the database goes: a folder or `s3://bucket/prefix`.")
    encoder: str = Field(description="Name of the encoder that made the embeddings.")
    encoder_digest: str | None = Field(
        default=None, description="Its digest. None: its file is not at hand."
    )
    shards: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="As of `database build`.",
    )
    index: IndexSettings = Field(default=IndexSettings(), description="How shards are indexed.")
    workers: Annotated[int, Field(ge=1)] = Field(default=1, description="As of `database build`.")
    memory: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="As of `database build`."
    )
    address: str = Field(default="local", description="As of `database build`.")


class EmbeddingsAdd(Spec):
    """Ask for embeddings to be appended to a database of the same encoder."""

    out: Uri = Field(description="The database, a folder or `s3://bucket/prefix`.")
    embeddings: Uri = Field(
        description="Embeddings of the database's encoder instead of images, in any form that "
        "`database build --embeddings` takes."
    )
    metadata: Uri | None = Field(default=None, description="As of `database build`.")
    column: str | None = Field(default=None, description="As of `database build`.")
    pictures: Uri | None = Field(default=None, description="As of `database build`.")
    encoder: str = Field(description="Name of the encoder that made the embeddings.")
    encoder_digest: str | None = Field(
        default=None, description="Its digest. None: its file is not at hand."
    )
    workers: Annotated[int, Field(ge=1)] = Field(default=1, description="As of `database build`.")
    memory: Annotated[float, Field(gt=0)] | None = Field(
        default=None, description="As of `database build`."
    )
    address: str = Field(default="local", description="As of `database build`.")
