from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.worlds import World
from tests.job_kit import job_document


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
