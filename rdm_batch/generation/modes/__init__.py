"""The conditioning modes, one module each, and the one list of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rdm_batch.generation.modes.class_pools import ClassPools
from rdm_batch.generation.modes.edit import Edit
from rdm_batch.generation.modes.embeddings import Embeddings
from rdm_batch.generation.modes.images import Images
from rdm_batch.generation.modes.interpolate import Interpolate
from rdm_batch.generation.modes.mode import Mode
from rdm_batch.generation.modes.rows import Rows
from rdm_batch.generation.modes.text import Text
from rdm_batch.generation.modes.unconditional import Unconditional
from rdm_batch.specs.conditioning import ConditioningSpec

MODES: Mapping[str, Callable[[Any], Mode]] = {
    "unconditional": Unconditional,
    "text": Text,
    "class": ClassPools,
    "image": Images,
    "embeddings": Embeddings,
    "rows": Rows,
    "interpolate": Interpolate,
    "edit": Edit,
}
"""What makes a mode of its part of a job file, by the ``mode`` that is named there."""


def mode_of(conditioning: ConditioningSpec) -> Mode:
    """Give the mode that a job asks for."""
    return MODES[conditioning.mode](conditioning)
