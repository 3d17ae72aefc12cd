"""The experiment itself, with tiny heads that know nothing in place of the shipped ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.experiments import knn
from benchmarks.experiments.cases import Case, World
from benchmarks.experiments.judge import Judge
from benchmarks.records import read_record
from rdm_batch.models.checkpoint import save_checkpoint
from tests.tiny_heads import TINY_KNN_CONTINUOUS, TINY_KNN_DISCRETE, random_weights

FACT = {"shape": "star", "color": "red", "style": "dotted"}


class _World(World):
    """Contexts of the tiny heads, wanted to show one thing."""

    encoder: Any = None

    def __init__(self, encoder_uri: str = "") -> None:
        pass

    def _case(self, count: int, k_nn: int) -> Case:
        rng = np.random.default_rng(0)
        return Case(rng.standard_normal((count, k_nn, 6)), [FACT] * count)

    def texts(self, count: int, variant: Any, held_out_pairs: bool = False, k_nn: int = 4) -> Case:
        return self._case(count, k_nn)

    def unconditional(self, count: int, top_m: float = 1.0, k_nn: int = 4) -> Case:
        return self._case(count, k_nn)


class _Judge(Judge):
    """Sees a red star in the first half of the pictures."""

    def attributes(self, images: np.ndarray) -> list[dict[str, str]]:
        half = len(images) // 2
        return [FACT] * half + [{**FACT, "color": "blue"}] * (len(images) - half)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, architecture in (
        ("continuous", TINY_KNN_CONTINUOUS),
        ("discrete", TINY_KNN_DISCRETE),
    ):
        for twin in ("", "_twin"):
            path = tmp_path / f"knn_{name}{twin}.safetensors"
            save_checkpoint(path, architecture, random_weights(architecture))
    monkeypatch.setattr(knn, "World", _World)
    monkeypatch.setattr(knn, "Scorer", lambda encoder: lambda images: {"fid": 2.0, "recall": 0.5})
    monkeypatch.setattr(
        knn, "query_claims",
        lambda world, count, k_nn: {
            name: world.texts(count, "query", k_nn=k_nn) for name in ("text", "unconditional")
        },
    )  # fmt: skip
    monkeypatch.setattr(knn, "STEPS", {"continuous": 2, "discrete": 2})
    monkeypatch.setattr(knn, "CODE_STEPS", (4, 2))
    monkeypatch.setattr(knn, "K_CURVE", (1, 3))
    return tmp_path


def test_every_row_is_kept_with_its_error_and_what_is_needed(weights: Path) -> None:
    file = weights / "knn.json"
    parts = ["--parts", "claims", "gap", "k", "steps"]
    knn.main(
        ["--samples", "4", "--weights", str(weights), "--json", str(file), *parts,
         "--pictures", str(weights / "pictures")],
        _Judge(),
    )  # fmt: skip
    record = read_record(file)
    assert record is not None
    found = {part.name: {row.name: row for row in part.rows} for part in record.parts}
    heads = ("continuous", "discrete")
    names = {f"{part}, {head}" for part in ("claims", "gap", "k") for head in heads}
    assert set(found) == names | {"steps, discrete"}
    text = found["claims, continuous"]["text"]
    assert (text.value, text.needed, text.met) == (0.5, 0.95, False)
    assert text.details["error"] == 0.25
    gain = found["gap, discrete"]["gap: gain of neighbors over the twin"]
    assert (gain.value, gain.needed) == (0.0, 0.1)
    assert [row.details["k"] for row in found["k, discrete"].values()] == [1, 3]
    # The fewest steps stand beside the most.
    assert found["steps, discrete"]["2 steps"].needed == 1.3 * 2.0
    assert (weights / "pictures" / "knn-discrete-text.png").exists()


def test_an_fid_is_held_against_the_better_of_the_others() -> None:
    assert knn.fid_row("a", {"fid": 0.6}, 1.5 * 0.5).met
    assert knn.fid_row("a", {"fid": 0.8}, 1.5 * 0.5).met is False
    assert knn.share_error(0.5, 100) == 0.05
