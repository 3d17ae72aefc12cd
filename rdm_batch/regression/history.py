"""Runs of suites on any store: one parquet file a run, only ever added.

Layout below one URI::

    runs/<id>.parquet            figures as rows; everything else of the run in the file's metadata
    artifacts/<id>/...           what a run keeps besides, such as the digests of its canary

A file appears whole or not at all and no name is used twice, so nights that write at once lose
nothing and a reader needs no lock. What is there is never written again.
"""

from __future__ import annotations

import io
import json
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from rdm_batch.errors import RegressionError
from rdm_batch.files import UNREADABLE
from rdm_batch.formats.json_text import parse_json
from rdm_batch.regression.records import Run
from rdm_batch.specs.messages import first_problem
from rdm_batch.storage.object_store import open_store

RUNS_FOLDER = "runs"
ARTIFACTS_FOLDER = "artifacts"
FORMAT = "rdm_batch.nightly/1"
_OF = b"rdm_batch.nightly"
_MAX_FILE_BYTES = 64 << 20
_SCHEMA = pa.schema(
    [
        ("job", pa.string()),
        ("name", pa.string()),
        ("kind", pa.string()),
        ("value", pa.float64()),
        ("error", pa.float64()),
        ("unit", pa.string()),
        ("better", pa.string()),
        ("description", pa.string()),
        ("floor", pa.float64()),
        ("values", pa.list_(pa.float64())),
    ]
)


@dataclass(frozen=True)
class Contents:
    """What a history holds.

    Attributes:
        runs: In the order they were stored.
        unread: One line for every file that was not read: torn, or not a run.
    """

    runs: tuple[Run, ...]
    unread: tuple[str, ...] = ()

    @property
    def backwards(self) -> tuple[str, ...]:
        """Say which runs started, by their clock, before one that was stored earlier."""
        lines = []
        latest: Run | None = None
        for run in self.runs:
            if latest is not None and run.position > latest.position:
                if run.started < latest.started:
                    lines.append(
                        f"run {run.id} says it started {_shown(run.started)}, before {latest.id} "
                        f"({_shown(latest.started)}), which was stored earlier: one of the clocks "
                        "is wrong; runs keep the order they were stored in"
                    )
                else:
                    latest = run
            elif latest is None or run.started > latest.started:
                latest = run
        return tuple(lines)

    def of_class(self, machine_class: str) -> tuple[Run, ...]:
        """Return the runs of one class of machine, in order."""
        return tuple(run for run in self.runs if run.machine_class == machine_class)


def new_run_id(started: datetime) -> str:
    """Make a name for a run that no other has."""
    return f"{started.astimezone(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(4)}"


