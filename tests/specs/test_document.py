from __future__ import annotations

from pathlib import Path

from rdm_batch.specs.document import job_reference


def test_the_committed_reference_is_up_to_date() -> None:
    committed = Path(__file__).parents[2] / "docs" / "job-spec.md"
    assert committed.read_text() == job_reference(), "run `make docs`"


def test_every_field_is_described() -> None:
    assert "| None |" not in job_reference()
