"""Runs and figures for the tests of histories and gates."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from rdm_batch.evaluation.kept import influences_bytes
from rdm_batch.files import canonical_digest
from rdm_batch.metrics.pairing import Influences
from rdm_batch.regression.baseline import (
    Accepted,
    AcceptedBounds,
    AcceptedObject,
    AcceptedScore,
    Baseline,
)
from rdm_batch.regression.canary import Canary, canary_bytes
from rdm_batch.regression.figures import describe_score
from rdm_batch.regression.history import History, new_run_id
from rdm_batch.regression.judging import CANARY, INFLUENCES, JobNight
from rdm_batch.regression.records import Figure, Run, machine_class
from rdm_batch.reports.run_report import Machine, RunReport, Throughput
from rdm_batch.specs.scores import Score, ScoreDescription
from rdm_batch.specs.suite import GatesSpec
from rdm_batch.storage.png import encode_png
from tests.reports.fixtures import make_report

FIRST_NIGHT = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
MACHINE = Machine(cpu_model="Example CPU", num_cores=2, memory_bytes=8 << 30)


def night(number: int) -> datetime:
    """Give when a night's run starts."""
    return FIRST_NIGHT + timedelta(days=number)


def make_figure(name: str = "fid", value: float = 10.0, **changes: Any) -> Figure:
    """Make a figure of the job ``shapes``."""
    fields: dict[str, Any] = {
        "job": "shapes",
        "kind": "quality",
        "error": 0.5,
        "better": "lower",
        "description": "a" * 64,
    }
    return Figure(name=name, value=value, **fields | changes)


def make_run(started: datetime = FIRST_NIGHT, **changes: Any) -> Run:
    """Make a run with one figure."""
    fields: dict[str, Any] = {
        "commit": "c" * 40,
        "dirty": False,
        "versions": {"torch": "2.7.1"},
        "machine": MACHINE,
        "machine_class": machine_class(MACHINE),
        "suite": "nightly",
        "suite_digest": "b" * 64,
        "figures": (make_figure(),),
    }
    return Run(id=new_run_id(started), started=started, **fields | changes)


def make_canary(count: int = 8, **changes: Any) -> Canary:
    """Make the canary of a set whose samples are noise."""
    generator = np.random.default_rng(0)
    fields: dict[str, Any] = {
        "identity": {"model": {"precision": "float32"}, "sampling": {"guidance_scale": 2.0}},
        "indices": np.arange(count),
        "queries": tuple(f"[{index}]" for index in range(count)),
        "neighbors": np.arange(count * 3).reshape(count, 3),
        "similarities": generator.random((count, 3), dtype=np.float32),
        "images": tuple(encode_png(image) for image in make_images(count)),
        "features": {"tiny embedding": generator.random((count, 5), dtype=np.float32)},
    }
    return Canary(**fields | changes)


def make_images(count: int) -> list[np.ndarray]:
    """Make pictures of noise, 4 x 4 pixels."""
    generator = np.random.default_rng(1)
    return list(generator.integers(10, 245, (count, 4, 4, 3)).astype(np.uint8))


def make_night(canary: Canary | None = None, fid: float = 10.0, **changes: Any) -> JobNight:
    """Make a night of one job, judged by everything."""
    canary = canary or make_canary()
    generator = np.random.default_rng(2)
    values = generator.standard_normal(200)
    fields: dict[str, Any] = {
        "name": "shapes",
        "gates": GatesSpec.model_validate(
            {
                "closeness": [
                    {
                        "name": "bfloat16",
                        "fields": ["model.precision"],
                        "largest_byte": 4,
                        "mean_byte": 0.5,
                        "features": 0.1,
                    }
                ],
                "paired": {"primary": "fid", "delta": {"fid": 0.5}},
                "bounds": ["fid"],
            }
        ),
        "machine_class": machine_class(MACHINE),
        "versions": {"torch": "2.7.1"},
        "identity": canonical_digest(canary.identity),
        "seed": 0,
        "canary": canary,
        "scores": (make_fid(fid),),
        "influences": {"fid": Influences("samples", np.arange(200), values - values.mean())},
    }
    return JobNight(**fields | changes)


def with_rate(images_per_s: float) -> RunReport:
    """Make the report of a job that drew so many images a second."""
    throughput = Throughput(images=1000, start_up_s=10, generation_s=1000 / images_per_s)
    return make_report().model_copy(update={"throughput": throughput})


def make_fid(value: float, **description: Any) -> Score:
    """Make a score."""
    made = ScoreDescription(name="fid", extractor="tiny", num_generated=200, **description)
    return Score(value=value, uncertainty=0.1, description=made)


def accept_night(history: History, night: JobNight, **changes: Any) -> Baseline:
    """Store what a night keeps, and accept it."""
    run_id = new_run_id(FIRST_NIGHT)
    kept = {
        CANARY: canary_bytes(night.canary),
        INFLUENCES: influences_bytes(night.influences or {}),
    }
    fields: dict[str, Any] = {
        "job": night.name,
        "machine_class": night.machine_class,
        "run": run_id,
        "started": FIRST_NIGHT,
        "commit": "c" * 40,
        "dirty": False,
        "reason": "a test",
        "versions": dict(night.versions),
        "identity": night.identity,
        "seed": night.seed,
        "samples": len(night.canary.indices),
        "digests": night.canary.digests(),
        "scores": {
            score.id: AcceptedScore(value=score.value, description=describe_score(score))
            for score in night.scores
        },
        "bounds": {
            score.id: AcceptedBounds(low=9.0, high=11.0, seeds=5, description=describe_score(score))
            for score in night.scores
        },
        "objects": {
            name: AcceptedObject(
                key=history.keep(run_id, name, data), sha256=hashlib.sha256(data).hexdigest()
            )
            for name, data in kept.items()
        },
    }
    return Baseline(suite="nightly", accepted=(Accepted(**fields | changes),))
