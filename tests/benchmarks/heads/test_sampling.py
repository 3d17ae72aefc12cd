from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.heads.changes import measure_changes
from benchmarks.heads.counting import Machine, Work, count_work
from benchmarks.heads.procedures import Measurement, Settings, measure
from benchmarks.heads.rows import procedure_rows
from benchmarks.heads.sampling import main
from benchmarks.heads.shrunk import small
from benchmarks.records import read_record
from rdm_batch.heads import native_tokens
from rdm_batch.heads.work import flops_per_sample
from rdm_batch.specs.presets import PRESETS
from rdm_batch.specs.sampling import DdimSampling

SMALL = ("--small", "--batch", "1", "--timed-steps", "1", "--repeats", "1")
ANY_MACHINE = Machine(1e9, 1e9)
PRECISIONS = ("--precisions", "float32", "bfloat16")


def test_flops_and_bytes_of_a_layer_are_counted() -> None:
    layer = nn.Linear(10, 20, bias=False, device="meta")
    work = count_work(lambda: layer(torch.empty(3, 10, device="meta")), layer, evaluations=2)
    assert work.flops == 2 * 3 * 10 * 20
    assert work.num_bytes == 4 * (3 * 10 + 10 * 20 + 3 * 20)
    assert work.weight_bytes == 2 * 4 * 10 * 20


def test_floor_is_the_slower_of_arithmetic_and_reading_weights() -> None:
    work = Work(flops=100.0, num_bytes=1e9, weight_bytes=30.0)
    assert work.floor_s(Machine(flops_per_s=10.0, bytes_per_s=10.0)) == 10.0
    assert work.floor_s(Machine(flops_per_s=100.0, bytes_per_s=10.0)) == 3.0


def test_small_run_prints_a_table_and_writes_every_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "heads.json"
    presets = ["rdm-imagenet-256", "rarm-imagenet-256"]
    for preset in presets:
        # What another run measured stays in the file.
        main([*SMALL, "--json", str(path), "--presets", preset, *PRECISIONS])
    printed = capsys.readouterr().out
    record = read_record(path)
    assert record is not None
    parts = {part.name: part for part in record.parts}
    page = path.with_suffix(".md").read_text()
    for preset in presets:
        part = f"{preset}, CPU, shrunk"
        assert f"## {part}\n" in page
        assert parts[part].settings["precisions"] == ["float32", "bfloat16"]
        plain, own, rounded = parts[part].rows
        assert [row.name for row in (plain, own, rounded)] == [
            "published, float32",
            "this package, float32",
            "this package, bfloat16",
        ]
        for row in (plain, own, rounded):
            assert row.value is not None
            assert row.value > 0
            assert row.floor is not None
            assert row.floor > 0
            assert 0 < float(row.details["share of decoding"]) < 1
        # The published procedure is the baseline, and has none.
        assert plain.ratio is None
        assert own.baseline == rounded.baseline == plain.value
        # What this package leaves out is work of the published procedure, never the reverse.
        assert own.details["GFLOP/image"] < plain.details["GFLOP/image"]
        errors = {row.name: row.value for row in parts[f"{part}: errors of the decoder"].rows}
        assert errors["channels_last_max"] < 1e-4
        changes = parts[f"{part}: changes"].rows
        assert changes[0].details["GFLOP"] > changes[-1].details["GFLOP"]
        assert all(change.value > 0 and change.name in printed for change in changes)
        assert all(change.name in page for change in changes)
    (rule,) = parts["rarm-imagenet-256, CPU, shrunk: the rule tried"].rows
    assert rule.value > 0 < rule.baseline
    # Shrunk networks are not what is asked for.
    (open_one,) = (row for row in record.parts[-1].rows if row.name == "rarm-imagenet-256, GPU")
    assert open_one.needed_ratio == 100
    assert open_one.details == {"how": "batch 64, CUDA graphs", "state": "open: not measured"}
    assert "| rarm-imagenet-256, GPU | 100 x | open: not measured | batch 64, CUDA graphs |" in page


