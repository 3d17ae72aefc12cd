"""From the report of a finished job to the figures that are compared and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from rdm_batch.files import canonical_digest
from rdm_batch.regression.records import Better, Figure, Kind
from rdm_batch.reports.latency import LatencySummary
from rdm_batch.reports.run_report import RunReport
from rdm_batch.specs.scores import Score
from rdm_batch.specs.suite import SEARCH_FIGURES

INDEX_RECALL = "index_recall"


@dataclass(frozen=True)
class _Measured:
    name: str
    kind: Kind
    value: float | None
    unit: str
    better: Better


def describe_score(score: Score) -> str:
    """Digest what a score depends on besides the samples."""
    return canonical_digest({"name": score.id} | score.description.conditions(), escape=False)


def score_figure(score: Score, job: str, made_by: str | None = None) -> Figure:
    """Make a figure of a score.

    Args:
        score: The score.
        job: Name of the job.
        made_by: Identity of the samples. In a history it is part of what a series is; None leaves
            it out, for comparisons of jobs that are known to differ.
    """
    return Figure(
        name=score.id,
        job=job,
        kind="quality",
        value=score.value,
        error=score.uncertainty,
        better=score.better or "neither",
        description=_with_job(describe_score(score), made_by),
    )


def figures_of(
    report: RunReport,
    job: str | None = None,
    made_by: str | None = None,
    others: Mapping[str, float] | None = None,
    floors: Mapping[str, float] | None = None,
) -> tuple[Figure, ...]:
    """List everything that a finished job has measured.

    Args:
        report: Of the job.
        job: What it is called. None: as the report says.
        made_by: As in ``score_figure``.
        others: Values of figures that no report holds: ``peak_memory_bytes`` and ``cpu_s``.
        floors: What was measured to be possible in the same run, by figure.
    """
    name = report.job_name if job is None else job
    figures = [score_figure(score, name, made_by) for score in report.scores]
    recall = None if report.retrieval is None else report.retrieval.recall
    if recall is not None:
        # The binomial error of queries x k independent hits: the least it can be.
        error = math.sqrt(recall.value * (1 - recall.value) / (recall.queries * recall.k))
        conditions: dict[str, JsonValue] = {"name": INDEX_RECALL, "k": recall.k}
        figures.append(
            Figure(
                name=INDEX_RECALL,
                job=name,
                kind="quality",
                value=recall.value,
                error=error,
                better="higher",
                description=_with_job(canonical_digest(conditions), made_by),
            )
        )
    for measured in _speeds(report, others or {}):
        if measured.value is not None:
            figures.append(
                Figure(
                    name=measured.name,
                    job=name,
                    kind=measured.kind,
                    value=measured.value,
                    unit=measured.unit,
                    better=measured.better,
                    description=_with_job(canonical_digest({"name": measured.name}), made_by),
                    floor=(floors or {}).get(measured.name),
                )
            )
    return tuple(figures)


def search_figures(latency: LatencySummary, job: str, made_by: str | None) -> tuple[Figure, ...]:
    """List what was measured of a job's searches alone.

    Args:
        latency: Of as many searches as the suite says; their number is part of what they measure.
        job: What the job is called.
        made_by: As in ``score_figure``.
    """
    values = (latency.p50_s, latency.p95_s, latency.p99_s)
    return tuple(
        Figure(
            name=name,
            job=job,
            kind="latency",
            value=value,
            unit="s",
            better="lower",
            description=_with_job(
                canonical_digest({"name": name, "searches": latency.count}), made_by
            ),
        )
        for name, value in zip(SEARCH_FIGURES, values, strict=True)
    )


def _speeds(report: RunReport, others: Mapping[str, float]) -> Iterator[_Measured]:
    speed, retrieval, stored = report.throughput, report.retrieval, report.sample_set
    yield _Measured("images_per_s", "speed", speed.images_per_s, "images/s", "higher")
    whole = speed.images_per_s_with_start_up
    yield _Measured("images_per_s_with_start_up", "speed", whole, "images/s", "higher")
    yield _Measured("start_up_s", "latency", speed.start_up_s, "s", "lower")
    yield _Measured("cpu_s", "latency", others.get("cpu_s"), "s", "lower")
    yield _Measured("model_share", "speed", speed.model_share, "", "higher")
    yield _Measured("gpu_share", "speed", speed.gpu_share, "", "higher")
    yield _Measured("peak_share", "speed", speed.peak_share, "", "higher")
    for scope in ("query", "batch"):
        latency = None if retrieval is None else getattr(retrieval, f"per_{scope}")
        for percentile in ("p50", "p95", "p99"):
            value = None if latency is None else getattr(latency, f"{percentile}_s")
            yield _Measured(f"{scope}_{percentile}_s", "latency", value, "s", "lower")
    resident = None if retrieval is None else retrieval.resident_bytes
    resident_bytes = None if resident is None else float(resident)
    yield _Measured("retriever_bytes", "memory", resident_bytes, "B", "lower")
    per_image = stored.bytes_written / speed.images if speed.images else None
    yield _Measured("bytes_per_image", "memory", per_image, "B", "lower")
    peak = others.get("peak_memory_bytes")
    yield _Measured("peak_memory_bytes", "memory", peak, "B", "lower")


def _with_job(description: str, made_by: str | None) -> str:
    if made_by is None:
        return description
    return canonical_digest({"measured": description, "samples": made_by})
