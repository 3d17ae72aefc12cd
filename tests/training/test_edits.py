"""Training for edits: partners laid over pictures, boxes, the layer that sees what is given."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console

from rdm_batch.databases.build import build_database
from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.errors import (
    CheckpointError,
    DatabaseError,
    InvalidJobError,
    RdmBatchError,
    SpecError,
)
from rdm_batch.inputs.encoders import load_named_encoder
from rdm_batch.models.checkpoint import load_checkpoint
from rdm_batch.models.networks import KnnContinuousNetworks, build_networks
from rdm_batch.models.query_unet import QueryUNet
from rdm_batch.reports.progress import Progress
from rdm_batch.specs.database import DatabaseBuild, EncodeSettings
from rdm_batch.training.alignment import AlikePartners, Pairs, align_all, aligned, opencv
from rdm_batch.training.context import NoContext
from rdm_batch.training.edits import EditObjective, draw_boxes, widened
from rdm_batch.training.loop import TrainingLoop
from rdm_batch.training.train import train
from tests.tiny_heads import TINY_KNN_CONTINUOUS, random_weights

UNET = {
    "latent_channels": 6, "model_channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1,
    "norm_groups": 4, "attention_downsampling": [2], "head_channels": 8, "context_dim": 64,
}  # fmt: skip
SETTINGS: dict[str, Any] = {
    "images": "shapes:train:24",
    "autoencoder": "package://shapes/rdm.safetensors",
    "encoder": "package://shapes/clip.safetensors",
    "neighbors_found": 4,
    "k_train": 2,
    "unet": UNET,
    "preview_steps": 2,
    "optimization": {
        "num_steps": 4, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every": 2, "seed": 1,
    },
}  # fmt: skip


def _disc(at: tuple[int, int], radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:32, :32]
    inside = (rows - at[0]) ** 2 + (columns - at[1]) ** 2 < radius**2
    image = np.full((32, 32, 3), 40, np.uint8)
    image[inside] = (200, 120, 220)
    return image


def test_a_moved_picture_is_laid_over_the_other() -> None:
    image, other = _disc((14, 13), 7), _disc((17, 16), 8)
    found = aligned(opencv(), image, other)
    assert found is not None
    laid, correlation = found
    assert correlation > 0.95
    before = np.abs(other.astype(int) - image).mean()
    assert np.abs(laid.astype(int) - image).mean() < 0.35 * before


def test_partners_that_do_not_fit_are_left_out() -> None:
    image, other, flat = _disc((14, 13), 7), _disc((17, 16), 8), np.full((32, 32, 3), 9, np.uint8)
    images = np.stack([image] * 3)
    pairs = align_all(images, lambda row: (other, flat, other)[row], 0.5)
    assert pairs.rows.tolist() == [0, 2]
    assert (pairs.num_skipped, pairs.skipped_share) == (1, 1 / 3)
    with pytest.raises(SpecError, match=r"least_correlation: is 1, which no partner of 3"):
        align_all(images, lambda row: flat, 1.0)


def test_alike_partners_are_those_drawn_whose_pixels_differ_least() -> None:
    source = ShapesSource("database", 40)
    pool = np.stack([source[index].image for index in range(40)])
    partners = AlikePartners(pool[:5], pool, 2_000, 0)
    for row in range(5):  # of so many draws one is the picture itself
        assert np.array_equal(partners(row), pool[row])
    few, again = (AlikePartners(pool[:5], pool, 4, 1) for _ in range(2))
    assert all(np.array_equal(few(row), again(row)) for row in range(5))


def test_one_to_four_boxes_of_stated_sides_are_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    one = draw_boxes(500, 32, 32, 1, generator)
    heights, widths = one.any(2).sum(1), one.any(1).sum(1)
    assert torch.equal(one.sum((1, 2)), heights * widths)
    assert int(heights.min()) == int(widths.min()) == 8
    assert 23 <= int(heights.max()) <= 24
    several = draw_boxes(500, 32, 32, 4, generator).float().mean((1, 2))
    assert float(several.min()) >= 1 / 16
    assert float(several.max()) < 1
    assert several.mean() > 1.5 * one.float().mean()
    assert float(one.float().mean(0).max()) < 0.9  # everywhere, not in the middle alone


@pytest.mark.parametrize(
    ("share", "whole"), [(0.0, range(1)), (0.5, range(35, 66)), (1.0, range(100, 101))]
)
def test_a_share_of_the_pictures_is_replaced_as_a_whole(share: float, whole: range) -> None:
    images, partners = torch.zeros(100, 32, 32, 3).byte(), torch.ones(100, 32, 32, 3).byte()
    rows = torch.arange(100)
    pairs = Pairs(rows.numpy(), partners.numpy(), 0)
    networks = build_networks(TINY_KNN_CONTINUOUS)
    assert isinstance(networks, KnnContinuousNetworks)
    objective = EditObjective(
        torch.zeros(100, 3, 8, 8), images, pairs, 1, share, networks.autoencoder, NoContext(6),
        networks.unet, TINY_KNN_CONTINUOUS,
    )  # fmt: skip
    replaced = objective.replaced(rows, torch.Generator().manual_seed(2))
    assert int(replaced.flatten(1).all(1).sum()) in whole
    assert bool(replaced.flatten(1).any(1).all())


def test_a_head_starts_from_what_it_was_before_it_saw_pictures() -> None:
    weights = random_weights(TINY_KNN_CONTINUOUS)
    sizes = TINY_KNN_CONTINUOUS.unet
    before = QueryUNet(sizes)
    prefix = "model.diffusion_model."
    own = {name.removeprefix(prefix): t for name, t in weights.items() if name.startswith(prefix)}
    before.load_state_dict(own)
    after = QueryUNet(sizes.model_copy(update={"source_channels": sizes.latent_channels}))
    after.load_state_dict(widened(own, after))
    x, source, context = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8), torch.randn(2, 4, 6)
    times = torch.tensor([3, 700])
    shown = after(torch.cat([x, source], dim=1), times, context)
    torch.testing.assert_close(shown, before(x, times, context))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a head to start from, and build databases with and without pixels."""
    root = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patch, Progress(Console(file=io.StringIO())) as progress:
        patch.setattr("rdm_batch.training.context.NUM_PREVIEWED", 2)
        for name, size in (("pixels", 32), ("small", 16), ("none", None)):
            build_database(
                DatabaseBuild(
                    images="shapes:database:40",
                    out=str(root / name),
                    encode=EncodeSettings(store_images=size),
                ),
                lambda device: load_named_encoder("shapes-clip", None, device),
                progress,
            )
        _train("knn_continuous", root / "head", database=str(root / "pixels"))
    return root


