from __future__ import annotations

import pickle

import pytest

from rdm_batch import errors


@pytest.mark.parametrize(
    "error",
    [
        errors.SpecError("jobs/a.yaml", "found", "needed", "action"),
        errors.DatabaseError("db", "found"),
        errors.InvalidJobError("jobs/a.yaml", (errors.SpecError("a", "b"),)),
    ],
)
def test_errors_survive_pickling(error: errors.RdmBatchError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_message_says_where_found_needed_action() -> None:
    error = errors.DatabaseError("db", "768 columns", "512", "rebuild it")
    assert str(error) == "db: 768 columns; needed 512; rebuild it"
