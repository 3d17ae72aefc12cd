"""The Python interface, and the examples of its documentation."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rdm_batch
from rdm_batch.errors import InvalidJobError
from rdm_batch.specs.job import JobSpec
from rdm_batch.storage.png import decode_png
from tests.worlds import World

ROOT = Path(__file__).parents[1]
NAMES = ("load_job", "generate", "run", "evaluate", "open_sample_set", "open_database", "sweep")


def _examples() -> str:
    text = (ROOT / "docs" / "python.md").read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.DOTALL))


def _job(world: World, out: Path, **changes: object) -> JobSpec:
    document = world.job(evaluation=None, **changes)
    document["output"]["uri"] = str(out)
    return rdm_batch.load_job(document)


def test_the_documented_examples_run_as_written_and_without_ray(tmp_path: Path) -> None:
    examples = _examples().replace("out/python", str(tmp_path / "out"))
    code = f"{examples}\nimport sys\nassert 'ray' not in sys.modules\nprint('all examples ran')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all examples ran\n")
    assert "24 samples at" in done.stdout


def test_the_documentation_shows_every_name() -> None:
    examples = _examples()
    for name in NAMES:
        assert f"rdm_batch.{name}(" in examples
        assert callable(getattr(rdm_batch, name))
    assert set(NAMES) < set(dir(rdm_batch))


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, rdm_batch; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"numpy", "torch", "pydantic", "pyarrow", "yaml", "ray", "scann", "jaxtyping"}
    assert not heavy & set(done.stdout.split())


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'generates'"):
        rdm_batch.generates  # noqa: B018


def test_run_stays_the_function_when_its_module_is_imported(world: World, tmp_path: Path) -> None:
    importlib.import_module("rdm_batch.run")
    with pytest.raises(InvalidJobError, match=r"conditioning\.k_nn: is 41"):
        rdm_batch.run(_job(world, tmp_path, conditioning__k_nn=41), address="none")


def test_generated_images_are_those_of_the_stored_set(world: World, tmp_path: Path) -> None:
    job = _job(world, tmp_path / "out", sampling__num_samples=6)
    batches = list(rdm_batch.generate(job))
    assert not (tmp_path / "out").exists()
    rdm_batch.run(job, address="none")
    stored = [
        row
        for rows in rdm_batch.open_sample_set(str(tmp_path / "out")).iter_batches()
        for row in rows.to_pylist()
    ]
    assert [len(batch.images) for batch in batches] == [4, 2]
    made = np.concatenate([batch.images for batch in batches])
    kept = np.stack([decode_png(row["image"]["bytes"]) for row in stored])
    np.testing.assert_array_equal(made, kept)
    ids = np.concatenate([batch.neighbor_ids for batch in batches])
    assert ids.tolist() == [row["neighbor_ids"] for row in stored]
    assert [int(i) for batch in batches for i in batch.sample_indices] == list(range(6))


def test_a_job_that_cannot_run_is_refused_before_the_first_batch(
    world: World, tmp_path: Path
) -> None:
    job = _job(world, tmp_path, conditioning__k_nn=41, model__checkpoint=str(tmp_path / "none"))
    with pytest.raises(InvalidJobError, match="2 problems"):
        rdm_batch.generate(job)


def test_arguments_of_evaluate_that_cannot_be_used_are_told_without_their_secrets() -> None:
    with pytest.raises(InvalidJobError, match="reference: carries credentials") as caught:
        rdm_batch.evaluate("shapes:reference:32", "s3://key:hidden@bucket/reference.npz")
    assert "hidden" not in str(caught.value)
    assert caught.value.__suppress_context__
    with pytest.raises(InvalidJobError, match="scores"):
        rdm_batch.evaluate("shapes:reference:32", "shapes:reference:32", scores=[])


def test_recall_is_measured_without_ray_although_pools_are_kept(
    world: World, tmp_path: Path
) -> None:
    classes = {"mode": "class", "k_nn": 2, "labels": ["red circle", "blue square"], "pool_size": 5}
    job = _job(world, tmp_path, conditioning=classes, sampling__num_samples=4)
    report = rdm_batch.run(job, address="none")
    assert report.retrieval is not None
    assert report.retrieval.recall is not None
    assert report.retrieval.recall.k == 5
