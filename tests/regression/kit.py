"""Runs and figures for the tests of histories and gates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from rdm_batch.regression.history import new_run_id
from rdm_batch.regression.records import Figure, Run, machine_class
from rdm_batch.reports.run_report import Machine

FIRST_NIGHT = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
MACHINE = Machine(cpu_model="Example CPU", num_cores=2, memory_bytes=8 << 30)


def night(number: int) -> datetime:
    """Give when a night's run starts."""
    return FIRST_NIGHT + timedelta(days=number)


def make_figure(name: str = "fid", value: float = 10.0, **changes: Any) -> Figure:
    """Make a figure of the job ``shapes``."""
    fields: dict[str, Any] = {
        "job": "shapes",
        "kind": "quality",
        "error": 0.5,
        "better": "lower",
        "description": "a" * 64,
    }
    return Figure(name=name, value=value, **fields | changes)


def make_run(started: datetime = FIRST_NIGHT, **changes: Any) -> Run:
    """Make a run with one figure."""
    fields: dict[str, Any] = {
        "commit": "c" * 40,
        "dirty": False,
        "versions": {"torch": "2.7.1"},
        "machine": MACHINE,
        "machine_class": machine_class(MACHINE),
        "suite": "nightly",
        "suite_digest": "b" * 64,
        "figures": (make_figure(),),
    }
    return Run(id=new_run_id(started), started=started, **fields | changes)
