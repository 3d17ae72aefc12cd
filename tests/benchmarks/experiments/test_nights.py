"""Simulated nights, from repeats that were made up."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.experiments import nights
from benchmarks.experiments.noise import (
    FIGURES,
    KEPT,
    Assumed,
    measured_noise,
    part_rows,
)
from benchmarks.experiments.repeats import recorder_of
from benchmarks.records import Row, read_record
from rdm_batch.errors import RdmBatchError


def record(path: Path, noise: float = 0.01) -> Path:
    random = np.random.default_rng(0)
    recorder = recorder_of(path)
    for part, level in (("repeats A", 1.0), ("repeats B", 1.002)):
        for number in range(12):
            details = {
                name: level * float(np.exp(noise * random.standard_normal())) for name in FIGURES
            }
            recorder.add(part, [Row(name=f"{number + 1}", details=details)])
    return path


def test_noise_is_that_of_the_repeats(tmp_path: Path) -> None:
    noise = measured_noise(record(tmp_path / "nights.json"))["images/s"]
    assert noise.spread == pytest.approx(0.01, rel=0.4)  # of 24 of them
    assert len(noise.deviations) == 24
    # The median of five, which is what is left of their middle half, has 0.54 of the spread of one,
    # if that is normal; blurred by 0.3 0.56. The best has 0.70, and less where there are 24 to draw
    # from, which have a best one.
    for word in KEPT:
        kept = replace(noise, kept=word)
        shares = (0.35, 0.75) if word == "best" else (0.45, 0.70)
        drawn = np.log(kept.nights(4_000, 5, np.random.default_rng(0)))
        low, high = ((noise.between**2 + (s * noise.spread) ** 2) ** 0.5 for s in shares)
        assert low < drawn.std() < high
        assert (drawn.mean() > noise.spread / 2) == (word == "best")
    recorder_of(tmp_path / "other.json").add("x", [Row(name="a", value=1.0)])
    with pytest.raises(RdmBatchError, match="holds no repeats"):
        measured_noise(tmp_path / "other.json")


def test_what_lies_between_parts_is_what_their_middles_do_not_explain(tmp_path: Path) -> None:
    path = tmp_path / "nights.json"
    recorder, random = recorder_of(path), np.random.default_rng(0)
    levels = np.exp(0.03 * random.standard_normal(8))
    for part, level in enumerate(levels):
        rows = []
        for number in range(12):
            details = {
                name: float(level * np.exp(0.02 * random.standard_normal())) for name in FIGURES
            }
            if not part:
                del details["p99 of searches alone"]  # It was not measured then.
            rows.append(Row(name=f"{number + 1}", details=details))
        recorder.add(f"repeats {part}", rows)
    noise = measured_noise(path)
    # A middle of twelve is known to 0.007, a quarter of what lies between.
    assert noise["images/s"].between == pytest.approx(np.log(levels).std(ddof=1), rel=0.3)
    assert len(noise["p99 of searches alone"].deviations) == 7 * 12
    quiet = measured_noise(record(tmp_path / "quiet.json"))
    assert quiet["images/s"].between < 0.01
    rows = part_rows(path)
    assert len(rows) == len(FIGURES)
    assert len(rows[0].details) == 3 * 8


def test_what_is_planted_is_found_and_what_is_quiet_is_not_told(tmp_path: Path) -> None:
    path = record(tmp_path / "nights.json")
    nights.main(["--json", str(path), "--years", "1", "--trials", "8"])
    found = read_record(path)
    assert found is not None
    rows = {(part.name, row.name): row for part in found.parts for row in part.rows}
    assert rows["planted changes", "throughput 5 % down: caught within 3 nights"].value == 1
    assert rows["planted changes", "p99 20 % up: placed within a night"].value == 1
    year = rows["a year of unchanged nights, 8 jobs", "share of years with at most 2 false alarms"]
    assert year.met
    assert ("noise", "images/s") in rows


def test_numbers_of_repeats_and_pairs_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nights, "COUNTS", (1, 3))
    monkeypatch.setattr(nights, "PAIRS", (9,))
    monkeypatch.setattr(nights, "YEAR", 40)
    path = record(tmp_path / "nights.json")
    nights.main(["--json", str(path), "--choose", "--years", "1", "--trials", "4"])
    found = read_record(path)
    assert found is not None
    rows = {(part.name, row.name): row.details for part in found.parts for row in part.rows}
    assert {name for part, name in rows if part == "numbers of repeats"} == {
        f"{word} of {count}" for word in KEPT for count in (1, 3)
    }
    # Noise of 1 %: nine pairs leave 0.6 %.
    turns = rows["checkouts in turn", "at most 9 pairs"]
    assert turns["memory 10 % up: fail"] == turns["peak memory unmoved: pass"] == 1
    assert turns["images/s unmoved: fail"] == 0
    assert turns["images/s unmoved: pairs"] == 9
    assert rows["numbers of repeats", "best of 3"]["memory 10 % up: caught within 3 nights"] == 1


def test_a_change_that_is_not_there_is_not_caught(tmp_path: Path) -> None:
    noise = measured_noise(record(tmp_path / "nights.json"))["images/s"]
    found = nights.planted(noise, FIGURES["images/s"], 1.0, 5, 8, 0)
    assert found["caught within 3 nights"] == found["placed within a night"] == 0


def test_assumed_noise_has_the_size_it_says() -> None:
    random = np.random.default_rng(0)
    for heavy in (False, True):
        drawn = np.log(Assumed(0.02, heavy).nights(20_000, 1, random))
        # The spread of Student's t of 3 degrees converges slowly.
        assert drawn.std() == pytest.approx(0.02, rel=0.1)
    row = next(nights.assumed_rows(False, 1, 4))
    assert row.details["throughput 5 % down: caught within 3 nights"] == 1
