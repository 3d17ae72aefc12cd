"""A small campaign of kills; a large one is run by hand and kept in benchmarks/results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ray_kit import ROOT


def campaign(out: Path, *arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.campaign", "--out", str(out), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=570)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_killed_drivers_lose_nothing(tmp_path: Path) -> None:
    flows = ("--flow", "generation,evaluation,export", "--commands", "0")
    found = campaign(tmp_path / "a.json", "--address", "none", "--kills", "6", *flows)
    assert found["kills"] == 6
    assert found["faults"] == 0
    assert len({each["flow"] for each in found["rounds"]}) > 1
    rounds = len(found["rounds"])
    more = campaign(tmp_path / "a.json", "--more", "--address", "none", "--kills", "7", *flows)
    assert more["kills"] == 7
    assert more["rounds"][:rounds] == found["rounds"]


@pytest.mark.slow
@pytest.mark.timeout(600)  # a minute on idle cores
def test_killed_workers_of_ray_lose_nothing(tmp_path: Path) -> None:
    victims = ("--flow", "generation", "--victim", "HeadWorker,RetrieverWorker")
    found = campaign(tmp_path / "a.json", "--address", "local", "--kills", "2", *victims)
    assert found["kills"] == 2
    assert found["faults"] == 0
