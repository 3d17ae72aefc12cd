"""Check that a job asks of its head what the head can do."""

from __future__ import annotations

from rdm_batch.errors import SpecError
from rdm_batch.inputs.weights import OpenedCheckpoint, open_checkpoint
from rdm_batch.specs.job import JobSpec


def check_model(spec: JobSpec) -> OpenedCheckpoint:
    """Open a job's head, and check what conditioning and sampling ask of it.

    Raises:
        SpecError: The architecture named is not one or not of this kind of head, or the job
            shows neighbors to a head that never sees them.
        CheckpointError: The weights are missing, damaged, unsafe or do not fit.
    """
    opened = open_checkpoint(spec.model)
    if opened.architecture is not None and opened.architecture.parametric:
        _check_parametric(spec)
    return opened


def _check_parametric(spec: JobSpec) -> None:
    found = None
    if spec.conditioning.mode != "unconditional":
        found = f"conditioning.mode is {spec.conditioning.mode!r}"
    elif spec.sampling.guidance_scale != 1:
        found = f"sampling.guidance_scale is {spec.sampling.guidance_scale:g}"
    if found is not None:
        raise SpecError(
            "model",
            f"the head never sees neighbors (a fully parametric baseline), but {found}",
            "conditioning.mode unconditional and guidance_scale 1",
        )
