"""Run the checks of a job over a small world, and see what they say and leave alone."""

from __future__ import annotations

import copy
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.errors import InvalidJobError, RdmBatchError
from rdm_batch.generation.preflight import CheckedJob, preflight
from rdm_batch.specs.load import parse_job
from tests.job_kit import job_document


@dataclass(frozen=True)
class World:
    """Files below a folder, and a job over them."""

    root: Path
    document: dict[str, Any]

    def job(self, **changes: Any) -> dict[str, Any]:
        """Copy the job with fields changed; ``model__head`` means ``model.head``."""
        document = copy.deepcopy(self.document)
        for path, value in changes.items():
            *parents, last = path.split("__")
            node = document
            for key in parents:
                node = node[key]
            node[last] = value
        return document

    def text_job(self, *prompts: str) -> dict[str, Any]:
        """Describe a job that follows prompts."""
        return self.job(conditioning={"mode": "text", "k_nn": 3, "prompts": list(prompts)})

    def copied_database(self, to: Path) -> Path:
        """Copy the database for a test that damages it."""
        return Path(shutil.copytree(self.root / "database", to / "database"))


def checked(document: dict[str, Any]) -> CheckedJob:
    """Check a job where Ray cannot be imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "ray", None)
        return preflight(parse_job(document, "jobs/a.yaml"), "jobs/a.yaml", {"rdm_batch": "1"})


def problems_of(document: dict[str, Any]) -> tuple[RdmBatchError, ...]:
    """Give what is wrong with a job, after making sure that its output was left alone."""
    out = Path(document["output"]["uri"])
    before = _content(out)
    with pytest.raises(InvalidJobError) as caught:
        checked(document)
    assert _content(out) == before
    assert str(caught.value).startswith("jobs/a.yaml: ")
    return caught.value.problems


def problem_of(document: dict[str, Any]) -> str:
    """Give the message of the only thing wrong with a job."""
    problems = problems_of(document)
    assert len(problems) == 1, [str(problem) for problem in problems]
    return str(problems[0])


def assert_says(message: str, *parts: str) -> None:
    """Make sure that a message holds every one of some words."""
    missing = [part for part in parts if part not in message]
    assert not missing, f"{missing} not in: {message}"


def _content(location: Path) -> dict[str, bytes] | None:
    if not location.exists():
        return None
    files = [location] if location.is_file() else sorted(location.rglob("*"))
    return {str(path): path.read_bytes() for path in files if path.is_file()}


@pytest.fixture(scope="session")
def built_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("world")
    # Through JSON, so that no two parts of the job share a dictionary.
    return World(root, json.loads(json.dumps(job_document(root))))


@pytest.fixture
def world(built_world: World, tmp_path: Path) -> World:
    """A complete world that no test may write into, and a job with an output of its own."""
    document: dict[str, Any] = copy.deepcopy(built_world.document)
    document["output"]["uri"] = str(tmp_path / "out")
    return World(built_world.root, document)
