"""Record what a benchmark measured, in one form: JSON, and a page of the same name beside it.

A file holds what one machine measured for one benchmark, part by part; a part measured again
replaces what it had before. Every part keeps the command, commit, versions, time and load it was
measured with. Figures of another machine are refused before anything is measured: a ratio or a
floor means nothing across machines.

Results written before there was this form are left readable: they are moved aside to
``NAME.earlier.json`` (and ``.md``) when their benchmark is recorded again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from benchmarks.page import page, rows_table, section
from benchmarks.records import Part, Record, Row, check_same_machine, read_record
from rdm_batch.errors import RdmBatchError
from rdm_batch.files import written_aside
from rdm_batch.reports.provenance import (
    command_line,
    describe_machine,
    git_commit,
    software_versions,
)


def parser_of(document: str | None) -> argparse.ArgumentParser:
    """Begin the options of a benchmark, whose module's docstring is its help.

    Every benchmark has ``--json``; without it, figures are printed and not kept.
    """
    parser = argparse.ArgumentParser(
        description=document, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="keep the figures here, and a page (.md) beside"
    )
    return parser


def run(main: Callable[[], None]) -> None:
    """Run the main function of a benchmark; expected failures end it without a traceback."""
    try:
        main()
    except RdmBatchError as error:
        sys.exit(str(error))


class Recorder:
    """Print and keep the figures of a benchmark as they come.

    Args:
        benchmark: Module that measures, below ``benchmarks``.
        title: Heading of the page.
        about: What is measured, in sentences.
        path: The file; None prints only.
        baseline: What ratios compare with; None where nothing is compared.

    Raises:
        RdmBatchError: The file holds another benchmark, or figures of another machine.
    """

    def __init__(
        self,
        benchmark: str,
        title: str,
        about: str,
        path: Path | None,
        baseline: str | None = None,
    ) -> None:
        machine = describe_machine().model_dump(mode="json")
        self._path = path
        self._record = Record(
            benchmark=benchmark, title=title, about=about, baseline=baseline, machine=machine
        )
        self._parts: dict[str, Part] = {}
        self._begun: set[str] = set()
        self._of_earlier_form = False
        self._started = time.perf_counter()
        # Both at the start: the benchmark itself is load, and the working tree may change.
        self._load_average = os.getloadavg()[0]
        self._commit = git_commit()
        if path is not None and path.exists():
            self._take_over(path)

    def _take_over(self, path: Path) -> None:
        earlier = read_record(path)
        if earlier is None:
            # Not yet: until there are figures to take their place, these are what there is.
            self._of_earlier_form = True
            return
        if earlier.benchmark != self._record.benchmark:
            raise RdmBatchError(
                str(path),
                f"holds results of {earlier.benchmark}",
                f"those of {self._record.benchmark}",
                "give --json another file",
            )
        action = "give --json another file: one for each machine"
        check_same_machine(str(path), earlier.machine, self._record.machine, action)
        self._parts = {part.name: part for part in earlier.parts}

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what is kept, by this run and by earlier ones of the file."""
        return tuple(self._parts)

    def add(
        self,
        part: str,
        rows: Sequence[Row],
        settings: Mapping[str, JsonValue] | None = None,
        notes: Sequence[str] = (),
    ) -> None:
        """Print rows of a part and keep them.

        The first call replaces what an earlier run measured of the part; further ones of this
        run append to it.
        """
        before: tuple[Row, ...] = ()
        took_s = time.perf_counter() - self._started
        earlier = self._parts.pop(part, None)
        if earlier is not None and part in self._begun:
            before, took_s = earlier.rows, took_s + earlier.took_s
        self._parts[part] = Part(
            name=part,
            measured=datetime.now(UTC).replace(microsecond=0),
            took_s=round(took_s, 1),
            load_average=round(self._load_average, 2),
            command=command_line(),
            commit=self._commit,
            software=software_versions(),
            settings=dict(settings or {}),
            rows=(*before, *rows),
            notes=tuple(notes),
        )
        self._begun.add(part)
        self._started, self._load_average = time.perf_counter(), os.getloadavg()[0]
        added = rows_table(rows) if before else ["", *section(self._parts[part], rows)]
        print("\n".join(added), flush=True)
        if self._path is not None:
            self._write(self._path)

    def _write(self, path: Path) -> None:
        if self._of_earlier_form:
            for old in (path, path.with_suffix(".md")):
                if old.exists():
                    old.rename(old.with_name(f"{old.stem}.earlier{old.suffix}"))
            self._of_earlier_form = False
        record = self._record.model_copy(update={"parts": tuple(self._parts.values())})
        for file, text in (
            (path, record.model_dump_json(indent=1, exclude_none=True) + "\n"),
            (path.with_suffix(".md"), page(record)),
        ):
            with written_aside(file) as aside:
                aside.write_text(text)
