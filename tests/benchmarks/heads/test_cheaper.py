from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks.heads import samplers
from benchmarks.heads.cheaper import main, operations
from benchmarks.heads.samplers import Case
from benchmarks.records import read_record
from rdm_batch.specs.job import JobSpec


def test_every_case_has_its_cost_in_time_and_fid(tmp_path: Path) -> None:
    path = tmp_path / "cheaper.json"
    cases = (
        Case("ddim", 4),
        Case("dpm_solver_pp", 2, guidance_interval=(0.3, 5.0), reuse_deep_features=2),
        Case("dpm_solver_pp", 2, weaker=("ldm", 1.5)),
    )
    picture = tmp_path / "pictures" / "cheaper.png"
    keep = ["--keep", str(tmp_path / "sets"), "--picture", str(picture)]
    main(["--samples", "64", "--json", str(path), *keep], cases)
    record = read_record(path)
    assert record is not None
    (part,) = record.parts
    assert [row.name for row in part.rows] == [
        "ddim, 4 steps, float32",
        "dpm_solver_pp, 2 steps, guided from 0.3 to 5, deep features every 2, float32",
        "dpm_solver_pp, 2 steps, away from ldm by 1.5, float32",
    ]
    predicted = [row.details["predicted ratio"] for row in part.rows]
    assert predicted[0] == 1 < predicted[2] < predicted[1]
    assert all(row.details["fid"] > 0 for row in part.rows)
    assert "fid - first" not in part.rows[0].details or part.rows[0].details["fid - first"] is None
    for row in part.rows[1:]:
        above = row.details["fid"] - part.rows[0].details["fid"]
        assert row.details["fid - first"] == pytest.approx(above)
        # Sets that share their samples differ by less than either is sure of its own.
        assert 0 < row.details["fid - first +-"] < row.details["fid +-"] * 2**0.5
    with Image.open(picture) as shown:
        assert shown.format == "PNG"


def test_a_run_that_was_ended_goes_on_from_the_sets_that_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cases = tmp_path / "cheaper.json", (Case("ddim", 2), Case("dpm_solver_pp", 2))
    arguments = ["--samples", "64", "--json", str(path), "--keep", str(tmp_path / "sets")]
    main(arguments, cases[:1])
    before = read_record(path)
    drawn: list[str] = []
    draw = samplers._draw

    def counted(job: JobSpec) -> samplers.DrawnSet:
        drawn.append(job.sampling.sampler)
        return draw(job)

    monkeypatch.setattr(samplers, "_draw", counted)
    main(arguments, cases)
    assert drawn == ["dpm_solver_pp"]
    after = read_record(path)
    assert before is not None
    assert after is not None
    assert after.parts[0].rows[0] == before.parts[0].rows[0]
    assert len(after.parts[0].rows) == 2
    assert any("by an earlier run" in note for note in after.parts[0].notes)
    assert not any("by an earlier run" in note for note in before.parts[0].notes)


def test_operations_are_those_of_the_branches_and_blocks_evaluated() -> None:
    plain = operations(Case("ddim", 4, guidance_scale=1.0), 2.0)
    guided = operations(Case("ddim", 4), 2.0)
    assert 1.3 < guided / plain < 2
    assert operations(Case("ddim", 4, guidance_interval=(1e5, 1e6)), 2.0) == pytest.approx(plain)
    assert operations(Case("ddim", 4, guidance_interval=(0, 1e6)), 2.0) == pytest.approx(guided)
    assert operations(Case("ddim", 4, reuse_deep_features=4), 2.0) < 0.8 * guided
