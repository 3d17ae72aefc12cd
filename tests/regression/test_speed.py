"""Gate 4: pairs of two checkouts, and steps in the history of a class of machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from benchmarks.pipeline.jobs import null_job
from rdm_batch.errors import RegressionError
from rdm_batch.regression.floor import measure_floor
from rdm_batch.regression.interleave import (
    check_checkout,
    run_in_turn,
    run_searches,
    run_timed,
)
from rdm_batch.regression.records import Figure, Run
from rdm_batch.regression.series import series_of
from rdm_batch.regression.speed import judge_history, judge_pairs
from tests.regression.kit import make_figure, make_run, night

ROOT = Path(__file__).parents[2]
RATE: dict[str, Any] = {"kind": "speed", "unit": "images/s", "better": "higher", "error": None}
TIME: dict[str, Any] = {"kind": "latency", "unit": "s", "better": "lower", "error": None}


def rate(value: float, **changes: Any) -> Figure:
    return make_figure("images_per_s", value, **RATE | changes)


def commit_of(number: int) -> str:
    return f"{number:03d}".ljust(40, "c")


def nights(values: np.ndarray, figure: Any = rate, **changes: Any) -> list[Run]:
    """Make a run of every value; its commit is its number."""
    return [
        make_run(night(i), commit=commit_of(i), figures=(figure(float(value)),), **changes)
        for i, value in enumerate(values)
    ]


def noisy(*stretches: tuple[int, float], noise: float = 0.01) -> np.ndarray:
    level = np.concatenate([np.full(count, value) for count, value in stretches])
    return level * (1 + noise * np.random.default_rng(0).standard_normal(len(level)))


def judged(runs: list[Run], name: str = "images_per_s", **settings: Any) -> Any:
    return judge_history(runs[-1], runs[:-1], "shapes", name, **settings)


def test_a_first_night_is_no_baseline_and_short_histories_are_undecided() -> None:
    values = noisy((12, 50.0))
    assert judged(nights(values[:1])).outcome == "no_baseline"
    early = judged(nights(values[:8]))
    assert (early.outcome, early.details["needed"]) == ("undecided", 4)
    assert judged(nights(values)).outcome == "pass"


def test_a_slower_commit_fails_by_name_until_it_is_accepted() -> None:
    runs = nights(noisy((40, 50.0), (8, 47.0)))
    found = judged(runs)
    assert found.outcome == "fail"
    assert f"between {commit_of(39)[:12]} and {commit_of(40)[:12]}" in found.reason
    assert found.details["step_commit"] == commit_of(40)
    assert judged(runs[:43]).outcome == "fail"
    assert judged(runs, accepted=runs[44].id).outcome == "pass"


def test_getting_faster_passes_and_times_fail_upwards() -> None:
    assert judged(nights(noisy((40, 50.0), (8, 60.0)))).outcome == "pass"

    def p99(value: float) -> Figure:
        return make_figure("query_p99_s", value, **TIME)

    assert judged(nights(noisy((40, 0.01), (8, 0.012)), p99), "query_p99_s").outcome == "fail"
    assert judged(nights(noisy((40, 0.01), (8, 0.008)), p99), "query_p99_s").outcome == "pass"


def test_two_small_steps_add_up() -> None:
    runs = nights(noisy((40, 50.0), (30, 49.0), (30, 48.0), noise=0.003))
    assert judged(runs[:70]).outcome == "pass"
    assert judged(runs).outcome == "fail"


def test_a_slower_machine_is_told_from_a_slower_program() -> None:
    values = noisy((40, 50.0), (8, 45.0))
    floors = np.concatenate([np.full(40, 100.0), np.full(8, 90.0)])
    runs = nights(values)
    beside = [
        run.model_copy(update={"figures": (rate(float(v), floor=float(f)),)})
        for run, v, f in zip(runs, values, floors, strict=True)
    ]
    found = judged(beside)
    assert found.outcome == "undecided"
    assert "the machine itself has changed" in found.reason
    steady = [
        run.model_copy(update={"figures": (rate(float(v), floor=100.0),)})
        for run, v in zip(runs, values, strict=True)
    ]
    assert judged(steady).outcome == "fail"


def test_other_machines_and_other_measurements_are_not_compared() -> None:
    runs = nights(noisy((20, 50.0)))
    other = make_run(night(21), machine_class="8 x Other", figures=(rate(20.0),))
    found = judged([*runs, other])
    assert found.outcome == "not_comparable"
    assert "8 x Other" in found.reason
    changed = make_run(night(21), figures=(rate(20.0, description="d" * 64),))
    assert "of something else" in judged([*runs, changed]).reason
    gone = make_run(night(21), figures=())
    assert judged([*runs, gone]).outcome == "not_comparable"
    # And slow nights of another machine are no step of this one.
    mixed = [*runs[:15], other, *runs[15:]]
    assert judged(mixed).outcome == "pass"


def test_a_figure_without_a_direction_is_refused() -> None:
    runs = nights(noisy((14, 50.0)), lambda value: rate(value, better="neither"))
    with pytest.raises(RegressionError, match="neither"):
        judged(runs)


def test_series_take_the_last_description_and_say_between_which_commits() -> None:
    runs = nights(noisy((30, 50.0), (6, 45.0)))
    first = make_run(night(40), commit="f" * 40, figures=(rate(1.0, description="d" * 64),))
    series = series_of([first, *runs], runs[0].machine_class)["shapes", "images_per_s"]
    assert len(series.figures) == 36
    assert [step.at for step in series.steps] == [30]
    assert series.between(30) == f"between {commit_of(29)[:12]} and {commit_of(30)[:12]}"
    assert series.level_at(0) == pytest.approx(50, rel=0.01)


def pairs(ratio: float, noise: float, count: int = 8) -> tuple[list[Figure], list[Figure]]:
    random = np.random.default_rng(1)
    shared = 50 * np.exp(0.05 * random.standard_normal(count))
    sides = [shared * np.exp(noise * random.standard_normal(count)) for _ in range(2)]
    return [rate(v) for v in sides[0].tolist()], [rate(v) for v in (ratio * sides[1]).tolist()]


def test_checkouts_in_turn_pass_fail_or_need_more_pairs() -> None:
    assert judge_pairs(*pairs(1.0, 0.002)).outcome == "pass"
    assert judge_pairs(*pairs(1.2, 0.002)).outcome == "pass"
    slower = judge_pairs(*pairs(0.9, 0.002))
    assert slower.outcome == "fail"
    assert slower.details["ratio"] == pytest.approx(0.9, abs=0.01)
    unsure = judge_pairs(*pairs(0.97, 0.05))
    assert unsure.outcome == "undecided"
    assert unsure.details["needed"] > 8
    first, second = pairs(1.0, 0.002, 4)
    with pytest.raises(RegressionError, match="6 pairs or more"):
        judge_pairs(first, second)
    with pytest.raises(RegressionError, match="one figure of one job"):
        judge_pairs([make_figure()] * 6, [rate(1.0)] * 6)


def test_what_is_no_checkout_is_told_before_anything_runs(tmp_path: Path) -> None:
    check_checkout(ROOT)
    with pytest.raises(RegressionError, match="is no checkout that can be run"):
        check_checkout(tmp_path)
    with pytest.raises(RegressionError, match="ended with status 1"):
        run_timed(ROOT, tmp_path / "missing.yaml", tmp_path / "out")


def test_checkouts_take_turns_after_one_run_of_each_that_does_not_count() -> None:
    order: list[Path] = []

    def measure(checkout: Path, output: Path) -> str:
        output.mkdir()
        order.append(output)
        return output.name

    seen: list[int] = []
    asked: list[int] = []

    def decided(first: Sequence[str], second: Sequence[str]) -> bool:
        assert len(first) == len(second)
        asked.append(len(first))
        return len(first) == 5

    def done() -> None:
        seen.append(len(order))

    first, second = run_in_turn(ROOT, ROOT, measure, (2, 5, 7), decided, done)
    assert first == ["2", "5", "6", "9", "10"]
    assert second == ["3", "4", "7", "8", "11"]
    assert asked == [2, 5]
    assert seen == list(range(1, 13))
    never, _ = run_in_turn(ROOT, ROOT, measure, (2, 3), lambda *_: False)
    assert len(never) == 3
    assert not any(output.exists() for output in order)


def test_a_timed_run_reports_its_speed_and_its_memory(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(null_job(16, tmp_path / "unused")))
    found = run_timed(ROOT, job, tmp_path / "out", ["sampling.num_samples=8"])
    assert found.report.throughput.images == 8
    # An interpreter with PyTorch in it takes more than 100 MB, eight samples no gigabytes.
    assert 1e8 < found.peak_memory_bytes < 2e9
    # Importing PyTorch alone takes a second or so of one core.
    assert 0.2 < found.cpu_s < 100
    assert not (tmp_path / "unused").exists()


def test_searches_are_timed_alone_in_a_process_of_their_own(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(null_job(16, tmp_path / "unused")))
    output = tmp_path / "out"
    found = run_searches(ROOT, job, output, ["sampling.num_samples=8"], 1000)
    assert found.latency.count == 1000
    assert 0 < found.latency.p50_s <= found.latency.p99_s < 10
    other = run_searches(ROOT, job, output, ["conditioning.k_nn=2"], 1000)
    assert other.identity != found.identity
    assert not output.exists()
    assert not (tmp_path / "unused").exists()
    older = tmp_path / "older"
    (older / "rdm_batch").mkdir(parents=True)
    (older / "rdm_batch" / "__init__.py").touch()
    with pytest.raises(RegressionError, match="before searches were timed alone"):
        run_searches(older, job, output, [], 1000)


def test_the_floor_is_a_rate_a_processor_has() -> None:
    assert 1e8 < measure_floor(0.05) < 1e14
