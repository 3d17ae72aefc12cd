from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.sampling import noise
from rdm_batch.sampling.noise import SampleNoise


def _indices(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_a_sample_draws_the_same_in_any_batch(kind: str) -> None:
    together = getattr(SampleNoise(7, _indices(5, 0, 9)), kind)(noise.START, (2, 3))
    alone = getattr(SampleNoise(7, _indices(0)), kind)(noise.START, (2, 3))
    assert np.array_equal(together[1], alone[0])


def test_noise_is_numpys_philox_keyed_by_seed_and_sample() -> None:
    philox = np.random.Philox(
        key=np.array([7, 3], dtype=np.uint64), counter=np.array([0, 0, 0, 2], dtype=np.uint64)
    )
    expected = np.random.Generator(philox).standard_normal((4, 4), dtype=np.float32)
    assert np.array_equal(SampleNoise(7, _indices(3)).normal(noise.START, (4, 4))[0], expected)


def test_recorded_values_hold() -> None:
    drawn = SampleNoise(1, _indices(2)).uniform(noise.QUERY, (2,))[0]
    assert drawn.tolist() == [0.30931491118583454, 0.3569562367935075]


def test_seeds_samples_and_streams_differ() -> None:
    streams = [noise.QUERY, noise.POOL, noise.START, noise.TOKENS]
    streams += [noise.step_stream(0), noise.step_stream(1)]
    draws = {
        SampleNoise(seed, _indices(index)).normal(stream, (8,)).tobytes()
        for seed in (0, 1)
        for index in (0, 1)
        for stream in streams
    }
    assert len(draws) == 4 * len(streams)


def test_an_odd_number_of_draws_leaves_nothing_for_the_next_sample() -> None:
    drawn = SampleNoise(0, _indices(1, 1)).normal(noise.START, (3,))
    assert np.array_equal(drawn[0], drawn[1])


def test_distributions_have_their_moments() -> None:
    source = SampleNoise(3, np.arange(50, dtype=np.int64))
    normal = source.normal(noise.START, (400,))
    uniform = source.uniform(noise.QUERY, (400,))
    # 20,000 draws: five standard errors of a mean of unit variance are 0.035.
    assert abs(normal.mean()) < 0.035
    assert abs(normal.std() - 1) < 0.035
    assert abs(uniform.mean() - 0.5) < 0.035
    assert uniform.min() >= 0
    assert uniform.max() < 1
