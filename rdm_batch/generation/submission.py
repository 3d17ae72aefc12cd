"""Where a job runs: submitted to a cluster or started by hand, and what its paths mean there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdm_batch.inputs.locations import absolute_locations
from rdm_batch.specs import load
from rdm_batch.specs.job import JobSpec

OUTPUT_ROOT_VARIABLE = "RDM_BATCH_OUTPUT_ROOT"
_SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"


def is_submitted_job() -> bool:
    """Tell whether ``ray job submit`` started this process."""
    return _SUBMITTED in os.environ


def default_address() -> str:
    """Choose ``auto`` inside a submitted job or where RAY_ADDRESS is set, else ``local``."""
    inside = os.environ.get("RAY_ADDRESS") or is_submitted_job()
    return "auto" if inside else "local"


def load_job(job: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> JobSpec:
    """Read and validate a job, and make its relative paths absolute.

    Args:
        job: The job file, or what it would hold.
        overrides: ``key.path=value`` strings, the value in YAML, applied in order.

    Raises:
        SpecError: The file cannot be read, or an override is not understood.
        InvalidJobError: One or more fields are wrong; all are listed.
    """
    return located(load.load_job(Path(job) if isinstance(job, str) else job, overrides))


def located(spec: JobSpec) -> JobSpec:
    """Make the relative paths of a job absolute, as ``load_job`` does."""
    # A submitted job runs in a temporary copy of its working folder that Ray deletes: inputs
    # are found there, but a relative output goes below RDM_BATCH_OUTPUT_ROOT, or the home
    # folder of the user Ray runs as.
    here = Path.cwd()
    if not is_submitted_job():
        return absolute_locations(spec, here, here)
    return absolute_locations(spec, here, Path(os.environ.get(OUTPUT_ROOT_VARIABLE, Path.home())))