def _train(kind: str, out: Path, resume: bool = False, **changes: Any) -> Path:
    out.mkdir(exist_ok=True)
    config = out / "config.yaml"
    config.write_text(yaml.safe_dump({"train": kind, **SETTINGS, **changes}))
    return train(kind, config, out, resume)


def _settings(begun: Path, **changes: Any) -> dict[str, Any]:
    return {
        "initialize_from": str(begun / "head/weights.safetensors"),
        "database": str(begun / "pixels"),
        "partner": "alike",
        "least_correlation": 0.3,
        **changes,
    }


@pytest.mark.parametrize("partner", ["alike", "nearest", "alike, by content"])
def test_the_command_trains_and_resumes_bit_for_bit(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partner: str
) -> None:
    monkeypatch.setattr("rdm_batch.training.context.NUM_PREVIEWED", 2)
    settings = _settings(begun, partner=partner.split(",")[0])
    if "content" in partner:
        settings |= {"context": "content", "whole_share": 0.5}
    weights = _train("knn_edit", tmp_path / "whole", **settings)
    architecture = load_checkpoint(weights, None).architecture
    assert architecture.unet.source_channels == 6
    found = json.loads((tmp_path / "whole/pairs.json").read_text())
    assert found["pictures"] == 24
    assert 0 < found["skipped"] < 24
    assert found["share"] == found["skipped"] / 24
    if partner == "nearest":
        return
    whole = TrainingLoop.run
    with monkeypatch.context() as patch:
        patch.setattr(TrainingLoop, "run", lambda loop: whole(loop, stop_after=2))
        _train("knn_edit", tmp_path / "again", **settings)
    again = _train("knn_edit", tmp_path / "again", resume=True, **settings)
    assert again.read_bytes() == weights.read_bytes()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"database": "none"}, DatabaseError, "database: .* does not keep the pixels"),
        ({"database": "small"}, SpecError, "keeps pictures of 16 x 16; needed 32 x 32"),
        ({"database": "small", "context": "content"}, SpecError, "keeps pictures of 16 x 16"),
        ({"context": "content", "k_train": 0}, InvalidJobError, "k_train must not be 0"),
        (
            {"context": "content", "query_mix": 1.0},
            InvalidJobError,
            "do not change: leave them out",
        ),
        ({"partner": "nearest", "k_train": 0}, SpecError, "partner: is 'nearest', but k_train is"),
        (
            {"initialize_from": "package://shapes/rdm.safetensors"},
            CheckpointError,
            "holds a 'rdm' head",
        ),
        ({"unet": {**UNET, "model_channels": 16}}, CheckpointError, "has other sizes or latents"),
    ],
)
def test_what_does_not_fit_is_refused(
    begun: Path, tmp_path: Path, changes: dict[str, Any], error: type[RdmBatchError], message: str
) -> None:
    if "database" in changes:
        changes = {"database": str(begun / changes["database"])}
    with pytest.raises(error, match=message):
        _train("knn_edit", tmp_path / "out", **_settings(begun, **changes))


def test_without_opencv_the_extra_is_named(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(SpecError, match=r"OpenCV, which is not installed.*rdm_batch\[edit\]"):
        _train("knn_edit", tmp_path / "out", **_settings(begun))
