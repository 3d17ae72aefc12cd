from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.counting import Machine, Work, count_work
from benchmarks.heads import main


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
    main(
        [
            "--small",
            "--batch",
            "1",
            "--timed-steps",
            "1",
            "--json",
            str(path),
            "--presets",
            *presets,
        ]
    )
    printed = capsys.readouterr().out
    record = json.loads(path.read_text())
    assert record["small"]
    assert [(row["preset"], row["procedure"]) for row in record["rows"]] == [
        (preset, procedure) for preset in presets for procedure in ("published", "this package")
    ]
    for row in record["rows"]:
        assert row["images_per_s"] > 0
        assert row["floor_s"] > 0
        assert 0 < row["decode_share"] < 1
        assert row["preset"] in printed
    # What this package leaves out is work of the published procedure, never the reverse.
    for plain, own in zip(record["rows"][::2], record["rows"][1::2], strict=True):
        assert own["gflop"] < plain["gflop"]
    assert record["decoder_errors"]["rdm-imagenet-256"]["channels_last_max"] < 1e-4
