"""Time each change from the published procedure to the head's, one on top of the other.

One evaluation of the network: a solver step of a UNet, or a token in the middle of an image.
A change's predicted gain is what the counts say: operations at the measured rate of products,
plus the memory traffic of every operation at the measured rate of memory. A change of memory
layout changes no counts, so its prediction is none; nor are the multiplications counted that
filtering saves: operations are those of plain convolutions everywhere, and so are the floors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.heads import published_procedure as published
from benchmarks.heads.code_changes import code_variants
from benchmarks.heads.counting import Machine, count_work
from benchmarks.heads.procedures import (
    Settings,
    integrate_published_tokens,
    normal,
    rarm_networks,
    rdm_networks,
)
from benchmarks.heads.variants import Variant
from benchmarks.timing import best_time
from rdm_batch.backends import multiplying
from rdm_batch.heads.native_tokens import NativeTransformer, can_draw_natively
from rdm_batch.models.filtering import filter_convolutions
from rdm_batch.models.packed import can_pack, pack_linears
from rdm_batch.models.query_unet import QueryUNet, both_branches
from rdm_batch.models.streamed import stream_linears
from rdm_batch.models.unet import TimeBiases
from rdm_batch.specs.families import Architecture, RarmArchitecture, RdmArchitecture


@dataclass(frozen=True)
class Change:
    """What a change was predicted to gain, and gained.

    Attributes:
        change: What it does that the one before does not.
        gflop: Counted for the evaluation.
        gbyte: Counted likewise.
        ms: Measured.
        predicted: Time before over time after by the counts; None where they are the same.
        measured: Likewise by the clock.
    """

    change: str
    gflop: float
    gbyte: float
    ms: float
    predicted: float | None
    measured: float


@multiplying()
def measure_changes(
    architecture: Architecture, settings: Settings, machine: Machine
) -> list[Change]:
    """Time every variant in IEEE float32, and count its work."""
    make: Callable[[Any, Settings, str], Iterator[Variant]]
    if isinstance(architecture, RdmArchitecture):
        make = _unet_variants
    elif isinstance(architecture, RarmArchitecture):
        make = _transformer_variants
    else:
        make = code_variants
    counted = [
        count_work(variant.run, torch.nn.Module())
        for variant in make(architecture, settings, "meta")
    ]
    found: list[Change] = []
    before_s, before_ms = 0.0, 0.0
    for variant, work in zip(make(architecture, settings, settings.device), counted, strict=True):
        ms = 1e3 * best_time(variant.run, settings.repeats, settings.device)
        work_s = work.unhidden_s(machine)
        found.append(
            Change(
                variant.change,
                work.flops / 1e9,
                work.num_bytes / 1e9,
                ms,
                before_s / work_s if found and variant.counts else None,
                before_ms / ms if found else 1.0,
            )
        )
        before_s, before_ms = work_s, ms
    return found


def _unet_variants(
    architecture: RdmArchitecture, settings: Settings, device: str
) -> Iterator[Variant]:
    """Evaluate both guidance branches of a step; every variant changes the network it is given."""
    unet = rdm_networks(architecture, device).unet
    x = normal((settings.batch, *architecture.latent_shape), device)
    context = normal((settings.batch, settings.k_nn, architecture.context_dim), device)
    times = torch.full((settings.batch,), 500, device=device)
    both = torch.cat([context, torch.zeros_like(context)])
    twice = torch.cat([x, x]), torch.cat([times, times]), both
    yield Variant("published procedure", True, lambda: published.predict_noise(unet, *twice))
    yield Variant("fused attention", True, lambda: unet(*twice))
    biases, rows = unet.time_biases(times[:1]), x
    if isinstance(unet, QueryUNet):
        # The query enters with the time: from there on the branches differ.
        rows, time = twice[0], unet.time_embeddings(times[:1])
        query = both_branches(unet.query_embed(context[:, 0]))

    def added() -> TimeBiases:
        return unet.biases(time, query) if isinstance(unet, QueryUNet) else biases

    features = unet.context_features(context, guided=True)
    yield Variant(
        "nothing twice, nothing for the zero context",
        True,
        lambda: unet.predict(rows, added(), features),
    )
    unet.to(memory_format=torch.channels_last)
    last = rows.contiguous(memory_format=torch.channels_last)
    yield Variant("channels last", False, lambda: unet.predict(last, added(), features))
    if device == "cpu" and can_pack(torch.float32):
        pack_linears(unet)
    yield Variant(
        "packed linear layers (CPU)", False, lambda: unet.predict(last, added(), features)
    )
    if device == "cpu":
        filter_convolutions(unet)
    yield Variant(
        "half the multiplications of convolutions (CPU)",
        False,
        lambda: unet.predict(last, added(), features),
    )


def _transformer_variants(
    architecture: RarmArchitecture, settings: Settings, device: str
) -> Iterator[Variant]:
    """Evaluate both guidance branches of the token halfway through an image."""
    transformer = rarm_networks(architecture, device).transformer
    context = normal((settings.batch, settings.k_nn, architecture.context_dim), device)
    both = torch.cat([context, torch.zeros_like(context)])
    position = architecture.transformer.num_positions // 2
    tokens = torch.ones(settings.batch, position + 1, dtype=torch.int64, device=device)
    twice = torch.cat([tokens, tokens])
    yield Variant(
        "published procedure", True, lambda: published.next_logits(transformer, twice, both)
    )
    yield Variant("fused attention", True, lambda: transformer(twice, both)[:, -1])
    generation = transformer.start(context, guided=True)

    def next_logits() -> Tensor:
        return transformer.next_logits(tokens[:, 0], position, generation)

    yield Variant("earlier keys and values kept, neighbors projected once", True, next_logits)
    if device == "cpu" and can_pack(torch.float32):
        pack_linears(transformer)
    yield Variant("packed linear layers (CPU)", False, next_logits)
    streamed = rarm_networks(architecture, device).transformer
    if device == "cpu":
        stream_linears(streamed)
    begun = streamed.start(context, guided=True)
    yield Variant(
        "weights in the order they are read in (CPU)",
        False,
        lambda: streamed.next_logits(tokens[:, 0], position, begun),
    )
    if not settings.compile:
        return
    evaluate = next_logits
    drawn_from = rarm_networks(architecture, device).transformer
    if device == "cpu" and can_draw_natively(drawn_from):
        native = NativeTransformer(drawn_from)
        started = native.start(context, guided=True)

        def evaluate() -> Tensor:
            return native.next_logits(tokens[:, 0], position, started)

    yield Variant("a kernel for all of a token (CPU, compiled)", False, evaluate)


@torch.inference_mode()
def check_integration(architecture: RarmArchitecture, settings: Settings) -> dict[str, float]:
    """Draw every token of one image by the published procedure, beside the estimate of it.

    With a single block and a single sample, so that it ends soon; the widths, the number of
    tokens and the estimate are those of the preset.

    Returns:
        Seconds measured, and seconds summed over a few lengths.
    """
    transformer = architecture.transformer.model_copy(update={"depth": 1})
    shallow = architecture.model_copy(update={"transformer": transformer})
    networks = rarm_networks(shallow, settings.device)
    context = normal((1, settings.k_nn, shallow.context_dim), settings.device)

    def complete() -> Tensor:
        tokens = torch.full((1, 1), shallow.start_token, device=settings.device)
        for _ in range(transformer.num_positions):
            logits = published.guided_logits(
                networks.transformer, settings.guidance_scale, tokens, context
            )
            tokens = torch.cat([tokens, logits.softmax(dim=1).multinomial(1)], dim=1)
        return tokens

    return {
        "complete_s": best_time(complete, 1, settings.device),
        "estimated_s": integrate_published_tokens(shallow, networks, settings, batch=1),
    }
