"""Sampling as the published scripts do it, written plainly, to measure against.

Float32 and eager; both guidance branches stacked in one batch, each with its context;
attention as explicit products and a softmax; everything computed anew in every step, and
the whole sequence anew for every token. The networks' own modules hold the weights; only
what is done with them differs. The numbers agree with the heads' (a test says so).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.layers import (
    Attention,
    TransformerBlock,
    mark_query,
    timestep_embedding,
)
from rdm_batch.models.query_unet import QueryUNet
from rdm_batch.models.transformer import CausalTransformer
from rdm_batch.models.unet import ResidualBlock, SpatialTransformer, UNet
from rdm_batch.sampling.ddim import DdimSolver


def attend(attention: Attention, x: Tensor, context: Tensor, is_causal: bool = False) -> Tensor:
    """Attend by explicit products and a softmax, one matrix for every row and head."""

    def split(values: Tensor) -> Tensor:
        batch, tokens, width = values.shape
        heads = attention.num_heads
        values = values.reshape(batch, tokens, heads, width // heads).permute(0, 2, 1, 3)
        return values.reshape(batch * heads, tokens, width // heads)

    query, key, value = (
        split(attention.to_q(x)),
        split(attention.to_k(context)),
        split(attention.to_v(context)),
    )
    scores = torch.einsum("bid,bjd->bij", query, key) * query.shape[2] ** -0.5
    if is_causal:
        later = torch.ones(scores.shape[1:], dtype=torch.bool, device=x.device).triu(1)
        scores = scores.masked_fill(later, -torch.finfo(scores.dtype).max)
    attended = torch.einsum("bij,bjd->bid", scores.softmax(dim=-1), value)
    heads = attention.num_heads
    batch, tokens = x.shape[:2]
    attended = attended.reshape(batch, heads, tokens, -1).permute(0, 2, 1, 3)
    return attention.to_out(attended.reshape(batch, tokens, -1))


def _transform(block: TransformerBlock, x: Tensor, context: Tensor, is_causal: bool) -> Tensor:
    normed = block.norm1(x)
    x = attend(block.attn1, normed, normed, is_causal) + x
    x = attend(block.attn2, block.norm2(x), context) + x
    return block.ff(block.norm3(x)) + x


def predict_noise(unet: UNet, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
    """Evaluate the UNet on a batch, every row with its own time and context."""
    embedding = unet.time_embed(timestep_embedding(timesteps, unet.config.model_channels))
    if isinstance(unet, QueryUNet):
        embedding = embedding + unet.query_embed(context[:, 0])
        context = mark_query(context, unet.context_roles.weight)

    def apply(layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers:
            if isinstance(layer, ResidualBlock):
                hidden = layer.in_layers(x) + layer.emb_layers(embedding)[:, :, None, None]
                x = layer.skip_connection(x) + layer.out_layers(hidden)
            elif isinstance(layer, SpatialTransformer):
                batch, channels, height, width = x.shape
                hidden = layer.proj_in(layer.norm(x)).reshape(batch, channels, -1)
                hidden = hidden.permute(0, 2, 1).contiguous()
                for block in layer.transformer_blocks:
                    hidden = _transform(block, hidden, context, is_causal=False)
                hidden = hidden.permute(0, 2, 1).reshape(batch, channels, height, width)
                x = layer.proj_out(hidden.contiguous()) + x
            else:
                x = layer(x)
        return x

    skips = []
    for layers in unet.input_blocks:
        x = apply(layers, x)
        skips.append(x)
    x = apply(unet.middle_block, x)
    for layers in unet.output_blocks:
        x = apply(layers, torch.cat([x, skips.pop()], dim=1))
    return unet.out(x)


def sample_latents(
    unet: UNet,
    solver: DdimSolver,
    scale: float,
    context: Tensor,
    start: Tensor,
    step_noise: Callable[[int], Tensor],
) -> Tensor:
    """Draw latents with DDIM."""
    x = start
    for step, time in enumerate(solver.timesteps.tolist()):
        times = torch.full((len(x),), time, device=x.device)
        if scale > 1:
            both = torch.cat([context, torch.zeros_like(context)])
            eps = predict_noise(unet, torch.cat([x, x]), torch.cat([times, times]), both)
            conditional, unconditional = eps.chunk(2)
            eps = unconditional + scale * (conditional - unconditional)
        else:
            eps = predict_noise(unet, x, times, context)
        alpha, previous = float(solver.alphas[step]), float(solver.alphas_prev[step])
        sigma = float(solver.sigmas[step])
        clean = (x - (1 - alpha) ** 0.5 * eps) / alpha**0.5
        direction = (1 - previous - sigma**2) ** 0.5 * eps
        x = previous**0.5 * clean + direction + sigma * step_noise(step)
    return x


def next_logits(transformer: CausalTransformer, tokens: Tensor, context: Tensor) -> Tensor:
    """Give the logits after a sequence by computing all of it."""
    x = transformer.embed(tokens)
    for block in transformer.blocks:
        x = _transform(block, x, context, is_causal=True)
    weight, bias = transformer.proj_out.weight, transformer.proj_out.bias
    return F.conv1d(x.permute(0, 2, 1), weight, bias).permute(0, 2, 1)[:, -1]


def guided_logits(
    transformer: CausalTransformer, scale: float, tokens: Tensor, context: Tensor
) -> Tensor:
    """Give guided logits after a sequence, both branches in one batch."""
    if scale == 1:
        return next_logits(transformer, tokens, context)
    both = torch.cat([context, torch.zeros_like(context)])
    logits = next_logits(transformer, torch.cat([tokens, tokens]), both)
    conditional, unconditional = logits.chunk(2)
    return unconditional + scale * (conditional - unconditional)


def decode(autoencoder: VqAutoencoder | KlAutoencoder, latents: Tensor) -> Tensor:
    """Decode latents, those of a codebook by way of all distances at once."""
    if isinstance(autoencoder, VqAutoencoder):
        words = autoencoder.quantize.embedding.weight
        points = latents.permute(0, 2, 3, 1).reshape(-1, latents.shape[1])
        distances = points.square().sum(1, keepdim=True) + words.square().sum(1)
        ids = (distances - 2 * torch.einsum("nd,kd->nk", points, words)).argmin(1)
        latents = words[ids].reshape(latents.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
    return decode_quantized(autoencoder, latents.contiguous())


def decode_quantized(autoencoder: VqAutoencoder | KlAutoencoder, latents: Tensor) -> Tensor:
    """Decode latents as they are."""
    decoder, features = autoencoder.decoder, autoencoder.post_quant_conv(latents)
    x = decoder.mid.block_1(decoder.conv_in(features))
    x = decoder.mid.block_2(_attend_positions(decoder.mid.attn_1, x))
    for level in reversed(decoder.up):
        for position, block in enumerate(level.block):
            x = block(x)
            if len(level.attn):
                x = _attend_positions(level.attn[position], x)
        if level.upsample is not None:
            x = level.upsample(x)
    return decoder.conv_out(F.silu(decoder.norm_out(x)))


def _attend_positions(attention: nn.Module, x: Tensor) -> Tensor:
    batch, channels = x.shape[:2]
    normed = attention.norm(x)
    query = attention.q(normed).reshape(batch, channels, -1).permute(0, 2, 1)
    key = attention.k(normed).reshape(batch, channels, -1)
    value = attention.v(normed).reshape(batch, channels, -1)
    weights = (torch.bmm(query, key) * channels**-0.5).softmax(dim=2)
    attended = torch.bmm(value, weights.permute(0, 2, 1)).reshape(x.shape)
    return x + attention.proj_out(attended)
