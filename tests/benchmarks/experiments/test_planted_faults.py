"""Faults are planted where jobs go through them, and told in the stage they lie in."""

from __future__ import annotations

from pathlib import Path

from benchmarks.experiments.planted_faults import FAULTS, identity_of, names_stage, plant
from rdm_batch.reports.progress import Progress


def test_every_fault_that_was_asked_for_is_planted() -> None:
    assert len({fault.name for fault in FAULTS}) == 8
    for fault in FAULTS:
        assert hasattr(fault.owner, fault.attribute)


def test_gate_0_names_the_stage_of_a_fault(tmp_path: Path) -> None:
    faults = [f for f in FAULTS if f.name in ("an unsorted merge", "resize filter changed")]
    with Progress() as progress:
        found = plant(tmp_path, faults, samples=4, steps=2, progress=progress)
    assert identity_of(found[""]).outcome == "pass"
    for fault in faults:
        assert names_stage(fault, found[fault.name]), found[fault.name]
