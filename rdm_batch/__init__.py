"""Batch generation and benchmarking of retrieval-augmented image generators.

The Python interface; docs/python.md shows each name at work. A name is imported when it is first
used, so that importing the package takes no time.
"""

from __future__ import annotations

from importlib import import_module
from operator import attrgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdm_batch.evaluation.commands import evaluate_samples as evaluate
    from rdm_batch.generation.batches import generate as generate
    from rdm_batch.generation.job import run as run
    from rdm_batch.generation.submission import load_job as load_job
    from rdm_batch.inputs.databases import open_database as open_database
    from rdm_batch.storage.sample_set import SampleSet
    from rdm_batch.sweeps.sweep import sweep as sweep

    open_sample_set = SampleSet.open

__version__ = "0.1.0"

_HOMES = {
    "evaluate": ("rdm_batch.evaluation.commands", "evaluate_samples"),
    "generate": ("rdm_batch.generation.batches", "generate"),
    "load_job": ("rdm_batch.generation.submission", "load_job"),
    "open_database": ("rdm_batch.inputs.databases", "open_database"),
    "open_sample_set": ("rdm_batch.storage.sample_set", "SampleSet.open"),
    "run": ("rdm_batch.run", ""),
    "sweep": ("rdm_batch.sweeps.sweep", "sweep"),
}
"""Where each name lives and what it is called there: nothing for a module, which can be called."""

__all__ = [
    "__version__",
    "evaluate",
    "generate",
    "load_job",
    "open_database",
    "open_sample_set",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, called = _HOMES[name]
    home = import_module(module)
    found = attrgetter(called)(home) if called else home
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
