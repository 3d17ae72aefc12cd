"""The numbers that steps of a batch add: on a GPU drawn and copied while it is busy.

Drawing stays on the CPU, one generator a sample, so the numbers are the same on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

Fill = Callable[[int, Shaped[np.ndarray, "..."]], None]
"""Write the numbers of a step (from 0) into an array."""


@runtime_checkable
class Lanes(Protocol):
    """A device's two lanes: one computes, the other copies beside it."""

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Make room on the host that the device copies from by itself."""
        ...

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Make room on the device, for the computing lane."""
        ...

    def reached(self) -> Any:
        """Mark how far the computing lane has been told to go."""
        ...

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Copy in the other lane.

        Args:
            target: On the device.
            source: Pinned.
            after: What has to be reached first.

        Returns:
            A mark reached when it is done; its ``synchronize`` waits for that.
        """
        ...

    def wait(self, mark: Any) -> None:
        """Let what is launched in the computing lane from here on wait for a mark."""
        ...


class CudaLanes:
    """The current stream of a GPU, and one more for copies."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._aside = torch.cuda.Stream(device)

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Make pinned room; see ``Lanes``."""
        return torch.empty(shape, dtype=dtype, pin_memory=True)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Make room on the GPU; see ``Lanes``."""
        return torch.empty(shape, dtype=dtype, device=self._device)

    def reached(self) -> Any:
        """Mark the current stream; see ``Lanes``."""
        return _recorded(torch.cuda.current_stream(self._device))

    def copy(self, target: Tensor, source: Tensor, after: Any) -> Any:
        """Copy in the other stream; see ``Lanes``."""
        self._aside.wait_event(after)
        with torch.cuda.stream(self._aside):
            target.copy_(source, non_blocking=True)
        return _recorded(self._aside)

    def wait(self, mark: Any) -> None:
        """Let the current stream wait; see ``Lanes``."""
        torch.cuda.current_stream(self._device).wait_event(mark)


def _recorded(stream: Any) -> Any:
    event = torch.cuda.Event()
    event.record(stream)
    return event


class NumbersAhead:
    """Draw the numbers of the next step in another thread while a step computes.

    Two pinned buffers and two on the device take turns. The device runs at most some steps behind
    the host, for a buffer is written again only when it was copied, and copied into only when
    what reads it has passed. Made for one batch, and used by one thread.

    Args:
        fill: Draws a step's numbers; called in ``thread``, one call at a time.
        num_steps: Steps of the batch; nothing is drawn ahead for those after.
        shape: Of a step's numbers.
        dtype: Theirs.
        lanes: The device.
        thread: Draws; kept for all batches.
    """

    def __init__(
        self,
        fill: Fill,
        num_steps: int,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        lanes: Lanes,
        thread: ThreadPoolExecutor,
    ) -> None:
        self._fill = fill
        self._num_steps = num_steps
        self._lanes = lanes
        self._thread = thread
        self._pinned = [lanes.pinned(shape, dtype) for _ in range(2)]
        self._arrays = [pinned.numpy() for pinned in self._pinned]
        self._device = [lanes.room(shape, dtype) for _ in range(2)]
        self._copied: list[Any] = [None, None]
        self._asked = 0
        # Before this, the device's room may still be read by what it belonged to.
        self._before = lanes.reached()
        self._ahead: tuple[int, Future[None]] | None = None

    def __call__(self, step: int) -> Tensor:
        """Give the numbers of a step; they are overwritten by the next call but one.

        Whatever reads those of the call before has to be launched by now.
        """
        side = self._asked % 2
        self._asked += 1
        if self._ahead is None or self._ahead[0] != step:
            # The first, or steps in between add no noise.
            if self._ahead is not None:
                self._ahead[1].result()
            self._ahead = self._drawing(step, side)
        self._ahead[1].result()
        reached = self._lanes.reached()
        self._copied[side] = self._lanes.copy(self._device[side], self._pinned[side], self._before)
        self._before = reached
        self._lanes.wait(self._copied[side])
        self._ahead = None
        if step + 1 < self._num_steps:
            self._ahead = self._drawing(step + 1, 1 - side)
        return self._device[side]

    def _drawing(self, step: int, side: int) -> tuple[int, Future[None]]:
        return step, self._thread.submit(self._draw, step, side)

    def _draw(self, step: int, side: int) -> None:
        if self._copied[side] is not None:
            self._copied[side].synchronize()
        self._fill(step, self._arrays[side])
