"""Look-ups that cells share are made once, also when several ask at the same time."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float32, Int64

from rdm_batch.generation.modes.mode import SampleInputs
from rdm_batch.retrieval.conditioning import Conditioning
from rdm_batch.retrieval.merge import Neighbors
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sweeps.lookups import SharedLookups


class NoRetriever:
    """Stand for a database that nobody asks."""

    rows = dim = 2

    def search(self, queries: Float32[np.ndarray, "n dim"], k: int) -> Neighbors:
        raise NotImplementedError

    def fetch(self, ids: Int64[np.ndarray, " n"]) -> Float32[np.ndarray, "n dim"]:
        raise NotImplementedError

    def thumbnails(self, ids: Int64[np.ndarray, " n"]) -> list[bytes]:
        raise NotImplementedError


NO_RETRIEVER = NoRetriever()


class Counting:
    """Count what is looked up, and fail as often as told."""

    def __init__(self, failures: int = 0) -> None:
        self.asked: list[int] = []
        self.failures = failures
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        self.asked.append(int(noise.sample_indices[0]))
        self.begun.set()
        self.go_on.wait(30)
        if self.failures:
            self.failures -= 1
            raise ValueError("lost")
        none = np.empty((len(noise), 0))
        context = np.zeros((len(noise), 1, 2), dtype=np.float32)
        return SampleInputs(Conditioning(context, none.astype(np.int64), none.astype(np.float32)))


def noise(first: int, seed: int = 0) -> SampleNoise:
    return SampleNoise(seed, np.arange(first, first + 4, dtype=np.int64))


def test_a_shard_is_looked_up_once_whoever_asks() -> None:
    plain = Counting()
    plain.go_on.clear()
    shared: Any = SharedLookups(plain)
    with ThreadPoolExecutor(3) as pool:
        waiting = [pool.submit(shared, noise(0), NO_RETRIEVER) for _ in range(3)]
        assert plain.begun.wait(30)
        plain.go_on.set()
        found = [call.result() for call in waiting]
    assert plain.asked == [0]
    assert found[0] is found[1] is found[2]
    shared(noise(4), NO_RETRIEVER)
    shared(noise(0, seed=1), NO_RETRIEVER)
    assert plain.asked == [0, 4, 0]


def test_a_failure_is_told_and_tried_again() -> None:
    plain = Counting(failures=1)
    shared = SharedLookups(plain)
    with pytest.raises(ValueError, match="lost"):
        shared(noise(0), NO_RETRIEVER)
    assert len(shared(noise(0), NO_RETRIEVER).conditioning.context) == 4
    assert plain.asked == [0, 0]


def test_memory_is_bounded() -> None:
    plain = Counting()
    shared = SharedLookups(plain)
    for first in range(0, 40, 4):
        shared(noise(first), NO_RETRIEVER)
    shared(noise(36), NO_RETRIEVER)
    assert len(plain.asked) == 10
    shared(noise(0), NO_RETRIEVER)
    assert len(plain.asked) == 11
