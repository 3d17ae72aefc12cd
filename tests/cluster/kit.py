"""Workers that say where they are, fail, or die."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rdm_batch.errors import DatabaseError, DeviceLostError, RdmBatchError, SpecError
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.merge import Neighbors


class PlainWorker:
    """Know a number and an array."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.array = np.zeros(1)

    def where(self, seconds: float) -> tuple[int, int]:
        time.sleep(seconds)
        return os.getpid(), threading.get_ident()

    def add(self, item: int, array: np.ndarray, factor: int) -> int:
        return int(array.sum()) * factor + item

    def count_until(self, marker: Path) -> int:
        """Count, for ten seconds at most, until somebody has seen more than nothing."""
        for _ in range(1000):
            self.number += 1
            if marker.exists():
                break
            time.sleep(0.01)
        return self.number

    def counted(self) -> int:
        return self.number

    def refuse(self, item: int) -> None:
        raise DatabaseError(f"row {item}", "is odd", "an even row", "leave it out")

    def search(self, queries: np.ndarray, retriever: CompositeRetriever) -> Neighbors:
        return retriever.search(queries, 3)


class LargeWorker(PlainWorker):
    """Be made from more than Ray keeps beside a call."""

    def __init__(self, array: np.ndarray, number: int) -> None:
        super().__init__(number)
        self.array = array

    def die_once(self, marker: Path) -> float:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return float(self.array.sum())


class OneGpuLostWorker(PlainWorker):
    """Lose its GPU at the first call of all."""

    def lose_once(self, marker: Path) -> int:
        if not marker.exists():
            marker.write_text(str(os.getpid()))
            raise DeviceLostError("GPU", "computes nothing more in this process")
        return os.getpid()


class MortalWorker(PlainWorker):
    """Die whenever it is called."""

    def die(self, item: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class RefusedWorker(PlainWorker):
    """Never come to be."""

    def __init__(self, number: int) -> None:
        raise SpecError("model.checkpoint", "does not fit", "another one")


def failure(call: Callable[[], Any]) -> RdmBatchError | None:
    """Give the expected failure of a call."""
    try:
        call()
    except RdmBatchError as error:
        return error
    return None