def test_a_head_over_codes_is_billed_for_fewer_steps_too(tmp_path: Path) -> None:
    path = tmp_path / "heads.json"
    some = ("--parts", "speed", "changes")
    main([*SMALL, *some, "--json", str(path), "--presets", "knn-discrete-256"])
    record = read_record(path)
    assert record is not None
    parts = {part.name: part for part in record.parts}
    assert not any("decoder" in name for name in parts)
    part = parts["knn-discrete-256, CPU, shrunk"]
    assert part.settings["k_nn"] == 11
    plain, *own = part.rows
    assert plain.name == "published, float32, 100 steps"
    assert [row.name for row in own] == [
        f"this package, float32, {number} steps" for number in (100, 50, 25, 10)
    ]
    speeds = [row.value or 0.0 for row in own]
    assert 0 < speeds[0] < speeds[1] < speeds[2] < speeds[3]
    work = [float(row.details["GFLOP/image"] or 0) for row in (plain, *own)]
    assert work[0] > work[1] > work[2] > work[3] > work[4] > 0
    # Steps and decoding: the work is linear in their number.
    assert work[1] - work[2] == pytest.approx(2 * (work[2] - work[3]))
    predicted = [float(row.details["predicted ratio"] or 0) for row in own]
    assert 1 < predicted[0] < predicted[1] < predicted[2] < predicted[3]
    changes = parts["knn-discrete-256, CPU, shrunk: changes"].rows
    assert changes[0].details["GFLOP"] > changes[-1].details["GFLOP"]
    assert all(change.value for change in changes)
    assert [change.name for change in changes[:2]] == ["published procedure", "fused attention"]
    assert [change.details["predicted ratio"] is None for change in changes] == [
        *(True, False, True, False, True, True)
    ]


def test_what_is_asked_for_with_fewer_steps_is_asked_for_there_alone() -> None:
    work = Work(flops=1e9)
    measured = [
        Measurement("published", "float32", 100, 100.0, 1.0, work, 1),
        *(Measurement("this package", "float32", n, n, 1.0, work, 1) for n in (100, 25)),
    ]
    machines = {"float32": Machine(1e9, 1e9)}
    rows = procedure_rows("knn-discrete-256, CPU", measured, machines, Settings())
    assert [row.needed_ratio for row in rows] == [None, None, 4.0]
    assert [row.met for row in rows] == [None, None, False]
    # All others are asked for what they are with the published number of steps.
    rows = procedure_rows("rdm-imagenet-256, CPU", measured[:2], machines, Settings())
    assert [row.needed_ratio for row in rows] == [None, 1.5]


def test_a_head_whose_query_enters_with_the_time_is_measured() -> None:
    settings = Settings(batch=1, k_nn=3, timed_steps=1, repeats=1, fewer_steps=(20,))
    published, own, fewer = measure(small(PRESETS["knn-continuous-256"]), settings)
    assert [found.num_steps for found in (published, own, fewer)] == [100, 100, 20]
    assert own.work.flops < published.work.flops
    assert own.sample_s == pytest.approx(5 * fewer.sample_s)
    architecture = small(PRESETS["knn-continuous-256"])
    plain, *_, last = measure_changes(architecture, settings, ANY_MACHINE)

    def counted(num_steps: int) -> float:
        sampling = DdimSampling(
            sampler="ddim", num_samples=1, num_steps=num_steps, guidance_scale=2.0
        )
        return flops_per_sample(architecture, sampling, 3)

    # The last change makes a step of the head.
    assert 1e9 * last.gflop == pytest.approx(counted(2) - counted(1))
    assert last.gflop < plain.gflop


def test_a_compiled_head_is_measured_beside_the_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native_tokens, "_WIDE", 1)
    architecture = small(PRESETS["rarm-imagenet-256"])
    settings = Settings(compile=True, batch=1, timed_steps=1, repeats=1)
    published, plain, compiled = measure(architecture, settings)
    assert (plain.procedure, compiled.procedure) == ("this package", "this package, compiled")
    assert plain.work == compiled.work != published.work
    changes = measure_changes(architecture, settings, ANY_MACHINE)
    assert changes[-1].change == "a kernel for all of a token (CPU, compiled)"
    assert changes[-1].ms > 0
