"""Queries that are less certain than their images, and heads that begin with given weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.nn import functional as F

from rdm_batch.errors import CheckpointError, InvalidJobError
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.specs.training import KnnContinuousTraining, load_training
from rdm_batch.training.context import NeighborContext, QueryContext
from rdm_batch.training.queries import QueryDisturbance
from rdm_batch.training.train import train

SETTINGS: dict[str, Any] = {
    "train": "knn_continuous",
    "images": "shapes:train:24",
    "autoencoder": "package://shapes/rdm.safetensors",
    "encoder": "package://shapes/clip.safetensors",
    "database": "package://shapes/database",
    "k_train": 2,
    "preview_steps": 1,
    "unet": {
        "latent_channels": 6, "model_channels": 8, "channel_mult": [1], "num_res_blocks": 1,
        "norm_groups": 4, "attention_downsampling": [1], "head_channels": 8, "context_dim": 64,
    },
    "optimization": {"num_steps": 1, "batch_size": 4, "learning_rate": 1e-2, "seed": 1},
}  # fmt: skip


def _config(folder: Path, **changes: object) -> Path:
    path = folder / "knn.yaml"
    path.write_text(yaml.safe_dump({**SETTINGS, **changes}))
    return path


def _queries() -> torch.Tensor:
    return torch.randn(4_000, 64, generator=torch.Generator().manual_seed(3)) * 2 + 0.5


def test_nothing_is_disturbed_unless_asked_for(tmp_path: Path) -> None:
    plain = load_training(_config(tmp_path), "knn_continuous")
    assert isinstance(plain, KnnContinuousTraining)
    assert QueryDisturbance.of(plain) is None
    asked = plain.model_copy(update={"query_noise": 0.5, "query_drop": 0.25})
    assert QueryDisturbance.of(asked) == QueryDisturbance(noise=0.5, mix=0.0, drop=0.25)


def test_noise_turns_queries_and_keeps_their_lengths() -> None:
    queries = _queries()
    moved = QueryDisturbance(2.0, 0.0, 0.0)(queries, queries, torch.Generator().manual_seed(0))
    torch.testing.assert_close(moved.norm(dim=1), queries.norm(dim=1))
    # A random direction of 64 is nearly at a right angle: the tangent is the strength, to 2.
    cosine = F.cosine_similarity(moved, queries)
    strength = torch.linspace(0, 2, 1_001)
    expected = (1 + strength.square()).rsqrt()
    assert float(cosine.mean()) == pytest.approx(float(expected.mean()), abs=0.01)
    assert float(cosine.quantile(0.02)) == pytest.approx(float(expected.quantile(0.02)), abs=0.1)


def test_mixing_goes_towards_other_images() -> None:
    queries = _queries()
    other = torch.ones(1, 64)
    mixed = QueryDisturbance(0.0, 0.5, 0.0)(queries, other, torch.Generator().manual_seed(0))
    torch.testing.assert_close(mixed.norm(dim=1), queries.norm(dim=1))
    unit, towards = F.normalize(queries), F.normalize(other)
    before = (unit @ towards.T)[:, 0]
    after = (F.normalize(mixed) @ towards.T)[:, 0]
    assert bool((after >= before - 1e-5).all())
    halfway = (F.normalize(unit + towards) @ towards.T)[:, 0]
    assert bool((after <= halfway + 1e-5).all())
    # Nothing but the two: what is at a right angle to both stays away.
    plane = torch.stack([unit, F.normalize(towards - before[:, None] * unit)], dim=1)
    within = torch.einsum("npd,nd->np", plane, F.normalize(mixed))
    torch.testing.assert_close(within.norm(dim=1), torch.ones(len(queries)))


def test_a_share_of_queries_is_dropped_and_neighbors_stay() -> None:
    neighbors = NeighborContext(torch.zeros(1, 2).long(), torch.ones(1, 64), 2, 0.0)
    context = QueryContext(_queries()[:1], neighbors, 0.0, QueryDisturbance(0.0, 0.0, 0.3))
    shown = context(torch.zeros(4_000).long(), torch.Generator().manual_seed(0))
    assert bool((shown[:, 1:] == 1).all())
    dropped = (shown[:, 0] == 0).all(dim=1)
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.03)
    assert torch.equal(shown[~dropped, 0], _queries()[:1].expand(int((~dropped).sum()), -1))


def test_dropping_the_query_needs_neighbors(tmp_path: Path) -> None:
    with pytest.raises(InvalidJobError, match="query_drop leaves nothing to see"):
        load_training(_config(tmp_path, query_drop=0.2, k_train=0), "knn_continuous")


def test_training_goes_on_from_given_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rdm_batch.training.context.NUM_PREVIEWED", 2)
    first = train("knn_continuous", _config(tmp_path), tmp_path / "first")
    # So small a step is lost in float16.
    slowly = {**SETTINGS["optimization"], "learning_rate": 1e-12, "seed": 2}
    changes = {"initialize_from": str(first), "optimization": slowly}
    after = train("knn_continuous", _config(tmp_path, **changes), tmp_path / "after")
    anew = train("knn_continuous", _config(tmp_path, optimization=slowly), tmp_path / "anew")
    given, found = load_checkpoint(first).state_dict, load_checkpoint(after).state_dict
    assert all(torch.equal(tensor, found[name]) for name, tensor in given.items())
    assert anew.read_bytes() != after.read_bytes()
    wider = {**SETTINGS["unet"], "model_channels": 16}
    with pytest.raises(CheckpointError, match="weights of another network") as error:
        train("knn_continuous", _config(tmp_path, unet=wider, **changes), tmp_path / "wider")
    assert str(first) in str(error.value)
