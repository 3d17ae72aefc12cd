from __future__ import annotations

from pathlib import Path

from rdm_batch.cli.document import command_reference


def test_the_committed_reference_is_up_to_date() -> None:
    committed = Path(__file__).parents[2] / "docs" / "commands.md"
    assert committed.read_text() == command_reference(), "run `make docs`"


def test_every_argument_is_described() -> None:
    reference = command_reference()
    assert "|  |" not in reference
    assert "| (required) |" not in reference
