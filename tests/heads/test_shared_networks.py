"""Heads of several samplings around one copy of the networks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rdm_batch.heads import build, knn_discrete, rarm, rdm, token_loop, unet_steps
from rdm_batch.heads.build import build_head_around, build_heads_around
from rdm_batch.heads.head import Head, HowDrawn
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import HeadNetworks, load_networks
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.edits import SdeditSpec
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.precisions import Precision
from rdm_batch.specs.sampling import (
    AutoguidanceSpec,
    AutoregressiveSampling,
    DdimSampling,
    MaskReplaceSampling,
    PlmsSampling,
    SamplingSpec,
)
from tests.tiny_heads import (
    TINY_KNN_CONTINUOUS,
    TINY_KNN_DISCRETE,
    TINY_RARM,
    TINY_RDM,
    random_weights,
)

NOISE = SampleNoise(0, np.arange(3))
CONTEXT = np.random.default_rng(0).standard_normal((3, 4, 6)).astype(np.float32)


def ddim(**settings: Any) -> DdimSampling:
    return DdimSampling(sampler="ddim", num_samples=3, **{"num_steps": 4} | settings)


def away(scale: float) -> AutoguidanceSpec:
    return AutoguidanceSpec(checkpoint="weaker", scale=scale)


DIFFUSION = (
    ddim(),
    ddim(guidance_scale=2.0, eta=1.0),
    ddim(guidance_scale=3.0, num_steps=6, reuse_deep_features=2),
    PlmsSampling(sampler="plms", num_steps=5, num_samples=3, guidance_scale=1.5),
)
CASES: dict[str, tuple[Architecture, tuple[SamplingSpec, ...]]] = {
    "rdm": (TINY_RDM, DIFFUSION),
    "query": (TINY_KNN_CONTINUOUS, DIFFUSION),
    "weaker": (
        TINY_RDM,
        (ddim(autoguidance=away(1.5)), ddim(autoguidance=away(3.0), num_steps=6)),
    ),
    "tokens": (
        TINY_RARM,
        (
            AutoregressiveSampling(sampler="autoregressive", num_samples=3),
            AutoregressiveSampling(
                sampler="autoregressive", num_samples=3, guidance_scale=2.0, top_k=4
            ),
        ),
    ),
    "codes": (
        TINY_KNN_DISCRETE,
        (
            MaskReplaceSampling(sampler="mask_replace", num_steps=3, num_samples=3),
            MaskReplaceSampling(
                sampler="mask_replace", num_steps=5, num_samples=3, guidance_scale=2.0
            ),
        ),
    ),
}


def _networks(name: str) -> tuple[HeadNetworks, HeadNetworks | None]:
    architecture = CASES[name][0]
    weights = random_weights(architecture)
    if name != "weaker":
        return load_networks(architecture, weights), None
    others = {
        key: value if key.startswith("first_stage_model.") else 0.8 * value
        for key, value in weights.items()
    }
    return load_networks(architecture, weights), load_networks(architecture, others)


def _shared(name: str, precision: Precision = "float32", compile: bool = False) -> list[Head]:
    networks, weaker = _networks(name)
    ways = [HowDrawn(sampling) for sampling in CASES[name][1]]
    return build_heads_around(networks, ways, "cpu", precision, compile, weaker)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_heads_that_share_networks_draw_what_heads_of_their_own_do(
    name: str, precision: Precision
) -> None:
    together = _shared(name, precision)
    images = [head.generate(CONTEXT, NOISE) for head in together]
    for sampling, found, head in zip(CASES[name][1], images, together, strict=True):
        networks, weaker = _networks(name)
        own = build_head_around(networks, sampling, "cpu", precision, weaker=weaker)
        assert np.array_equal(own.generate(CONTEXT, NOISE), found)
        # In any order, and after the others.
        assert np.array_equal(head.generate(CONTEXT, NOISE), found)
    assert len({image.tobytes() for image in images}) == len(images)


def test_edits_of_several_strengths_share_networks() -> None:
    edits = [SdeditSpec(method="sdedit", strength=strength) for strength in (0.5, 1.0)]
    pictures = np.random.default_rng(1).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    ways = [HowDrawn(ddim(), edit) for edit in (edits[0], None, edits[1])]
    heads = build_heads_around(_networks("rdm")[0], ways)
    for way, head in zip(ways, heads, strict=True):
        own = build_head_around(_networks("rdm")[0], way.sampling, edit=way.edit)
        assert isinstance(head, RdmHead)
        assert isinstance(own, RdmHead)
        if way.edit is None:
            assert np.array_equal(head.generate(CONTEXT, NOISE), own.generate(CONTEXT, NOISE))
        else:
            first, second = (
                one.start_edit(CONTEXT, pictures, NOISE).collect() for one in (head, own)
            )
            assert np.array_equal(first, second)


@pytest.mark.parametrize("name", ["rdm", "weaker", "codes"])
def test_networks_are_converted_and_compiled_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = {"compiled": 0, "converted": 0}

    def compiled(function: Any, _: torch.device) -> Any:
        counts["compiled"] += 1
        return function

    for module in (knn_discrete, rarm, rdm, token_loop, unet_steps):
        monkeypatch.setattr(module, "compiled", compiled)
    convert = build.NetworkHead._convert

    def converted(self: Any, networks: Any) -> None:
        counts["converted"] += 1
        convert(self, networks)

    monkeypatch.setattr(build.NetworkHead, "_convert", converted)
    networks, weaker = _networks(name)
    build_head_around(networks, CASES[name][1][0], compile=True, weaker=weaker)
    alone = dict(counts)
    counts.update(compiled=0, converted=0)
    heads = _shared(name, compile=True)
    assert counts == alone
    own = [head.generate(CONTEXT, NOISE) for head in _shared(name)]
    for head, image in zip(heads, own, strict=True):
        assert np.abs(head.generate(CONTEXT, NOISE).astype(int) - image).max() <= 1
