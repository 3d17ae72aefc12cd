from __future__ import annotations

import json
import math
from pathlib import Path

from benchmarks.loading import main
from rdm_batch.models.networks import tensor_shapes
from tests.tiny_heads import TINY_RARM, TINY_RDM


def test_file_with_optimizer_state_is_loaded_in_both_kinds_of_arithmetic(tmp_path: Path) -> None:
    path = tmp_path / "loading.json"
    main(["--json", str(path)], {"rdm": TINY_RDM, "rarm": TINY_RARM})
    record = json.loads(path.read_text())
    assert list(record) == ["rdm", "rarm"]
    for rows in record.values():
        assert [row["precision"] for row in rows] == ["float32", "bfloat16"]
        assert all(row["file_bytes"] > row["kept_bytes"] for row in rows)
        assert rows[0]["kept_bytes"] == rows[1]["kept_bytes"]
    sizes = tensor_shapes(TINY_RDM).values()
    assert record["rdm"][0]["kept_bytes"] == 4 * sum(math.prod(shape) for shape in sizes)
    assert "| rdm | bfloat16 |" in path.with_suffix(".md").read_text()
