from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from rdm_batch.errors import DatabaseError
from rdm_batch.inputs.databases import open_database
from rdm_batch.retrieval.mixtures import between, mixed_neighbors
from tests.job_kit import DIM, write_database

RNG = np.random.default_rng(0)


def _pairs(count: int = 5, dim: int = 16) -> tuple[np.ndarray, np.ndarray]:
    start, end = (RNG.normal(size=(count, dim)).astype(np.float32) for _ in range(2))
    return start, end


@pytest.mark.parametrize("path", ["spherical", "linear"])
def test_the_ends_of_a_path_are_met_to_the_bit(path: str) -> None:
    start, end = _pairs()
    np.testing.assert_array_equal(between(start, end, np.zeros(5), path), start)
    np.testing.assert_array_equal(between(start, end, np.ones(5), path), end)


def test_directions_go_along_the_great_circle_as_rotations_do() -> None:
    # Unit quaternions are what the formula was made for; SciPy mixes them by itself.
    turns = Rotation.random(2, rng=np.random.default_rng(3))
    start, end = turns.as_quat(canonical=True)
    if start @ end < 0:
        end = -end  # rotations take the shorter way around
    weights = np.linspace(0, 1, 7)
    expected = Slerp([0, 1], turns)(weights).as_quat()
    found = between(np.tile(start, (7, 1)), np.tile(end, (7, 1)), weights)
    signs = np.sign(np.vecdot(found, expected))[:, None]
    np.testing.assert_allclose(found, signs * expected, atol=1e-6)


def test_lengths_go_linearly() -> None:
    start, end = _pairs()
    mixed = between(2 * start, 5 * end, np.full(5, 0.25))
    lengths = [np.linalg.norm(rows, axis=1) for rows in (2 * start, 5 * end, mixed)]
    np.testing.assert_allclose(lengths[2], 0.75 * lengths[0] + 0.25 * lengths[1], rtol=1e-5)


def test_equal_and_nearly_equal_directions_are_mixed() -> None:
    start, _ = _pairs()
    np.testing.assert_allclose(between(start, start, np.full(5, 0.3)), start, rtol=1e-6)
    near = start * (1 + 1e-6)
    np.testing.assert_allclose(between(start, near, np.full(5, 0.3)), start, rtol=1e-5)


def test_a_pair_does_not_depend_on_the_others() -> None:
    start, end = _pairs(33)
    weights = RNG.random(33)
    together = between(start, end, weights)
    for row in (0, 17, 32):
        part = slice(row, row + 1)
        np.testing.assert_array_equal(
            between(start[part], end[part], weights[part]), together[part]
        )


def test_opposite_directions_have_no_way_between_them() -> None:
    start, _ = _pairs()
    with pytest.raises(DatabaseError, match="pair 0 points in opposite directions"):
        between(start, -start, np.full(5, 0.5))
    with pytest.raises(DatabaseError, match="mixture: row 0 has norm 0"):
        between(start, -start, np.full(5, 0.5), "linear")


def test_neighbors_turn_toward_their_query_and_keep_their_lengths(tmp_path: Path) -> None:
    write_database(tmp_path / "db")
    retriever = open_database(tmp_path / "db")
    queries = RNG.normal(size=(3, DIM)).astype(np.float32)
    plain = retriever.search(queries, 4)
    found = {weight: mixed_neighbors(retriever, queries, 4, weight) for weight in (0.0, 0.4, 1.0)}
    np.testing.assert_array_equal(found[0.0].context, plain.embeddings)
    np.testing.assert_array_equal(found[0.4].neighbor_ids, plain.ids)
    lengths = np.linalg.norm(plain.embeddings, axis=2)
    unit = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    for weight, conditioning in found.items():
        np.testing.assert_allclose(np.linalg.norm(conditioning.context, axis=2), lengths, rtol=1e-5)
        cosines = np.vecdot(conditioning.context, unit[:, None]) / lengths
        expected = np.cos((1 - weight) * np.arccos(plain.scores.astype(np.float64)))
        np.testing.assert_allclose(cosines, expected, atol=1e-5)
