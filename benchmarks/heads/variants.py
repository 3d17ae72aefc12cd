"""Ways to evaluate a network, each with a change that the one before does not have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One way to evaluate a network.

    Attributes:
        change: What it does that the one before does not.
        counts: Whether the change shows in counted work.
        run: Evaluates.
    """

    change: str
    counts: bool
    run: Callable[[], object]
