"""Time the searches of a job alone, by a process that does nothing else.

    python -m rdm_batch.regression.searches JOB COUNT [--set key.path=value ...]

While a job runs, a search also waits for what its process does besides: threads that draw, encode
and write. One in a hundred waits longer than searching takes, so the p99 of a job's own searches
is that of its neighbors. Here the same queries are asked again and nothing else happens; the
process prints ``TimedSearches`` as JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.pool import RetrieverNeeds
from rdm_batch.cluster.texts import ClusterEmbedder
from rdm_batch.errors import RdmBatchError, RegressionError
from rdm_batch.generation.engines import search_effort
from rdm_batch.generation.modes import mode_of
from rdm_batch.generation.preflight import preflight
from rdm_batch.generation.submission import load_job
from rdm_batch.reports.latency import LatencySummary, summarize_latencies
from rdm_batch.reports.provenance import software_versions
from rdm_batch.retrieval.retriever import ObservedRetriever, Search
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.job import JobSpec

WARM_UP = 50
"""Searches that are not counted: the first ones bring the rows into memory."""
_SHARDS = 64
"""Of the job whose queries are asked, over and over."""


class TimedSearches(BaseModel):
    """Hold how long a job's searches took.

    Args:
        identity: Of the job.
        latency: Of every search, whatever number of queries it asks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    identity: str
    latency: LatencySummary


def time_searches(spec: JobSpec, where: str, count: int) -> TimedSearches:
    """Ask the database what a job asks it, one search after the other, in this process.

    Args:
        spec: The job, with absolute locations; nothing is drawn or stored.
        where: Its file, for messages.
        count: Searches that are timed; each asks for as many queries as one of the job's.

    Raises:
        InvalidJobError: What the job names is missing, or does not fit.
        RegressionError: It searches nothing.
    """
    job = preflight(spec, where, software_versions())
    cluster = LocalCluster()
    needs = RetrieverNeeds(effort=search_effort(spec, job.database.manifest))
    asked: list[Search] = []
    with cluster.retriever(job.database, needs) as retriever:
        conditioner = mode_of(spec.conditioning).build_conditioner(job, ClusterEmbedder(cluster))
        observed = ObservedRetriever(retriever, asked.append)
        for number in range(min(_SHARDS, len(job.shards))):
            conditioner(SampleNoise(spec.sampling.seed, job.shards[number].indices), observed)
        if not asked:
            raise RegressionError(where, "searches nothing", "a job that looks up neighbors")
        seconds = np.empty(WARM_UP + count)
        for number, search in enumerate(islice(cycle(asked), len(seconds))):
            start = time.perf_counter()
            retriever.search(search.queries, search.found.ids.shape[1])
            seconds[number] = time.perf_counter() - start
    return TimedSearches(identity=job.header.digest, latency=summarize_latencies(seconds[WARM_UP:]))


def main(argv: Sequence[str] | None = None) -> None:
    """Time the searches of a job file, and print what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    args = parser.parse_args(argv)
    try:
        found = time_searches(load_job(args.job, args.overrides), str(args.job), args.count)
    except RdmBatchError as error:
        sys.exit(str(error))
    print(found.model_dump_json())


if __name__ == "__main__":
    main()
