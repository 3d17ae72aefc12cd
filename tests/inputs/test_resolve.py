from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_batch.errors import InvalidJobError, SpecError
from rdm_batch.generation.modes import mode_of
from rdm_batch.inputs import databases, encoders, references, resolve
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.resolve import attempt
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.specs.load import parse_job
from tests.job_kit import DIM
from tests.worlds import World, checked


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count how often each kind of thing is opened; all is opened as ever."""
    counts: Counter[str] = Counter()

    def counted(owner: Any, name: str, thing: str) -> None:
        real: Callable[..., Any] = getattr(owner, name)

        def count(*arguments: Any, **named: Any) -> Any:
            counts[thing] += 1
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, count)

    counted(databases, "parse_manifest", "manifest")
    counted(databases, "read_counts", "proposal")
    counted(resolve, "open_checkpoint", "checkpoint")
    counted(encoders, "encoder_files", "encoder")
    counted(references, "open_reference", "reference")
    counted(ReferenceStatistics, "load", "reference statistics")
    return counts


class _Embed:
    def __call__(self, _: object, texts: tuple[str, ...]) -> np.ndarray:
        return np.ones((len(texts), DIM), dtype=np.float32)

    def pictures(self, _: object, location: str, count: int) -> np.ndarray:
        pytest.fail(f"{count} pictures at {location}")


def test_what_a_job_names_is_opened_once(world: World, opened: Counter[str]) -> None:
    job = checked(world.document)
    mode_of(job.spec.conditioning).build_conditioner(job, _Embed())
    for thing in ("manifest", "proposal", "checkpoint", "reference", "reference statistics"):
        assert opened[thing] == 1, thing


def test_the_encoder_of_a_job_is_found_once(world: World, opened: Counter[str]) -> None:
    job = checked(world.text_job("a red circle") | {"evaluation": None})
    mode_of(job.spec.conditioning).build_conditioner(job, _Embed())
    assert opened["encoder"] == 1
    assert opened["proposal"] == 0


def test_a_thing_that_cannot_be_opened_does_not_keep_the_others_from_it(world: World) -> None:
    document = world.text_job("a red circle") | {"database": world.document["database"].copy()}
    document["database"]["uri"] = "/nowhere"
    document["model"] = {"head": "rdm", "checkpoint": "/nowhere/head.safetensors"}
    spec = parse_job(document, "job")
    found = resolve.resolve(spec, mode_of(spec.conditioning))
    assert found.database.thing is None
    assert len(found.database.problems) == 1
    assert found.model.thing is None
    assert len(found.model.problems) == 1
    assert found.encoder.thing is not None
    assert found.prompts.thing is not None
    assert found.references.thing is not None
    assert not found.encoder.problems + found.prompts.problems + found.references.problems


def test_workers_get_what_was_opened_and_no_content(world: World) -> None:
    job = checked(world.document)
    assert pickle.loads(pickle.dumps(job.database)) == job.database
    assert pickle.loads(pickle.dumps(job.model)) == job.model
    assert len(pickle.dumps(job.database) + pickle.dumps(job.model)) < 20_000


def test_an_opened_database_gives_its_files_without_its_manifest(
    world: World, tmp_path: Path
) -> None:
    database = Database.open(str(world.copied_database(tmp_path)))
    (tmp_path / "database" / "database.json").unlink()
    assert database.proposal() is not None
    assert database.root([0]) == tmp_path / "database"


def test_an_attempt_keeps_every_problem() -> None:
    problems = (SpecError("a", "is wrong"), SpecError("b", "is wrong"))

    def fail(error: BaseException) -> Callable[[], None]:
        def step() -> None:
            raise error

        return step

    assert attempt(lambda: 3).thing == 3
    assert attempt(fail(problems[0])).problems == problems[:1]
    assert attempt(fail(InvalidJobError("job", problems))).problems == problems
    (defect,) = attempt(fail(ZeroDivisionError("s3://user:hidden@host"))).problems
    assert "a check failed by itself (ZeroDivisionError" in str(defect)
    assert "hidden" not in str(defect)
    with pytest.raises(KeyboardInterrupt):
        attempt(fail(KeyboardInterrupt()))
