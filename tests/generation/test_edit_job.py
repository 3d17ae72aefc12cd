"""A job that edits given pictures, on a real Ray of two nodes, with a head that dies."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

import rdm_batch
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.sample_set import SampleSet
from tests.job_kit import job_document, write_job
from tests.ray_kit import kill_one, shard_digests, started_job, wait_for_shards
from tests.ray_nodes import TwoNodes

SLOW_STEPS = 100
"""Solver steps that make a shard last long enough to be interrupted."""


def _write_edits(folder: Path) -> Path:
    """Write a world, three pictures, and a job that edits each by two texts: 24 samples."""
    document = job_document(folder)
    (folder / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(folder / f"pictures/{number}.png")
    document["conditioning"] = {
        "mode": "edit",
        "k_nn": 3,
        "prompts": ["a red circle", "a blue square"],
        "images": str(folder / "pictures"),
        "edit": {"method": "sdedit", "strength": 0.7},
    }
    document["sampling"]["num_steps"] = SLOW_STEPS
    del document["evaluation"]
    return write_job(folder / "job.yaml", document)


def _heads(out: Path) -> set[str]:
    """Name the heads that shards were made by."""
    return {
        json.loads(entry.read_text())["measured"]["head"]
        for entry in (out / "_shards").glob("*.json")
    }


def test_edits_are_the_same_on_two_heads_of_which_one_is_killed_as_in_one_process(
    two_nodes: TwoNodes, tmp_path: Path
) -> None:
    job = _write_edits(tmp_path)
    alone, spread = tmp_path / "alone", tmp_path / "spread"
    in_one = rdm_batch.load_job(job, overrides=[f"output.uri={alone}"])
    rdm_batch.run(in_one, address="none")
    on_ray = ["--address", two_nodes.address, "--set", "cluster.heads=2"]
    with started_job(job, *on_ray, "--set", f"output.uri={spread}") as process:
        for count in range(1, 6):
            wait_for_shards(spread, count, process)
            if _heads(spread) == {"head-0", "head-1"}:
                break
        kill_one("HeadWorker", two_nodes.folder)
        printed, _ = process.communicate(timeout=240)
    assert process.returncode == 0, printed
    assert shard_digests(spread) == shard_digests(alone)
    assert _heads(spread) == {"head-0", "head-1"}
    # Every sample is stored beside the picture that it was made from.
    rows = [row for part in SampleSet.find(str(spread)).iter_batches() for row in part.to_pylist()]
    assert len(rows) == 24
    assert all(decode_png(row["source"]["bytes"]).shape == (16, 16, 3) for row in rows)
