"""The columns of a sample set, and their exact bytes as Parquet.

The ``image`` column is the ``Image`` feature of Hugging Face ``datasets``: a struct of
``bytes`` (PNG) and ``path``, declared in the schema's ``huggingface`` metadata.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Float32, Int64, Shaped

from rdm_batch.errors import SampleSetError
from rdm_batch.storage.png import png_size

ROWS_PER_GROUP = 100

SOURCE_COLUMN = "source"
"""Column with the picture that a sample is an edit of, of the sample's size."""
SOURCE_CAPTION_COLUMN = "source_caption"
"""Column with what is said of that picture."""

_PICTURES: Final = ("image.bytes", f"{SOURCE_COLUMN}.bytes")
_IMAGE: Final = {"_type": "Image"}


def _metadata(*images: str) -> dict[str, str]:
    """Name the columns that hold pictures, as Hugging Face ``datasets`` declares them."""
    features = {"info": {"features": dict.fromkeys(images, _IMAGE)}}
    return {"huggingface": json.dumps(features, sort_keys=True)}


SCHEMA = pa.schema(
    [
        pa.field("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        pa.field("sample_index", pa.int64(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("query_id", pa.int64()),
        pa.field("neighbor_ids", pa.list_(pa.int64())),
        pa.field("neighbor_scores", pa.list_(pa.float32())),
        pa.field("label", pa.string()),
        pa.field("prompt", pa.string()),
        pa.field("sampler", pa.string()),
        pa.field("num_steps", pa.int32()),
        pa.field("eta", pa.float32()),
        pa.field("guidance_scale", pa.float32()),
    ],
    metadata=_metadata("image"),
)


def make_table(
    *,
    sample_indices: Int64[np.ndarray, " batch"],
    images: Sequence[bytes],
    seed: int,
    query_ids: Int64[np.ndarray, " batch"] | None = None,
    neighbor_ids: Int64[np.ndarray, "batch k_nn"] | None = None,
    neighbor_scores: Float32[np.ndarray, "batch k_nn"] | None = None,
    labels: Sequence[str] | None = None,
    prompts: Sequence[str] | None = None,
    sampler: str | None = None,
    num_steps: int | None = None,
    eta: float | None = None,
    guidance_scale: float | None = None,
    others: Mapping[str, pa.Array] | None = None,
) -> pa.Table:
    """Put a shard's samples and their provenance into the columns of a sample set.

    Args:
        sample_indices: Index of each sample.
        images: PNG bytes of each sample.
        seed: Seed of the job.
        query_ids: Database row of each pseudo-query. None where queries are no database rows.
        neighbor_ids: Database rows of the context. None for a head without neighbors.
        neighbor_scores: Cosine similarity of each neighbor to its query.
        labels: Class of each sample. None unless classes were asked for.
        prompts: Prompt of each sample. None unless prompts were given.
        sampler: Name of the sampler.
        num_steps: Solver steps. None for samplers without.
        eta: Share of fresh noise. None for samplers without.
        guidance_scale: Guidance; 1 is none.
        others: What this job records besides, by the name of its column; behind the rest.

    Raises:
        SampleSetError: When the columns differ in length.
    """
    count = len(sample_indices)
    paths = [f"{index:08d}.png" for index in sample_indices]
    if len(images) != count:
        raise SampleSetError("image", f"{len(images):,} values", f"{count:,}")
    columns: dict[str, object] = {
        "image": image_array(images, paths),
        "sample_index": sample_indices,
        "seed": np.full(count, seed),
        "query_id": query_ids,
        "neighbor_ids": None if neighbor_ids is None else _lists(neighbor_ids),
        "neighbor_scores": None if neighbor_scores is None else _lists(neighbor_scores),
        "label": labels,
        "prompt": prompts,
        "sampler": [sampler] * count,
        "num_steps": [num_steps] * count,
        "eta": [eta] * count,
        "guidance_scale": [guidance_scale] * count,
    }
    others = others or {}
    schema = SCHEMA
    for name, values in others.items():
        if name in columns:
            raise SampleSetError(name, "is a column of every sample set", "another name")
        columns[name] = values
        schema = schema.append(pa.field(name, values.type))
    if SOURCE_COLUMN in others:
        schema = schema.with_metadata(_metadata("image", SOURCE_COLUMN))
    arrays = []
    for field in schema:
        values = columns[field.name]
        if values is None:
            values = pa.nulls(count, field.type)
        array = values if isinstance(values, pa.Array) else pa.array(values, field.type)
        if len(array) != count:
            raise SampleSetError(field.name, f"{len(array):,} values", f"{count:,}")
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=schema)


def image_array(images: Sequence[bytes], paths: Sequence[str]) -> pa.StructArray:
    """Put PNG files and their names into a column of pictures."""
    return pa.StructArray.from_arrays(
        [pa.array(images, pa.binary()), pa.array(paths, pa.string())],
        fields=list(SCHEMA.field("image").type),
    )


def table_bytes(table: pa.Table) -> bytes:
    """Write a table as Parquet: the same rows and library versions give the same bytes."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        version="2.6",
        row_group_size=ROWS_PER_GROUP,
        # PNG does not shrink further; statistics over it would copy pictures into footers.
        compression={
            name: "NONE" if name in _PICTURES else "ZSTD" for name in _leaf_columns(table)
        },
        compression_level={name: 1 for name in _leaf_columns(table) if name not in _PICTURES},
        use_dictionary=["label", "prompt", "sampler"],
        write_statistics=[name for name in _leaf_columns(table) if name not in _PICTURES],
        data_page_version="1.0",
        store_schema=True,
    )
    return buffer.getvalue()


def wrong_sizes(table: pa.Table | pa.RecordBatch, image_size: int) -> dict[tuple[int, int], int]:
    """Count images by (height, width), those of the right size left out.

    Raises:
        SampleSetError: The column holds something else than images.
    """
    counts: dict[tuple[int, int], int] = {}
    if table.schema.field("image").type != SCHEMA.field("image").type:
        raise SampleSetError("image", f"a column of {table.schema.field('image').type}", "images")
    images = table.column("image")
    for chunk in images.chunks if isinstance(images, pa.ChunkedArray) else [images]:
        for data in chunk.field("bytes"):
            size = png_size(data.as_buffer()[:24].to_pybytes() if data.is_valid else b"")
            if size != (image_size, image_size):
                counts[size] = counts.get(size, 0) + 1
    return counts


def _lists(rows: Shaped[np.ndarray, "batch k_nn"]) -> pa.ListArray:
    count, length = rows.shape
    offsets = np.arange(count + 1) * length
    return pa.ListArray.from_arrays(offsets.astype(np.int32), pa.array(rows.reshape(-1)))


def _leaf_columns(table: pa.Table) -> list[str]:
    # Parquet's own names of nested columns, as its writer options want them.
    names = {
        "image": ["image.bytes", "image.path"],
        SOURCE_COLUMN: [f"{SOURCE_COLUMN}.bytes", f"{SOURCE_COLUMN}.path"],
        "neighbor_ids": ["neighbor_ids.list.element"],
        "neighbor_scores": ["neighbor_scores.list.element"],
    }
    return [leaf for column in table.column_names for leaf in names.get(column, [column])]
