"""A report made of synthetic numbers, as a finished job would leave it."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from PIL import Image

from rdm_batch.reports.latency import Latencies, summarize_latencies
from rdm_batch.reports.pictures import Pictures
from rdm_batch.reports.run_report import (
    HeadReport,
    HeadTimes,
    IllustratedSample,
    LostRetriever,
    Machine,
    Provenance,
    RayNode,
    Recall,
    RetrievalReport,
    RunReport,
    SampleSetSummary,
    Throughput,
    stages_from_milestones,
)
from rdm_batch.specs.scores import Score, ScoreDescription

STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def make_latencies(seed: int = 0) -> Latencies:
    generator = np.random.default_rng(seed)
    return Latencies(
        query_s=generator.lognormal(-8, 0.4, size=512),
        batch_s=generator.lognormal(-5, 0.3, size=16),
    )


def make_report(num_illustrated: int = 4, k_nn: int = 4, seed: int = 0) -> RunReport:
    latencies = make_latencies(seed)
    head = {"device": "cpu", "images": 128, "wall_s": 10.0}
    return RunReport(
        job_name="shapes",
        spec={"name": "shapes", "sampling": {"num_steps": 20, "guidance_scale": 1.5}},
        spec_digest="0123456789abcdef" * 4,
        provenance=Provenance(
            command="python -m rdm_batch.run jobs/shapes.yaml",
            software={"rdm_batch": "0.1.0", "torch": "2.14.1"},
            machine=Machine(cpu_model="Test CPU", num_cores=2, memory_bytes=24 * 2**30),
            started=STARTED,
            ended=STARTED + timedelta(seconds=42),
            git_commit="c" * 40,
            ray_nodes=(RayNode(name="node-0", num_cpus=2, memory_bytes=16 * 2**30),),
        ),
        sample_set=SampleSetSummary(
            uri="out/shapes", rows=256, shards=8, bytes_written=1_234_567, resumed_shards=0
        ),
        throughput=Throughput(
            images=256,
            start_up_s=15.0,
            generation_s=10.0,
            heads=tuple(
                HeadReport(
                    name=f"head-{index}",
                    **head,
                    times=HeadTimes.within(
                        10.0, model_s=9.1, neighbors_s=0.3, encoding_s=0.2, writing_s=0.1
                    ),
                )
                for index in range(2)
            ),
        ),
        start_up=stages_from_milestones(
            {
                "command start": 1.5,
                "preflight": 3.0,
                "ray": 10.0,
                "retrievers ready": 12.0,
                "heads ready": 15.0,
                "first shard committed": 18.0,
            }
        ),
        retrieval=RetrievalReport(
            per_query=summarize_latencies(latencies.query_s),
            per_batch=summarize_latencies(latencies.batch_s),
            query_method="batch seconds divided by its queries",
            recall=Recall(k=4, queries=64, value=0.996),
            resident_bytes=350_000_000,
            lost=(LostRetriever(holds="shard 1 of the database (rows 25 and following)", times=2),),
        ),
        scores=(
            make_score("fid", 12.34, 0.21, uncertainty_method="jackknife over 10 blocks"),
            make_score("precision", 0.71, 0.02),
            make_score("recall", 0.55, 0.03),
        ),
        illustrated=tuple(
            IllustratedSample(
                sample_index=index,
                caption=f"a red circle number {index}",
                neighbor_ids=tuple(range(index, index + k_nn)),
                neighbor_scores=tuple(0.99 - 0.01 * rank for rank in range(k_nn)),
                neighbor_captions=tuple(f"neighbor {rank}" for rank in range(k_nn)),
            )
            for index in range(num_illustrated)
        ),
    )


def make_score(
    score: str,
    value: float,
    uncertainty: float | None = None,
    extractor: str | None = "inception-v3-compat",
    uncertainty_method: str = "",
    **description: Any,
) -> Score:
    """Make a score as Inception's features give it."""
    known = {"extractor_digest": "ab12", "num_generated": 256, "k": 3} | description
    return Score(
        value=value,
        uncertainty=uncertainty,
        uncertainty_method=uncertainty_method,
        description=ScoreDescription(name=score, extractor=extractor, **known),
    )


def make_picture(seed: int, side: int = 32) -> bytes:
    """Draw a disk on a plain background, as PNG."""
    generator = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side] / side
    center, radius = generator.uniform(0.3, 0.7, size=2), generator.uniform(0.15, 0.3)
    inside = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < radius**2
    back, front = generator.integers(0, 256, size=(2, 3))
    pixels = np.where(inside[..., None], front, back).astype(np.uint8)
    sink = io.BytesIO()
    Image.fromarray(pixels).save(sink, format="PNG")
    return sink.getvalue()


def make_pictures(report: RunReport, side: int = 32) -> Pictures:
    neighbor_ids = {row_id for sample in report.illustrated for row_id in sample.neighbor_ids}
    return Pictures(
        samples={
            sample.sample_index: make_picture(sample.sample_index, side)
            for sample in report.illustrated
        },
        neighbors={row_id: make_picture(1000 + row_id, side) for row_id in neighbor_ids},
    )
