"""How a score is computed in parts: a function over shared arrays, once per item."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

Item = TypeVar("Item")
Result = TypeVar("Result")


@runtime_checkable
class TaskRunner(Protocol):
    """Run one function for many items, here or on many machines.

    Args:
        num_tasks: Into how many items work should be cut.
    """

    num_tasks: int

    def __call__(
        self,
        function: Callable[..., Result],
        shared: Sequence[np.ndarray],
        items: Sequence[Any],
    ) -> Iterable[Result]:
        """Return ``function(*shared, item)`` for each item, in any order.

        Args:
            function: A module-level function, or a ``partial`` of one; it must not change the
                shared arrays.
            shared: Arrays every call gets; sent to a worker once.
            items: What differs between calls.
        """
        ...


class RunHere:
    """Run the calls one after the other in this process.

    Args:
        num_tasks: Into how many items work is cut; one saves preparing the arrays again.
    """

    def __init__(self, num_tasks: int = 1) -> None:
        self.num_tasks = num_tasks

    def __call__(
        self,
        function: Callable[..., Result],
        shared: Sequence[np.ndarray],
        items: Sequence[Any],
    ) -> Iterable[Result]:
        """Return ``function(*shared, item)`` for each item."""
        return (function(*shared, item) for item in items)


HERE = RunHere()


def share_out(items: Sequence[Item], count: int) -> list[list[Item]]:
    """Deal items to at most ``count`` lists of nearly equal length, none of them empty."""
    return [list(items[start::count]) for start in range(min(count, len(items)))]
