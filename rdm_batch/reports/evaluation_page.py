"""The page of an evaluation that belongs to no job."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from rdm_batch.reports.page import score_context, template
from rdm_batch.reports.pictures import Pictures
from rdm_batch.reports.views import Views
from rdm_batch.reports.views_layout import lay_out
from rdm_batch.specs.scores import Score


@dataclass(frozen=True)
class EvaluationReport:
    """Hold what the page of an evaluation says.

    Args:
        samples: What was judged.
        reference: What it was judged against.
        scores: At least one.
        views: What there is to look at.
        time: When it was judged.
        command: How to do it again.
        software: Versions by name.
    """

    samples: str
    reference: str
    scores: tuple[Score, ...]
    views: Views
    time: datetime
    command: str
    software: dict[str, str]


def render_evaluation(report: EvaluationReport, pictures: Pictures) -> str:
    """Render the page, self-contained as that of a job.

    Args:
        report: What it says.
        pictures: The pictures it names; missing ones leave empty frames.

    Raises:
        SampleSetError: A picture is not an image.
    """
    return template("evaluation.html.j2").render(
        samples=report.samples,
        reference=report.reference,
        time=report.time,
        command=report.command,
        software=report.software,
        look=lay_out(report.views, pictures),
        **score_context(report.scores),
    )
