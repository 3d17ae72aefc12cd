from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.campaign import run_campaign
from tests.fuzz.target import all_targets

SECONDS = 40.0
BROKEN = "tests.fuzz.broken"


def test_no_reader_fails_on_inputs_made_from_real_ones(tmp_path: Path) -> None:
    targets = list(all_targets().values())
    report = run_campaign(targets, SECONDS / len(targets), tmp_path)
    assert not report.findings, report.describe()
    assert all(row["inputs"] > 0 for row in report.targets.values()), report.describe()


def test_a_campaign_notices_what_fails_and_keeps_the_input(tmp_path: Path) -> None:
    targets = list(all_targets(BROKEN).values())
    expected = {
        "dies": (b"\1", "SIGSEGV"),
        "hangs": (b"\2", "hang"),
        "hungry": (b"\3", "memory"),
        "raises": (b"\4", "KeyError"),
        "bomb": (b"\5", "MemoryError"),
    }
    report = run_campaign(targets, 0.3, tmp_path, package=BROKEN)
    for name, (first, kind) in expected.items():
        kinds = {finding.kind: finding for finding in report.findings if finding.target == name}
        assert kind in kinds, report.describe()
        assert Path(kinds[kind].input).read_bytes()[:1] == first
    assert report.targets["good"]["refused"] > 10


def test_inputs_are_the_same_every_time() -> None:
    from tests.fuzz.mutate import Mutator

    for target in all_targets().values():
        one, other = (Mutator(target, seed=3) for _ in range(2))
        assert [one.make(n) for n in range(40)] == [other.make(n) for n in range(40)]


def test_targets_have_names_of_their_own() -> None:
    assert len(all_targets()) >= 4
    with pytest.raises(ModuleNotFoundError):
        all_targets("tests.fuzz.nothing")
