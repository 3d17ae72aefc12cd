"""What heads over latents need to make given pictures into others."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8

from rdm_batch.errors import ImageError
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sampling.schedules import first_step
from rdm_batch.sampling.solver import Solver
from rdm_batch.specs.edits import EditSpec, TrainedEditSpec
from rdm_batch.specs.families import RdmArchitecture


def edit_solver(architecture: RdmArchitecture, solver: Solver, edit: EditSpec) -> Solver:
    """Give the solver of an edit: of SDEdit the later steps of a head's, else all of it.

    Args:
        architecture: Of the head.
        solver: Its solver, from noise to latents.
        edit: How pictures are edited.

    Raises:
        SpecError: The edit leaves no step.
    """
    if isinstance(edit, TrainedEditSpec):
        return solver
    num_times = architecture.noise_schedule.num_train_steps
    return solver.later(first_step(solver.timesteps, edit.strength, num_times))


def check_sources(
    sources: UInt8[np.ndarray, "batch height width 3"], noise: SampleNoise, image_size: int
) -> None:
    """Refuse pictures that a head cannot edit.

    Raises:
        ImageError: Their number or their size is wrong.
    """
    expected = (len(noise), image_size, image_size, 3)
    if sources.shape != expected:
        raise ImageError(
            "pictures to edit", f"have shape {sources.shape}", f"{expected}, as the head draws them"
        )
