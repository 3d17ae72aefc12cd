"""Which engine searches for a job, and what each would cost.

Neighbors are part of what defines a sample (design D1), so the engine follows from the job and
its database alone, never from the machine: a job makes the same samples wherever it runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rdm_batch.inputs.databases import engine_for
from rdm_batch.reports.units import format_bytes, format_duration, format_share
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.retrieval.effort import SearchEffort
from rdm_batch.retrieval.index import codes_of_row
from rdm_batch.retrieval.residency import resident_bytes_of
from rdm_batch.retrieval.streaming import READ_ROWS
from rdm_batch.specs.job import JobSpec

Engine = Literal["scann", "exact"]
_MULTIPLY_ADDS_PER_S = 40e9
"""Of float32 on one CPU core, as measured (benchmarks/results/retrieval.md); GPUs have hundreds of
times as many."""
_READ_BYTES_PER_S = 1e9
_SCANNED_CODES_PER_S = 30e6
"""Codes of 512 dimensions that ScaNN looks at on one core, measured."""
_SECONDS_PER_CANDIDATE = 1e-6


def search_effort(spec: JobSpec, manifest: DatabaseManifest) -> SearchEffort:
    """Say how hard a job searches a database."""
    return SearchEffort(
        queries="texts" if spec.conditioning.embeds_text else "pictures",
        leaves_to_search=spec.database.leaves_to_search,
        reorder=spec.database.reorder,
        exactly=engine_of(spec, manifest) == "exact",
    )


def engine_of(spec: JobSpec, manifest: DatabaseManifest) -> Engine:
    """Give the engine a job searches with."""
    return engine_for(spec.database.engine, manifest)


@dataclass(frozen=True)
class EngineCost:
    """Estimate what an engine takes for the queries of a job, on one CPU core.

    Attributes:
        engine: Which.
        read_bytes: Bytes read of files, once.
        seconds: By counted operations.
        memory_bytes: Memory without files that are mapped.
        recall: Expected recall@20. None where nobody measured it.
    """

    engine: Engine
    read_bytes: int
    seconds: float
    memory_bytes: int
    recall: float | None

    def __str__(self) -> str:
        recall = "not measured" if self.recall is None else format_share(self.recall)
        return (
            f"reads {format_bytes(self.read_bytes)}, about "
            f"{format_duration(self.seconds)} on one core, "
            f"{format_bytes(self.memory_bytes)} of memory, recall {recall}"
        )


def scann_cost(spec: JobSpec, manifest: DatabaseManifest, queries: int) -> EngineCost | None:
    """Estimate the search by index; None where a shard has none."""
    effort = search_effort(spec, manifest)
    effort = SearchEffort(effort.queries, effort.leaves_to_search, effort.reorder)
    seconds = 0.0
    recalls: list[tuple[float | None, int]] = []
    for shard in manifest.shards:
        settings = effort.settings_of(shard)
        if settings.kind == "none":
            return None
        if settings.kind == "brute_force":
            seconds += queries * shard.rows * manifest.dim / _MULTIPLY_ADDS_PER_S
            recalls.append((1.0, shard.rows))
            continue
        leaves, searched = settings.leaves or 1, settings.leaves_to_search or 1
        codes = codes_of_row(settings) * shard.rows * searched / leaves
        scanned = codes * (manifest.dim / 512) + leaves
        seconds += queries * (
            scanned / _SCANNED_CODES_PER_S + settings.reorder * _SECONDS_PER_CANDIDATE
        )
        tuned = shard.search_for(effort.queries)
        known = shard.recall_at_20 if tuned is None else tuned.recall
        recalls.append((known, shard.rows))
    recall = None
    if all(known is not None for known, _ in recalls):
        recall = sum((known or 0.0) * rows for known, rows in recalls) / manifest.rows
    files = [(shard.row_bytes, *shard.index_files) for shard in manifest.shards]
    return EngineCost(
        "scann",
        sum(file.num_bytes for listed in files for file in listed),
        seconds,
        sum(resident_bytes_of(shard, manifest, effort) for shard in manifest.shards),
        recall,
    )


def exact_cost(manifest: DatabaseManifest, queries: int, k: int) -> EngineCost:
    """Estimate the search by streaming all rows past all queries."""
    row_bytes = manifest.dim * np.dtype(manifest.dtype).itemsize
    multiplied = queries * manifest.rows * manifest.dim / _MULTIPLY_ADDS_PER_S
    read = manifest.rows * row_bytes
    held = queries * (manifest.dim * 8 + k * 12) + 3 * READ_ROWS * manifest.dim * 4
    return EngineCost("exact", read, max(multiplied, read / _READ_BYTES_PER_S), held, 1.0)


def describe_engines(spec: JobSpec, manifest: DatabaseManifest) -> list[str]:
    """Say in lines what each engine costs a job, and which one it takes."""
    queries = spec.sampling.num_samples
    scann = scann_cost(spec, manifest, queries)
    exact = exact_cost(manifest, queries, spec.conditioning.k_nn)
    chosen = engine_of(spec, manifest)
    why = "" if spec.database.engine != "auto" else " (auto)"
    return [
        f"search     {queries:,} queries at most, by {chosen}{why}",
        f"  scann    {'a shard has no index' if scann is None else scann}",
        f"  exact    {exact}",
    ]
