"""What is kept beside a judged set, so that a comparison needs no second evaluation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rdm_batch.files import UNREADABLE, canonical_digest
from rdm_batch.metrics.pairing import Influences
from rdm_batch.specs.scores import Score
from rdm_batch.storage.object_store import open_store

INFLUENCES_KEY = "influences.parquet"
_OF = b"rdm_batch.scores"
_SCHEMA = pa.schema(
    [("score", pa.string()), ("over", pa.string()), ("id", pa.int64()), ("value", pa.float64())]
)


def save_influences(
    uri: str, digest: str, scores: Sequence[Score], influences: Mapping[str, Influences]
) -> None:
    """Keep the influences on the scores of a set.

    Args:
        uri: Of the set.
        digest: Of its shards, as its completion has it.
        scores: Whose influences they are.
        influences: By score.
    """
    data = influences_bytes(influences, _of(digest, scores))
    open_store(uri).write_bytes(INFLUENCES_KEY, data)


def load_influences(uri: str, digest: str, scores: Sequence[Score]) -> dict[str, Influences] | None:
    """Read what was kept; None where nothing was, or it is of other samples or scores.

    It can be computed again from the features of the set, so a damaged file counts as none.
    """
    data = open_store(uri).read_if_there(INFLUENCES_KEY)
    if data is None:
        return None
    return parse_influences(data, _of(digest, scores))


def influences_bytes(influences: Mapping[str, Influences], of: bytes = b"") -> bytes:
    """Write influences as parquet.

    Args:
        influences: By score.
        of: Says what they are of; ``parse_influences`` compares it.
    """
    tables = [
        pa.table(
            [
                pa.array([score] * len(found.ids), pa.string()),
                pa.array([found.over] * len(found.ids), pa.string()),
                pa.array(found.ids),
                pa.array(found.values),
            ],
            schema=_SCHEMA,
        )
        for score, found in influences.items()
    ]
    table = pa.concat_tables(tables) if tables else _SCHEMA.empty_table()
    sink = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({_OF: of}), sink, compression="zstd")
    return sink.getvalue()


def parse_influences(data: bytes, of: bytes = b"") -> dict[str, Influences] | None:
    """Read what ``influences_bytes`` wrote; None where it is damaged or of something else."""
    try:
        table = pq.read_table(io.BytesIO(data))
        if table.schema.metadata is None or table.schema.metadata.get(_OF) != of:
            return None
        table = table.cast(_SCHEMA)
    except (pa.ArrowException, *UNREADABLE):
        return None
    found = {}
    for score in table["score"].unique().to_pylist():
        rows = table.filter(pc.equal(table["score"], score))
        over = rows["over"][0].as_py()
        if over not in ("samples", "reference"):
            return None
        found[score] = Influences(over, rows["id"].to_numpy(), rows["value"].to_numpy())
    return found


def _of(digest: str, scores: Sequence[Score]) -> bytes:
    made = [score.model_dump(mode="json") for score in scores]
    return canonical_digest({"samples": digest, "scores": made}, escape=False).encode()
