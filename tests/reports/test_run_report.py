from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from rdm_batch.errors import SampleSetError
from rdm_batch.reports.run_report import (
    HeadTimes,
    IllustratedSample,
    Stage,
    Throughput,
    load_report,
    stages_from_milestones,
)
from tests.reports.fixtures import make_report


def test_a_saved_report_loads_as_it_was(tmp_path: Path) -> None:
    report = make_report()
    path = tmp_path / "report.json"
    path.write_bytes(report.to_json())
    assert load_report(path) == report
    assert load_report(path.read_bytes()) == report


def test_a_missing_report_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SampleSetError, match=r"report\.json: cannot be read .*No such file"):
        load_report(tmp_path / "report.json")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": "other"}', b"\xff\xfe"])
def test_a_damaged_report_is_refused(content: bytes) -> None:
    with pytest.raises(SampleSetError, match=r"^s3://a/report\.json: "):
        load_report(content, where="s3://a/report.json")


def test_an_unknown_field_is_refused_by_name() -> None:
    content = json.loads(make_report().to_json())
    content["sample_set"]["extra_field"] = 1
    with pytest.raises(SampleSetError, match=r"sample_set\.extra_field"):
        load_report(json.dumps(content).encode())


def test_unclaimed_head_time_is_idle_and_shares_sum_to_one() -> None:
    times = HeadTimes.within(10.0, model_s=9.0, neighbors_s=0.25, encoding_s=0.25, writing_s=0.0)
    assert times.idle_s == 0.5
    assert sum(times.shares().values()) == pytest.approx(1)
    assert times.shares()["model"] == pytest.approx(0.9)


def test_rates_with_and_without_start_up() -> None:
    throughput = make_report().throughput
    assert throughput.images_per_s == pytest.approx(25.6)
    assert throughput.images_per_s_with_start_up == pytest.approx(10.24)
    assert throughput.model_share == pytest.approx(0.91)
    assert throughput.heads[0].images_per_s == pytest.approx(12.8)


def test_a_run_that_only_resumed_has_no_rate() -> None:
    throughput = Throughput(images=0, start_up_s=2, generation_s=0)
    assert throughput.images_per_s is None
    assert throughput.images_per_s_with_start_up is None
    assert throughput.model_share is None


def test_milestones_become_adjoining_stages() -> None:
    assert stages_from_milestones({"ray": 2.0, "heads": 5.0}) == (
        Stage(name="ray", start_s=0, end_s=2),
        Stage(name="heads", start_s=2, end_s=5),
    )


def test_a_stage_cannot_end_before_it_starts() -> None:
    with pytest.raises(ValidationError, match="before it starts"):
        Stage(name="ray", start_s=2, end_s=1)


def test_each_illustrated_neighbor_needs_a_score() -> None:
    with pytest.raises(ValidationError, match="one value per neighbor"):
        IllustratedSample(sample_index=0, neighbor_ids=(1, 2), neighbor_scores=(0.5,))
    with pytest.raises(ValidationError, match="empty or have one value"):
        IllustratedSample(
            sample_index=0,
            neighbor_ids=(1,),
            neighbor_scores=(0.5,),
            neighbor_captions=("a", "b"),
        )
