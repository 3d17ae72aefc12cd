"""The files of a report, beside the sample set they are about."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from rdm_batch.errors import SampleSetError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.reports.latency import Latencies
from rdm_batch.reports.page import render_page
from rdm_batch.reports.pictures import Pictures
from rdm_batch.reports.run_report import RunReport, load_report
from rdm_batch.specs.messages import first_problem
from rdm_batch.specs.scores import Score
from rdm_batch.storage.object_store import open_store

REPORT_KEY = "report.json"
LATENCIES_KEY = "latencies.parquet"
PICTURES_KEY = "illustrations.parquet"
PAGE_KEY = "report.html"


@dataclass(frozen=True)
class SavedRun:
    """Hold all that is saved of a finished job besides its samples."""

    report: RunReport
    latencies: Latencies | None = None
    pictures: Pictures | None = None

    def page(self) -> str:
        """Render the HTML page."""
        return render_page(self.report, self.latencies, self.pictures)


def save_run(uri: str, run: SavedRun) -> str:
    """Write a finished job's report, what belongs to it, and its page.

    Args:
        uri: The output location of the job. Files of an earlier report are replaced.
        run: What to save.

    Returns:
        The URI of the page.

    Raises:
        SampleSetError: The location cannot be written.
    """
    page = run.page()
    store = open_store(uri)
    if run.latencies is not None:
        store.write_bytes(LATENCIES_KEY, run.latencies.to_parquet())
    if run.pictures is not None:
        store.write_bytes(PICTURES_KEY, run.pictures.to_parquet())
    store.write_bytes(REPORT_KEY, run.report.to_json())
    store.write_bytes(PAGE_KEY, page.encode())
    return store.child_uri(PAGE_KEY)


def save_page(uri: str, run: SavedRun) -> str:
    """Write the page alone, below the output location ``uri``; give its URI."""
    store = open_store(uri)
    store.write_bytes(PAGE_KEY, run.page().encode())
    return store.child_uri(PAGE_KEY)


def load_scores(uri: str) -> tuple[Score, ...]:
    """Read the scores that ``rdm-batch evaluate --json`` wrote; none where it is no such file.

    Raises:
        SampleSetError: The file is missing, or a score in it is damaged.
    """
    folder, _, name = uri.rpartition("/")
    if not name.endswith(".json"):
        return ()
    data = open_store(folder or ".").read_bytes(name)
    try:
        saved = parse_json(data)
        if not isinstance(saved, list):
            return ()
        return tuple(Score.model_validate(item) for item in saved)
    except ValidationError as error:
        raise _unreadable(uri, first_problem(error, "a score")) from error
    except ValueError as error:
        raise _unreadable(uri, str(error).splitlines()[0]) from error


def _unreadable(uri: str, found: str) -> SampleSetError:
    return SampleSetError(
        uri,
        f"not readable as scores ({found})",
        "a file written by `rdm-batch evaluate --json`",
        "evaluate again",
    )


def load_run(uri: str) -> SavedRun:
    """Read what ``save_run`` wrote.

    Args:
        uri: The output location of the job, or its ``report.json`` alone.

    Raises:
        SampleSetError: There is no report, or one of the files is damaged.
    """
    folder, _, name = uri.rstrip("/").rpartition("/")
    if name.endswith(".json"):
        data = open_store(folder or ".").read_bytes(name)
        return SavedRun(report=load_report(data, uri))
    store = open_store(uri)
    if not store.exists(REPORT_KEY):
        raise SampleSetError(
            store.child_uri(REPORT_KEY),
            "does not exist",
            "the report of a finished job",
            "run the job to its end first",
        )
    latencies = pictures = None
    if store.exists(LATENCIES_KEY):
        data = store.read_bytes(LATENCIES_KEY)
        latencies = Latencies.from_parquet(data, store.child_uri(LATENCIES_KEY))
    if store.exists(PICTURES_KEY):
        data = store.read_bytes(PICTURES_KEY)
        pictures = Pictures.from_parquet(data, store.child_uri(PICTURES_KEY))
    report = load_report(store.read_bytes(REPORT_KEY), store.child_uri(REPORT_KEY))
    return SavedRun(report, latencies, pictures)
