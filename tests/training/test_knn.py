"""What KNN-Diffusion is trained with: its context, the loss over codes, its times."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule
from rdm_batch.specs.networks import CodeTransformerConfig
from rdm_batch.training.context import NeighborContext, QueryContext, _without_itself
from rdm_batch.training.knn_discrete import KnnDiscreteObjective
from rdm_batch.training.loop import TrainingLoop
from rdm_batch.training.train import train

CODES, POSITIONS, TIMES = 8, 4, 10
SIZES = CodeTransformerConfig(
    codebook_size=CODES, depth=1, num_heads=2, head_channels=4, context_dim=6, grid_size=2,
    num_times=TIMES, marks_query=True,
)  # fmt: skip


def _objective(num_images: int = 64) -> KnnDiscreteObjective:
    torch.manual_seed(0)
    codes = torch.randint(0, CODES, (num_images, POSITIONS))
    context = QueryContext(torch.randn(num_images, 6), None, 0.1)
    return KnnDiscreteObjective(codes, context, SIZES, 5e-4, torch.randn(CODES, 3))


def test_the_context_is_the_image_then_its_neighbors_or_nothing() -> None:
    queries, embeddings = torch.randn(5, 3), torch.randn(7, 3)
    neighbor_ids = torch.arange(15).reshape(5, 3) % 7
    neighbors = NeighborContext(neighbor_ids, embeddings, 2, 0.0)
    rows = torch.tensor([4, 0])
    context = QueryContext(queries, neighbors, 0.0)(rows, torch.Generator())
    assert torch.equal(context[:, 0], queries[rows])
    assert torch.equal(context[:, 1:], embeddings[neighbor_ids[rows][:, :2]])
    without = QueryContext(queries, neighbors, 0.5)(torch.zeros(400).long(), torch.Generator())
    dropped = (without == 0).all(2)
    assert torch.equal(dropped.all(1), dropped.any(1))
    assert 150 < int(dropped[:, 0].sum()) < 250
    assert QueryContext(queries, None, 0.0)(rows, torch.Generator()).shape == (2, 1, 3)


def test_an_image_is_no_neighbor_of_itself() -> None:
    ids = np.array([[5, 1, 2], [3, 4, 6]])
    scores = np.array([[1.0, 0.9, 0.8], [0.99, 0.9, 0.8]], np.float32)
    assert _without_itself(ids, scores).tolist() == [[1, 2], [3, 4]]


def test_the_mean_loss_is_that_of_all_times_however_they_are_drawn() -> None:
    objective = _objective()
    network = objective.network.network
    with torch.no_grad():
        network.out.weight.zero_()
        network.out.bias.zero_()
    losses = [
        float(objective.loss(step, torch.arange(64), torch.Generator().manual_seed(step)).detach())
        for step in range(80)
    ]
    # Codes that all are equally likely: every kept one and every mask costs the same.
    schedule = MaskReplaceSchedule.linear(CODES, TIMES)
    log_clean = torch.full((TIMES, 2, CODES), -math.log(CODES))
    states = torch.tensor([0, CODES]).expand(TIMES, 2)
    times = torch.arange(1, TIMES + 1)
    bound, surprise = schedule.bound(log_clean, torch.zeros(TIMES, 2).long(), states, times)
    torch.testing.assert_close(surprise, torch.full((TIMES, 2), math.log(CODES)))
    chances = torch.from_numpy(np.stack([schedule.kept, schedule.masked], axis=1))[1:]
    expected = float((chances * bound).sum(1).mean())
    expected += 5e-4 * math.log(CODES) * (1.5 - 0.5 / TIMES)
    # Times of large losses come oftener than others after the first two steps.
    assert int(objective.network.draws.max()) > 2 * int(objective.network.draws.median())
    assert np.mean(losses) == pytest.approx(TIMES * expected, rel=0.05)


def test_training_lowers_the_loss() -> None:
    objective = _objective(8)
    optimizer = torch.optim.Adam(objective.network.parameters(), 1e-2)
    losses = []
    for step in range(150):
        generator = torch.Generator().manual_seed(step)
        loss = objective.loss(step, torch.arange(8).repeat(4), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])


def test_times_are_drawn_by_their_losses_once_all_were_seen() -> None:
    objective = _objective()
    times, share = objective._draw_times(20_000, torch.Generator())
    assert (share == 1).all()
    assert set(times.tolist()) == set(range(1, TIMES + 1))
    objective.network.draws.fill_(10)
    objective.network.squares.copy_(torch.arange(TIMES).double().square())
    times, share = objective._draw_times(200_000, torch.Generator())
    counts = np.bincount(times.numpy(), minlength=TIMES + 1)[1:] / 200_000
    expected = 0.999 * np.arange(TIMES) / np.arange(TIMES).sum() + 0.001 / TIMES
    np.testing.assert_allclose(counts, expected, atol=4e-3)
    # Dividing by the share makes up for it: the mean over times is that of uniform draws.
    assert float((1 / share).mean()) == pytest.approx(1, abs=0.2)


OPTIMIZATION = {
    "num_steps": 4, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 2, "seed": 1,
}  # fmt: skip


DISCRETE = {
    "train": "knn_discrete",
    "autoencoder": "package://shapes/rarm.safetensors",
    "transformer": {"depth": 1, "num_heads": 2, "head_channels": 4, "context_dim": 64},
}
CONTINUOUS = {
    "train": "knn_continuous",
    "autoencoder": "package://shapes/rdm.safetensors",
    "query_noise": 0.5, "query_mix": 0.5, "query_drop": 0.25,
    "unet": {
        "latent_channels": 6, "model_channels": 8, "channel_mult": [1, 2],
        "num_res_blocks": 1, "norm_groups": 4,
        "attention_downsampling": [2], "head_channels": 8, "context_dim": 64,
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "k_train"), [(DISCRETE, 0), (DISCRETE, 3), (CONTINUOUS, 2)])
def test_the_command_trains_and_resumes_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: dict[str, Any], k_train: int
) -> None:
    monkeypatch.setattr("rdm_batch.training.context.NUM_PREVIEWED", 4)
    settings = {
        **kind,
        "images": "shapes:train:24",
        "encoder": "package://shapes/clip.safetensors",
        "database": "package://shapes/database",
        "k_train": k_train,
        "preview_steps": 2,
        "optimization": OPTIMIZATION,
    }
    config = tmp_path / "knn.yaml"
    config.write_text(yaml.safe_dump(settings))
    weights = train(kind["train"], config, tmp_path / "whole")
    loaded = load_checkpoint(weights)
    assert loaded.architecture.kind == kind["train"]
    assert ShapesSource("train", 24)[0].image.shape[0] == loaded.architecture.image_size
    whole = TrainingLoop.run
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "run", lambda loop: whole(loop, stop_after=2))
        train(kind["train"], config, tmp_path / "again")
    again = train(kind["train"], config, tmp_path / "again", resume=True)
    assert again.read_bytes() == weights.read_bytes()
