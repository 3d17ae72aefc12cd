"""Numbers drawn ahead, on a device that does everything as late as it may."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from rdm_batch.heads.prefetch import Lanes, NumbersAhead
from rdm_batch.sampling.noise import SampleNoise, step_stream

SHAPE = (3, 2, 4)


class _Mark:
    """A place in a lane: reached when everything before it is done."""

    def __init__(self, lanes: _LateLanes, lane: int) -> None:
        self.lanes, self.lane, self.reached = lanes, lane, False

    def synchronize(self) -> None:
        self.lanes.run_to(self)


class _LateLanes:
    """Two queues whose work is done only when somebody waits for it, on the CPU."""

    def __init__(self) -> None:
        self._queues: tuple[list[object], list[object]] = ([], [])
        self._lock = threading.RLock()

    def pinned(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, torch.nan, dtype=dtype)

    def room(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.full(shape, torch.nan, dtype=dtype)

    def launch(self, work: object, lane: int = 0) -> None:
        with self._lock:
            self._queues[lane].append(work)

    def reached(self) -> _Mark:
        return self._marked(0)

    def copy(self, target: Tensor, source: Tensor, after: _Mark) -> _Mark:
        self.launch(after, 1)
        self.launch(lambda: target.copy_(source), 1)
        return self._marked(1)

    def wait(self, mark: _Mark) -> None:
        self.launch(mark)

    def run_to(self, mark: _Mark) -> None:
        with self._lock:
            while not mark.reached:
                self._step(mark.lane)

    def run_ahead(self, lane: int) -> None:
        """Do everything a lane can do without the other."""
        with self._lock:
            queue = self._queues[lane]
            while queue and not self._waits(queue[0], lane):
                self._step(lane)

    @staticmethod
    def _waits(work: object, lane: int) -> bool:
        return isinstance(work, _Mark) and work.lane != lane and not work.reached

    def _marked(self, lane: int) -> _Mark:
        mark = _Mark(self, lane)
        self.launch(mark, lane)
        return mark

    def _step(self, lane: int) -> None:
        work = self._queues[lane].pop(0)
        if isinstance(work, _Mark):
            if work.lane == lane:
                work.reached = True
            else:
                self.run_to(work)
        else:
            assert callable(work)
            work()


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


NOISE = SampleNoise(7, np.arange(3))


def _fill(step: int, out: np.ndarray) -> None:
    NOISE.fill_normal(step_stream(step), out)


def _ahead(lanes: Lanes, thread: ThreadPoolExecutor, num_steps: int) -> NumbersAhead:
    return NumbersAhead(_fill, num_steps, SHAPE, torch.float32, lanes, thread)


# Which lane hurries between two steps: the copies, the arithmetic, or neither.
@pytest.mark.parametrize("eager", [None, 0, 1])
@pytest.mark.parametrize("steps", [range(12), [0, 1, 5, 6, 11], [3]], ids=["all", "some", "one"])
def test_every_step_reads_its_own_numbers_however_late_the_device_is(
    thread: ThreadPoolExecutor, steps: list[int], eager: int | None
) -> None:
    lanes, read = _LateLanes(), {}
    numbers = _ahead(lanes, thread, 12)
    for step in steps:
        # Lanes run behind: what the step reads is read when the device gets there.
        found = numbers(step)

        def use(step: int = step, found: Tensor = found) -> None:
            read[step] = found.clone()

        lanes.launch(use)
        if eager is not None:
            lanes.run_ahead(eager)
    lanes.reached().synchronize()
    for step in steps:
        expected = NOISE.normal(step_stream(step), SHAPE[1:])
        np.testing.assert_array_equal(read[step].numpy(), expected)


def test_the_next_step_is_drawn_before_it_is_asked_for(thread: ThreadPoolExecutor) -> None:
    drawn, ahead = [], threading.Event()

    def fill(step: int, out: np.ndarray) -> None:
        drawn.append(step)
        if step == 1:
            ahead.set()

    numbers = NumbersAhead(fill, 2, SHAPE, torch.float32, _LateLanes(), thread)
    numbers(0)
    assert ahead.wait(10)
    numbers(1)
    thread.submit(int).result()
    # And nothing after the last.
    assert drawn == [0, 1]


def test_a_failure_of_the_thread_is_raised_where_its_numbers_are_asked_for(
    thread: ThreadPoolExecutor,
) -> None:
    def fill(step: int, out: np.ndarray) -> None:
        if step == 1:
            raise MemoryError("no more numbers")

    numbers = NumbersAhead(fill, 4, SHAPE, torch.float32, _LateLanes(), thread)
    numbers(0)
    with pytest.raises(MemoryError, match="no more numbers"):
        numbers(1)
