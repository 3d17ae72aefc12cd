"""The report as one HTML page that needs nothing else.

Images are embedded, figures are HTML and CSS, there is no script, and a content security
policy forbids the browser to load or run anything. Strings of unknown origin (prompts,
captions, names) are escaped by the template engine.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from rdm_batch.reports import units
from rdm_batch.reports.figures import histogram, precision_recall, timeline
from rdm_batch.reports.latency import Latencies
from rdm_batch.reports.pictures import Embedded, Pictures, embed
from rdm_batch.reports.run_report import IllustratedSample, RunReport
from rdm_batch.reports.table import (
    describe,
    lost_retriever,
    own_description,
    retriever_memory,
    score_label,
    shared_description,
)
from rdm_batch.reports.views_layout import lay_out
from rdm_batch.specs.scores import Score

MAX_SAMPLES = 64
MAX_HEADS = 16

# Twice the size at which they are shown, for sharp screens.
_SAMPLE_SIDE = 256
_NEIGHBOR_SIDE = 128


@dataclass(frozen=True)
class _Neighbor:
    label: str
    score: float | None
    picture: Embedded | None


@dataclass(frozen=True)
class _Card:
    sample: IllustratedSample
    picture: Embedded | None
    neighbors: tuple[_Neighbor, ...]
    query: Embedded | None
    before: Embedded | None


def render_page(
    report: RunReport,
    latencies: Latencies | None = None,
    pictures: Pictures | None = None,
) -> str:
    """Render the page of a finished job.

    Args:
        report: The finished job.
        latencies: Raw retrieval latencies; None leaves the histograms out.
        pictures: Images of the illustrated samples and their neighbors; None leaves the
            grid out, a single missing one leaves an empty frame.

    Raises:
        SampleSetError: A picture is not an image.
    """
    histograms = []
    if latencies is not None and report.retrieval is not None:
        histograms = [
            ("per query", histogram(latencies.query_s, report.retrieval.per_query)),
            ("per batch", histogram(latencies.batch_s, report.retrieval.per_batch)),
        ]
    return template("page.html.j2").render(
        report=report,
        cards=[] if pictures is None else _cards(report, pictures),
        histograms=histograms,
        timeline=timeline(report.start_up) if report.start_up else None,
        look=lay_out(report.views, pictures or Pictures()),
        **score_context(report.scores),
        duration=units.format_duration(
            (report.provenance.ended - report.provenance.started).total_seconds()
        ),
        max_heads=MAX_HEADS,
        spec_yaml=yaml.safe_dump(report.spec, sort_keys=False, allow_unicode=True),
        report_command=f"rdm-batch report {shlex.quote(report.sample_set.uri)}",
    )


def score_context(scores: tuple[Score, ...]) -> dict[str, Any]:
    """Give the template of the score table what it needs."""
    shared = shared_description(scores)
    return {
        "scores": scores,
        "precision_recall": precision_recall(scores),
        "shared_description": shared,
        "own_descriptions": [own_description(score, shared) for score in scores],
    }


def _cards(report: RunReport, pictures: Pictures) -> list[_Card]:
    cards = []
    for sample in report.illustrated[:MAX_SAMPLES]:
        captions = sample.neighbor_captions or ("",) * len(sample.neighbor_ids)
        neighbors = tuple(
            _Neighbor(
                label=f"database row {row_id}"
                + ("" if score is None else f", similarity {score:.3f}")
                + (f": {caption}" if caption else ""),
                score=score,
                picture=_embed(pictures.neighbors.get(row_id), _NEIGHBOR_SIDE),
            )
            for row_id, score, caption in zip(
                sample.neighbor_ids,
                sample.neighbor_scores or (None,) * len(sample.neighbor_ids),
                captions,
                strict=True,
            )
        )
        picture = _embed(pictures.samples.get(sample.sample_index), _SAMPLE_SIDE)
        given = pictures.queries.get(sample.sample_index)
        query = None if sample.is_edit else _embed(given, _NEIGHBOR_SIDE)
        before = _embed(given, _SAMPLE_SIDE) if sample.is_edit else None
        cards.append(_Card(sample, picture, neighbors, query, before))
    return cards


def _embed(image: bytes | None, max_side: int) -> Embedded | None:
    return None if image is None else embed(image, max_side)


@cache
def template(name: str) -> Template:
    """Load a template of this folder."""
    environment = Environment(
        loader=PackageLoader("rdm_batch.reports", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bytes=units.format_bytes,
        measured=lambda score: units.format_measured(score.value, score.uncertainty),
        halves=lambda score: units.format_measured(score.value, score.uncertainty).split(" ± "),
        number=units.format_number,
        seconds=units.format_seconds,
        share=units.format_share,
        label=score_label,
        lost_retriever=lost_retriever,
        retriever_memory=retriever_memory,
        describe=describe,
        utc=_format_utc,
    )
    return environment.get_template(name)


def _format_utc(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
