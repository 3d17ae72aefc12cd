from __future__ import annotations

import math
from pathlib import Path

import pytest

from benchmarks.heads.loading import main
from benchmarks.records import read_record
from rdm_batch.models.networks import tensor_shapes
from tests.tiny_heads import TINY_RARM, TINY_RDM


def test_file_with_optimizer_state_is_loaded_in_both_kinds_of_arithmetic(tmp_path: Path) -> None:
    path = tmp_path / "loading.json"
    main(["--json", str(path)], {"rdm": TINY_RDM, "rarm": TINY_RARM})
    record = read_record(path)
    assert record is not None
    assert [part.name for part in record.parts] == ["rdm", "rarm"]
    for part in record.parts:
        names = [f"peak memory, head in {precision}" for precision in ("float32", "bfloat16")]
        assert [row.name for row in part.rows] == names
        assert all(row.details["file GB"] > row.floor for row in part.rows)
        assert part.rows[0].floor == part.rows[1].floor
    sizes = tensor_shapes(TINY_RDM).values()
    kept = 4 * sum(math.prod(shape) for shape in sizes)
    assert record.parts[0].rows[0].floor == pytest.approx(kept / 1e9)
    assert "| peak memory, head in bfloat16 |" in path.with_suffix(".md").read_text()
