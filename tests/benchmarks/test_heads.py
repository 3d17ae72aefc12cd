from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.counting import Machine, Work, count_work
from benchmarks.heads import main

SMALL = ("--small", "--batch", "1", "--timed-steps", "1", "--repeats", "1")
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
    found = json.loads(path.read_text())["cpu"]
    assert list(found) == presets
    for record in found.values():
        assert record["small"]
        plain, own, rounded = record["rows"]
        assert [row["procedure"] for row in record["rows"]] == [
            "published",
            "this package",
            "this package",
        ]
        assert rounded["precision"] == "bfloat16"
        for row in record["rows"]:
            assert row["images_per_s"] > 0
            assert row["floor_s"] > 0
            assert 0 < row["decode_share"] < 1
        # What this package leaves out is work of the published procedure, never the reverse.
        assert own["gflop"] < plain["gflop"]
        assert record["decoder_errors"]["channels_last_max"] < 1e-4
        changes = record["changes"]
        assert changes[0]["gflop"] > changes[-1]["gflop"]
        assert all(change["ms"] > 0 and change["change"] in printed for change in changes)
    assert found["rarm-imagenet-256"]["integration"].keys() == {"complete_s", "estimated_s"}
    page = path.with_suffix(".md").read_text()
    assert all(f"## {preset}, CPU, shrunk" in page for preset in presets)
    assert (
        "| rarm-imagenet-256 | GPU | 100 x (batch 64, CUDA graphs) | open: not measured |" in page
    )
    assert all(change["change"] in page for one in found.values() for change in one["changes"])
