"""Raw retrieval latencies: kept as parquet, summarized exactly."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float64
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveInt

from rdm_batch.errors import SampleSetError
from rdm_batch.files import UNREADABLE

if TYPE_CHECKING:
    import pyarrow as pa


def _schema() -> pa.Schema:
    # Imported where it is used: reports of benchmarks are written where there is no pyarrow.
    import pyarrow as pa

    return pa.schema([("scope", pa.string()), ("seconds", pa.float64())])


class LatencySummary(BaseModel):
    """Summarize latencies by count, mean, extremes and exact percentiles, in seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    count: PositiveInt
    mean_s: NonNegativeFloat
    min_s: NonNegativeFloat
    p50_s: NonNegativeFloat
    p95_s: NonNegativeFloat
    p99_s: NonNegativeFloat
    max_s: NonNegativeFloat


@dataclass(frozen=True)
class Latencies:
    """Hold every measured retrieval latency of a run, in seconds.

    Args:
        query_s: One value per query.
        batch_s: One value per batched retrieval call, as its caller waited for it.
    """

    query_s: Float64[np.ndarray, " queries"]
    batch_s: Float64[np.ndarray, " batches"]

    def to_parquet(self) -> bytes:
        """Serialize to the bytes of ``latencies.parquet`` (columns scope, seconds)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        scope = ["query"] * len(self.query_s) + ["batch"] * len(self.batch_s)
        seconds = np.concatenate([self.query_s, self.batch_s])
        sink = io.BytesIO()
        pq.write_table(pa.table([scope, seconds], schema=_schema()), sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes, where: str = "latencies.parquet") -> Latencies:
        """Read what ``to_parquet`` wrote.

        Raises:
            SampleSetError: The bytes are not such a file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            table = pq.read_table(io.BytesIO(data), schema=_schema())
        except (pa.ArrowException, *UNREADABLE) as error:
            raise SampleSetError(
                where,
                f"not a table of latencies ({error})",
                "parquet with columns scope and seconds",
                "run the job again to write a new one",
            ) from error
        scope = np.asarray(table["scope"].to_pylist(), dtype=object)
        seconds = table["seconds"].to_numpy()
        return cls(query_s=seconds[scope == "query"], batch_s=seconds[scope == "batch"])


def summarize_latencies(seconds: Float64[np.ndarray, " n"]) -> LatencySummary:
    """Summarize raw latencies; percentiles are exact, interpolated between order statistics.

    Args:
        seconds: At least one finite value.
    """
    p50_s, p95_s, p99_s = np.percentile(seconds, [50, 95, 99], method="linear")
    return LatencySummary(
        count=len(seconds),
        mean_s=float(seconds.mean()),
        min_s=float(seconds.min()),
        p50_s=float(p50_s),
        p95_s=float(p95_s),
        p99_s=float(p99_s),
        max_s=float(seconds.max()),
    )
