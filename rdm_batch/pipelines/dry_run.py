"""Say what a job would do, without starting or writing anything."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rdm_batch.engine.plan import plan_shards
from rdm_batch.engine.preflight import preflight
from rdm_batch.errors import InvalidJobError
from rdm_batch.pipelines.submission import locate
from rdm_batch.reports.provenance import software_versions
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.load import load_job
from rdm_batch.storage.sample_set import SampleSet


def dry_run(path: Path, overrides: Sequence[str]) -> str:
    """Describe a job's plan and what, if anything, still keeps it from running.

    Args:
        path: The job file.
        overrides: ``key.path=value`` strings.

    Raises:
        RdmBatchError: The job file itself is wrong. Missing or unfit files are no failure
            of a dry run; they are listed.
    """
    spec = locate(load_job(path, overrides))
    lines = [f"{path}: a valid job", *_plan(spec)]
    try:
        job = preflight(spec, str(path), software_versions())
    except InvalidJobError as error:
        lines.append(f"not ready to run, {error.found}:")
        lines += [f"  - {problem}" for problem in error.problems]
        return "\n".join(lines)
    sample_set = SampleSet.find(spec.output.uri)
    missing = len(job.shards) if sample_set is None else len(sample_set.missing_shards())
    lines.append(f"digest     {job.header.digest}")
    lines.append(f"ready to run: {missing:,} of {len(job.shards):,} shards are missing")
    return "\n".join(lines)


def _plan(spec: JobSpec) -> list[str]:
    shards = plan_shards(spec)
    sampling = spec.sampling
    batches = sum(len(shard.batches(sampling.batch_size)) for shard in shards)
    branches = 2 if sampling.guidance_scale > 1 else 1
    steps = getattr(sampling, "num_steps", None)
    work = f"{batches:,} batches of up to {sampling.batch_size}"
    if steps is not None:
        work += f", {steps * branches:,} network evaluations a batch"
        if branches == 2:
            work += f" ({steps} steps, conditional and unconditional)"
    scores = "none" if spec.evaluation is None else ", ".join(spec.evaluation.scores)
    return [
        f"samples    {sampling.num_samples:,} in {len(shards):,} shards of up to "
        f"{spec.output.shard_size:,}",
        f"work       {work}",
        f"head       {spec.model.head}, sampler {sampling.sampler}",
        f"condition  {spec.conditioning.mode}, {spec.conditioning.k_nn} neighbors, "
        f"from {spec.database.uri}",
        f"scores     {scores}",
        f"output     {spec.output.uri}",
    ]
