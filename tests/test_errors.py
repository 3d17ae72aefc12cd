from __future__ import annotations

import errno
import pickle

import pytest

from rdm_batch import errors
from rdm_batch.errors import RdmBatchError, expected


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


def test_a_message_stays_short_whatever_a_file_holds() -> None:
    error = errors.SpecError("w" * 10_000, "f" * 10_000_000, "n" * 10_000, "a" * 10_000)
    assert len(str(error)) <= 2_000
    assert str(error).startswith("www")
    assert str(error).endswith("aaa")
    assert len(error.found) == 10_000_000


def test_many_problems_are_counted_not_listed() -> None:
    problems = tuple(errors.SpecError(f"field_{number}", "is wrong") for number in range(1_000))
    text = str(errors.InvalidJobError("job.yaml", problems))
    assert text.startswith("job.yaml: 1000 problems")
    assert "field_49" in text
    assert "field_50:" not in text
    assert "950 more" in text


@pytest.mark.parametrize(
    ("error", "where", "found"),
    [
        (MemoryError(), "shard 3", "there is none left"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes"), "shard 3", "8 bytes"),
        (RuntimeError("CUDA out of memory. Tried"), "shard 3", "CUDA out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a"), "/out/a", "no space left"),
        (OSError(errno.EROFS, "Read-only file system", "/out/a"), "/out/a", "read-only"),
    ],
)
def test_memory_and_disks_that_run_out_are_expected(
    error: Exception, where: str, found: str
) -> None:
    failure = expected(error, "shard 3")
    assert failure is not None
    assert failure.where == where
    assert found in failure.found
    assert "what is stored is safe" in failure.action


def test_other_exceptions_are_surprises_and_ours_stay_as_they_are() -> None:
    assert expected(RuntimeError("shapes do not match")) is None
    assert expected(OSError(errno.ENOENT, "No such file", "/a")) is None
    ours = RdmBatchError("here", "it is odd")
    assert expected(ours) is ours
