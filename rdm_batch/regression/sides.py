"""What is put side by side: finished jobs, files of scores, runs of a suite."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from rdm_batch.evaluation.kept import load_influences
from rdm_batch.metrics.pairing import Influences
from rdm_batch.regression.figures import INDEX_RECALL, figures_of, score_figure
from rdm_batch.regression.records import Figure, Run, machine_class
from rdm_batch.reports.run_report import RunReport
from rdm_batch.reports.saved import load_run, load_scores
from rdm_batch.reports.table import score_label, with_arrow
from rdm_batch.specs.scores import SCORES, Score
from rdm_batch.storage.sample_set import SampleSet

_LABELS = {
    "images_per_s": "images/s",
    "images_per_s_with_start_up": "images/s overall",
    "start_up_s": "start-up",
    "model_share": "time in the model",
    "gpu_share": "time of GPUs drawing",
    "peak_share": "share of peak FLOP/s",
    "retriever_bytes": "memory of retrievers",
    "bytes_per_image": "stored for an image",
    "peak_memory_bytes": "peak memory",
}


@dataclass(frozen=True)
class Side:
    """One of several things whose figures are compared.

    Args:
        name: What it is called.
        figures: By what identifies them among all sides.
        machine: Class of the machine that speeds were measured on. None where there are none.
        conditions: Of figures, what they depend on, in words; says why two do not compare.
        influences: Of the samples on scores, where they are kept.
        seed: Of the samples. None where that is not known.
        job: Everything the job was asked for.
        origin: Machine and software.
        labels: What people call figures.
    """

    name: str
    figures: Mapping[str, Figure]
    machine: str | None = None
    conditions: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    influences: Mapping[str, Influences] = field(default_factory=dict)
    seed: int | None = None
    job: Mapping[str, JsonValue] = field(default_factory=dict)
    origin: Mapping[str, JsonValue] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def load_sides(uris: Sequence[str]) -> list[Side]:
    """Open finished jobs and files of scores.

    Args:
        uris: Output locations of jobs, ``report.json``, or files that ``rdm-batch evaluate
            --json`` wrote.

    Raises:
        SampleSetError: One of them has no report.
    """
    found = [(uri, load_scores(uri) or load_run(uri).report) for uri in uris]
    among = [score for _, item in found for score in _scores(item)]
    return [
        _of_report(uri, item, among)
        if isinstance(item, RunReport)
        else _of_scores(uri, item, among)
        for uri, item in found
    ]


def report_side(report: RunReport, name: str | None = None) -> Side:
    """Make a side of a report alone."""
    return _of_report(name or report.sample_set.uri, report, report.scores)


def run_sides(runs: Sequence[Run]) -> list[Side]:
    """Make sides of runs of suites; figures are named ``job figure``."""
    sides = []
    for run in runs:
        figures = {f"{figure.job} {figure.name}": figure for figure in run.figures}
        sides.append(
            Side(
                name=f"{run.id}, {(run.commit or 'no commit')[:12]}{'-dirty' * run.dirty}",
                figures=figures,
                machine=run.machine_class,
                origin={
                    "machine": run.machine.model_dump(mode="json"),
                    "commit": run.commit,
                    "software": dict(sorted(run.versions.items())),
                },
                labels={
                    key: f"{figure.job}: {label_of(figure.name)}" for key, figure in figures.items()
                },
            )
        )
    return sides


def label_of(name: str) -> str:
    """Say what people call a figure."""
    if name in SCORES:
        return with_arrow(SCORES[name].label, SCORES[name].better)
    if name == INDEX_RECALL:
        return with_arrow("index recall", "higher")
    if name in _LABELS:
        return _LABELS[name]
    scope, _, rest = name.partition("_")
    if scope in ("query", "batch"):
        return f"{scope} latency {rest.removesuffix('_s')}"
    return name


def _scores(item: RunReport | tuple[Score, ...]) -> tuple[Score, ...]:
    return item.scores if isinstance(item, RunReport) else item


def _of_any(uri: str, item: RunReport | tuple[Score, ...], among: Sequence[Score]) -> Side:
    if isinstance(item, RunReport):
        return _of_report(uri, item, among)
    return _of_scores(uri, item, among)


def _of_scores(uri: str, scores: Sequence[Score], among: Sequence[Score]) -> Side:
    return Side(
        name=uri,
        figures={score.id: score_figure(score, uri) for score in scores},
        conditions={score.id: score.description.conditions() for score in scores},
        labels={score.id: score_label(score, among) for score in scores},
    )


def _of_report(uri: str, report: RunReport, among: Sequence[Score]) -> Side:
    provenance = report.provenance
    conditions = {score.id: score.description.conditions() for score in report.scores}
    recall = None if report.retrieval is None else report.retrieval.recall
    if recall is not None:
        conditions[INDEX_RECALL] = {"k": recall.k}
    figures = {figure.name: figure for figure in figures_of(report)}
    sampling = report.spec.get("sampling")
    seed = sampling.get("seed") if isinstance(sampling, dict) else None
    started = provenance.started.strftime("%Y-%m-%d %H:%M")
    devices = [head.device for head in report.throughput.heads]
    return Side(
        name=f"{report.job_name}, {started}, {report.sample_set.uri}",
        figures=figures,
        machine=machine_class(provenance.machine),
        conditions=conditions,
        influences=_influences(uri, report),
        seed=seed if isinstance(seed, int) else None,
        job=report.spec,
        origin={
            "machine": provenance.machine.model_dump(mode="json"),
            "git_commit": provenance.git_commit,
            "ray_nodes": len(provenance.ray_nodes),
            "heads": dict(Counter(devices)),
            "software": dict(sorted(provenance.software.items())),
        },
        labels={name: label_of(name) for name in figures}
        | {score.id: score_label(score, among) for score in report.scores},
    )


def _influences(uri: str, report: RunReport) -> Mapping[str, Influences]:
    """Read what is kept beside the set; nothing of a report that lies elsewhere."""
    if uri.endswith(".json") or not report.scores:
        return {}
    found = SampleSet.find(uri)
    done = None if found is None else found.success()
    if done is None:
        return {}
    return load_influences(uri, done.digest, report.scores) or {}
