"""Batches that are being drawn: how images leave a GPU without anybody waiting for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor

from rdm_batch.errors import CheckpointError
from rdm_batch.transfers import leave

Tell = Callable[[Tensor], CheckpointError]
"""Describe the samples of a batch that failed, of which there is at least one."""


@runtime_checkable
class Drawing(Protocol):
    """A batch that a head has begun to draw."""

    @property
    def in_background(self) -> bool:
        """Say whether a device may still be drawing it, so that collecting may wait."""
        ...

    def collect(self) -> UInt8[np.ndarray, "batch height width 3"]:
        """Give the images, once they are there.

        Raises:
            CheckpointError: Something became infinite or NaN, saying for which sample and when.
        """
        ...

    def gpu_s(self) -> float | None:
        """Give the seconds from the first to the last of the batch on a GPU, once collected.

        None where no GPU drew it.
        """
        ...


@dataclass(frozen=True)
class Finished:
    """Hold the images of a batch that is drawn.

    Attributes:
        images: The images.
        in_background: False.
    """

    images: UInt8[np.ndarray, "batch height width 3"]
    in_background: bool = False

    def collect(self) -> UInt8[np.ndarray, "batch height width 3"]:
        """Give the images."""
        return self.images

    def gpu_s(self) -> float | None:
        """Give None."""
        return None


class Canvas:
    """Follow one batch of a head: what is to be checked of it, and its images on their way.

    On a CPU a failed check raises at once. On a GPU whether it failed is not known when it is
    added: that travels with the images, and is looked at when they are collected.

    Args:
        device: What the head computes on.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._checks: list[tuple[Tensor, Tell]] = []
        self._begun = mark() if device.type == "cuda" else None

    def check(self, failed: Bool[Tensor, " batch"], tell: Tell) -> None:
        """Refuse the batch if some samples failed.

        Args:
            failed: Which.
            tell: Describes them, given ``failed``.

        Raises:
            CheckpointError: On a CPU, where some have.
        """
        if self._begun is not None:
            self._checks.append((leave(failed), tell))
        elif failed.any():
            raise tell(failed)

    def deliver(self, images: UInt8[Tensor, "batch height width 3"]) -> Drawing:
        """Send images on their way to the host, behind what is launched."""
        if self._begun is None:
            return Finished(images.numpy())
        left = leave(images)
        return _Leaving(left, self._checks, self._begun, mark())


class _Leaving:
    """Images that a GPU draws and copies by itself.

    Args:
        images: Where they arrive.
        checks: Where it arrives which samples failed, and how that is told.
        begun: Passed before the batch.
        ended: Passed when everything has arrived.
    """

    in_background = True

    def __init__(
        self, images: Tensor, checks: list[tuple[Tensor, Tell]], begun: Any, ended: Any
    ) -> None:
        self._images = images
        self._checks = checks
        self._begun = begun
        self._ended = ended

    def collect(self) -> UInt8[np.ndarray, "batch height width 3"]:
        """Wait for the images; see ``Drawing``."""
        self._ended.synchronize()
        for failed, tell in self._checks:
            if failed.any():
                raise tell(failed)
        return self._images.numpy()

    def gpu_s(self) -> float | None:
        """Give the time between the two marks; see ``Drawing``."""
        return float(self._begun.elapsed_time(self._ended)) / 1e3


def mark() -> Any:
    """Mark how far the current stream has been told to go, and when it gets there."""
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