class History:
    """Runs at a URI.

    Args:
        uri: Folder or ``s3://bucket/prefix``; it need not exist before the first run.

    Raises:
        RegressionError: The URI is no location.
    """

    def __init__(self, uri: str) -> None:
        self.store = open_store(uri, RegressionError)
        self.uri = uri

    def check_writable(self) -> None:
        """Make sure that a run could be added, before the work it is to hold.

        Raises:
            RegressionError: It could not, or the location holds something else.
        """
        self.read()
        self.store.check_writable()

    def append(self, run: Run) -> Run:
        """Add a run.

        Args:
            run: With an ``id`` of ``new_run_id``; its position is set here.

        Returns:
            The run as it was stored.

        Raises:
            RegressionError: There is a run of that name, or nothing can be written.
        """
        before = self.read().runs
        stored = run.model_copy(
            update={"position": 1 + max((other.position for other in before), default=-1)}
        )
        key = _key(run.id)
        if not self.store.write_bytes_if_absent(key, run_bytes(stored)):
            raise RegressionError(
                self.store.child_uri(key),
                "is there already, and nothing in a history is written again",
                "a run of a new name",
            )
        return stored

    def read(self) -> Contents:
        """Read every run.

        Raises:
            RegressionError: The location holds files, and none of them is a run of this format.
        """
        runs, unread = [], []
        for item in self.store.list_objects(RUNS_FOLDER):
            where = self.store.child_uri(item.key)
            try:
                if item.num_bytes > _MAX_FILE_BYTES:
                    raise RegressionError(where, f"has {item.num_bytes:,} bytes")
                runs.append(parse_run(self.store.read_bytes(item.key), where, item.key))
            except RegressionError as problem:
                unread.append(str(problem))
        if not runs and not unread:
            # A run that is here by now was stored meanwhile, by another night.
            own = (f"{ARTIFACTS_FOLDER}/", f"{RUNS_FOLDER}/")
            others = [
                item.key for item in self.store.list_objects() if not item.key.startswith(own)
            ]
            if others:
                raise RegressionError(
                    self.uri,
                    f"holds {others[0]} and no {RUNS_FOLDER}/",
                    "a history of runs, or a new location",
                    "check the URI of --history",
                )
        if unread and not runs:
            raise RegressionError(
                self.uri,
                f"none of its {len(unread):,} runs can be read; the first: {unread[0]}",
                f"a history in the format {FORMAT}",
                "use the release that wrote it, or another location",
            )
        return Contents(tuple(sorted(runs, key=lambda run: run.order)), tuple(unread))

    def keep(self, run_id: str, name: str, data: bytes) -> str:
        """Store what belongs to a run; give its key.

        Raises:
            RegressionError: It is there already, or nothing can be written.
        """
        key = f"{ARTIFACTS_FOLDER}/{run_id}/{name}"
        if not self.store.write_bytes_if_absent(key, data):
            raise RegressionError(
                self.store.child_uri(key), "is there already", "a run of a new name"
            )
        return key


def run_bytes(run: Run) -> bytes:
    """Write a run as parquet: figures are rows, the rest stands in the metadata."""
    rows = [figure.model_dump(mode="json") for figure in run.figures]
    header = run.model_dump(mode="json", exclude={"figures"}) | {"num_figures": len(rows)}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    table = pa.Table.from_pylist(rows, schema=_SCHEMA)
    sink = io.BytesIO()
    pq.write_table(
        table.replace_schema_metadata({_OF: text.encode()}),
        sink,
        compression="zstd",
        write_page_checksum=True,
    )
    return sink.getvalue()


def parse_run(data: bytes, where: str, key: str | None = None) -> Run:
    """Read what ``run_bytes`` wrote.

    Args:
        data: The file.
        where: Named in messages.
        key: Its key, which must be the run's. None: not compared.

    Raises:
        RegressionError: It is torn, damaged, of another format, or stands under another name.
    """
    try:
        with pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True) as parquet:
            metadata = parquet.schema_arrow.metadata or {}
            if _OF not in metadata:
                raise _no_run(where, "is a parquet file of something else")
            header = parse_json(metadata[_OF])
            table = parquet.read()
    except (pa.ArrowException, *UNREADABLE) as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise _no_run(where, f"is torn or damaged ({reason})") from problem
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        found = header.get("format") if isinstance(header, dict) else None
        raise _no_run(where, f"is of the format {found!r}")
    count = header.pop("num_figures", None)
    if count != table.num_rows:
        raise _no_run(where, f"is damaged ({table.num_rows} figures, its header says {count})")
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
        run = Run.model_validate(header | {"figures": rows})
    except ValidationError as problem:
        raise _no_run(where, f"is damaged ({first_problem(problem)})") from problem
    if key is not None and key != _key(run.id):
        raise _no_run(where, f"holds the run {run.id}, under another name")
    return run


def _key(run_id: str) -> str:
    return f"{RUNS_FOLDER}/{run_id}.parquet"


def _no_run(where: str, found: str) -> RegressionError:
    return RegressionError(where, found, f"a run in the format {FORMAT}", "it is not read")


def _shown(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
