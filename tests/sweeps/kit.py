"""A small world with a sweep over it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.job_kit import job_document

SAMPLES = 24


def sweep_document(root: Path, **sweep: Any) -> dict[str, Any]:
    """Write a world below a folder and describe a sweep over it: 24 samples a cell, 3 shards."""
    document = job_document(root)
    document["output"] = {"uri": str(root / "out"), "shard_size": 8}
    document["evaluation"]["scores"] = ["fid", "precision", "recall"]
    return document | {"sweep": sweep or {"lines": {"sampling.guidance_scale": [1.0, 2.0]}}}
