"""The whole way of a user who has published weights: their files, and all recorded cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.checkpoint import check_checkpoint, load_checkpoint
from rdm_batch.models.networks import load_networks
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.architecture_files import load_architecture
from tests.compare import relative_error
from tests.parity.conftest import RARM_MINI, RDM_MINI, multinomial
from tests.parity.recipe import rarm_weights, rdm_weights
from tests.tolerances import DECODED_REL, NETWORK_REL, REORDERED_REL


def _oracle(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "oracle.npz") as file:
        return dict(file)


@pytest.mark.parametrize(("name", "mini"), [("rdm_mini", RDM_MINI), ("rarm_mini", RARM_MINI)])
def test_published_config_gives_the_architecture(
    published_files: Path, name: str, mini: object
) -> None:
    assert load_architecture(published_files / name / "config.yaml") == mini


@pytest.mark.parametrize(("weights", "ema"), [("ema", True), ("raw", False)])
def test_published_rdm_checkpoint_loads(published_files: Path, weights: str, ema: bool) -> None:
    path = published_files / "rdm_mini" / "model.ckpt"
    info = check_checkpoint(path, RDM_MINI, weights)
    assert info.problems == ()
    assert info.has_ema
    loaded = load_checkpoint(path, RDM_MINI, weights).state_dict
    expected = rdm_weights(load_networks(RDM_MINI, loaded), ema)
    assert all(relative_error(loaded[name], expected[name]) <= REORDERED_REL for name in expected)


def test_published_rarm_checkpoint_loads(published_files: Path) -> None:
    path = published_files / "rarm_mini" / "model.ckpt"
    assert check_checkpoint(path, RARM_MINI).problems == ()
    loaded = load_checkpoint(path, RARM_MINI).state_dict
    expected = rarm_weights(load_networks(RARM_MINI, loaded))
    assert all(relative_error(loaded[name], expected[name]) <= REORDERED_REL for name in expected)


def test_every_recorded_rdm_chain_is_reproduced(published_files: Path) -> None:
    folder = published_files / "rdm_mini"
    oracle = _oracle(folder)
    loaded = load_checkpoint(folder / "model.ckpt", load_architecture(folder / "config.yaml"))
    schedule = NoiseSchedule.from_config(loaded.architecture.noise_schedule)
    head = RdmHead(
        load_networks(loaded.architecture, loaded.state_dict),
        DdimSolver(schedule, 5, 0.0, "published"),
        2.0,
    )
    cases = {name.split("/")[0] for name in oracle if name.startswith(("rdata_", "query_"))}
    assert len(cases) == 7
    for case in cases:
        latents = head.sample_latents(
            torch.from_numpy(oracle[f"{case}/context"]),
            torch.from_numpy(oracle[f"{case}/x_T"]),
            lambda step: torch.full((), torch.nan),
        )
        assert relative_error(latents, oracle[f"{case}/latent"]) <= NETWORK_REL, case
        images = head.decode(torch.from_numpy(oracle[f"{case}/latent"]))
        assert relative_error(images, oracle[f"{case}/image"]) <= DECODED_REL, case


def test_every_recorded_rarm_chain_is_reproduced(published_files: Path) -> None:
    folder = published_files / "rarm_mini"
    oracle = _oracle(folder)
    loaded = load_checkpoint(folder / "model.ckpt", load_architecture(folder / "config.yaml"))
    networks = load_networks(loaded.architecture, loaded.state_dict)
    scales = {
        "rdata_top0.5": 1.0,
        "rdata_top0.5_s2": 2.0,
        "caption_neighbours": 2.0,
        "only_caption": 2.0,
    }
    for case, scale in scales.items():
        noise = torch.from_numpy(oracle[f"{case}/exp_noise"])
        head = RarmHead(networks, TokenSampler(top_k=12), scale)
        drawn = head.sample_tokens(
            torch.from_numpy(oracle[f"{case}/context"]),
            multinomial(noise),
        )
        assert np.array_equal(drawn.tokens.numpy(), oracle[f"{case}/tokens"]), case
        images = head.decode(drawn.tokens)
        assert relative_error(images, oracle[f"{case}/image"]) <= DECODED_REL, case
