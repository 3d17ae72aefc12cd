"""The noise-predicting UNet of the diffusion heads, with the published parameter names.

Ronneberger et al. 2015 (arXiv:1505.04597) as used for latent diffusion by Rombach et al.
2022 (arXiv:2112.10752), with the neighbors entering by cross-attention (Blattmann et al.
2022, arXiv:2204.11824).

What does not change over the solver steps is computed outside of them: `time_biases` for
all timesteps of a solver and `context_features` for the neighbors of a batch. `predict`
then does the rest; `forward` is the three of them in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from rdm_batch.models.convolutions import Conv3x3, Convolution, Upsample
from rdm_batch.models.layers import KeysValues, TransformerBlock, add_to, silu, timestep_embedding
from rdm_batch.specs.networks import UNetConfig

TimeBiases = tuple[Float[Tensor, "steps _"], ...]


@dataclass(frozen=True)
class ContextFeatures:
    """Hold what the neighbors of a batch contribute to every solver step.

    Attributes:
        keys_values: Cross-attention keys and values of every transformer block, in order.
        guided: Whether predictions for an all-zero context are wanted beside them.
    """

    keys_values: tuple[KeysValues, ...]
    guided: bool = False


def _match_rows(x: Float[Tensor, " batch *rest"], rows: int) -> Float[Tensor, " rows *rest"]:
    """Repeat what both guidance branches share once the branches have parted."""
    # torch.cat keeps the memory layout, repeat() would not.
    return x if x.shape[0] == rows else torch.cat([x] * (rows // x.shape[0]))


def _skip_to(x: Tensor, skip: Tensor) -> Tensor:
    """Join what came through the network with what skipped a part of it."""
    return torch.cat([x, _match_rows(skip, x.shape[0])], dim=1)


def _zeroed(layer: nn.Conv2d) -> nn.Conv2d:
    """Start a layer at zero, so that its residual branch starts as nothing."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """Apply two convolutions with the time embedding added in between.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        time_dim: Width of the time embedding.
        norm_groups: Groups of the normalizations.
        slot: Position of this block's entry in ``TimeBiases``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, time_dim: int, norm_groups: int, slot: int
    ) -> None:
        super().__init__()
        self.slot = slot
        self.in_layers = nn.Sequential(
            nn.GroupNorm(norm_groups, in_channels, eps=1e-5),
            nn.SiLU(),
            Conv3x3(in_channels, out_channels),
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, out_channels))
        # Index 2 holds dropout in the published code, without parameters and with rate 0.
        self.out_layers = nn.Sequential(
            nn.GroupNorm(norm_groups, out_channels, eps=1e-5),
            nn.SiLU(),
            nn.Identity(),
            _zeroed(Conv3x3(out_channels, out_channels)),
        )
        self.skip_connection = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    @property
    def _convolution(self) -> Convolution:
        return cast(Convolution, self.in_layers[2])

    def time_bias(self, embedding: Float[Tensor, "steps dim"]) -> Float[Tensor, "steps channel"]:
        """Project time embeddings, with the bias of the convolution they are added to."""
        out: Tensor = self.emb_layers(embedding) + self._convolution.bias
        return out

    def forward(
        self,
        x: Float[Tensor, "batch in_channel height width"],
        time_bias: Float[Tensor, "steps channel"],
    ) -> Float[Tensor, "batch out_channel height width"]:
        """Transform ``x``; ``time_bias`` has one row per sample, or one for all of them."""
        hidden = silu(self.in_layers[0](x))
        if time_bias.shape[0] == 1:
            hidden = self._convolution.convolve(hidden, time_bias[0])
        else:
            hidden = self._convolution.convolve(hidden, None)
            hidden = add_to(hidden, _match_rows(time_bias, hidden.shape[0])[:, :, None, None])
        hidden = self.out_layers[3](silu(self.out_layers[0](hidden)))
        return add_to(hidden, self.skip_connection(x))


class SpatialTransformer(nn.Module):
    """Apply transformer blocks to the positions of an image, with a residual connection.

    Args:
        channels: Channels of the image.
        config: Sizes of the UNet it belongs to.
        slot: Position of its first block's entry in ``ContextFeatures.keys_values``.
    """

    def __init__(self, channels: int, config: UNetConfig, slot: int) -> None:
        super().__init__()
        self.slot = slot
        self.norm = nn.GroupNorm(config.norm_groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(
                channels,
                config.context_dim,
                channels // config.head_channels,
                config.head_channels,
            )
            for _ in range(config.transformer_depth)
        )
        self.proj_out = _zeroed(nn.Conv2d(channels, channels, 1))

    def forward(
        self, x: Float[Tensor, "batch channel height width"], context: ContextFeatures
    ) -> Float[Tensor, "_ channel height width"]:
        """Transform ``x``; the result has both guidance branches when ``context`` asks."""
        height, width = x.shape[2:]
        hidden = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        for offset, block in enumerate(self.transformer_blocks):
            hidden = block(hidden, context.keys_values[self.slot + offset], context.guided)
        hidden = hidden.transpose(1, 2).unflatten(2, (height, width))
        out: Tensor = self.proj_out(hidden)
        return add_to(out, _match_rows(x, out.shape[0]))


class Downsample(nn.Module):
    """Halve the resolution with a strided convolution, padded by one on every side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel half_height half_width"]:
        """Halve height and width."""
        out: Tensor = self.op(x)
        return out


def _apply(
    layers: nn.Module, x: Tensor, time_biases: TimeBiases, context: ContextFeatures
) -> Tensor:
    """Apply the layers of a block, each to what it works on."""
    for layer in cast(nn.ModuleList, layers):
        if isinstance(layer, ResidualBlock):
            x = layer(x, time_biases[layer.slot])
        elif isinstance(layer, SpatialTransformer):
            x = layer(x, context)
        else:
            x = layer(x)
    return x


class UNet(nn.Module):
    """Predict the noise in latents from their time and their neighbors.

    New weights start with every residual branch at zero, as is customary.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        width = config.model_channels
        time_dim = 4 * width
        self.time_embed = nn.Sequential(
            nn.Linear(width, time_dim), nn.SiLU(), nn.Linear(time_dim, time_dim)
        )
        residual_blocks: list[ResidualBlock] = []
        transformers: list[SpatialTransformer] = []

        def residual(in_channels: int, out_channels: int) -> ResidualBlock:
            block = ResidualBlock(
                in_channels, out_channels, time_dim, config.norm_groups, len(residual_blocks)
            )
            residual_blocks.append(block)
            return block

        def transformer(channels: int) -> SpatialTransformer:
            slot = len(transformers) * config.transformer_depth
            transformers.append(SpatialTransformer(channels, config, slot))
            return transformers[-1]

        given = config.latent_channels + config.source_channels
        stem = nn.Conv2d(given, width, 3, padding=1)
        self.input_blocks = nn.ModuleList([nn.ModuleList([stem])])
        skip_widths = [width]
        channels, downsampling = width, 1
        levels = len(config.channel_mult)
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                layers: list[nn.Module] = [residual(channels, mult * width)]
                channels = mult * width
                if downsampling in config.attention_downsampling:
                    layers.append(transformer(channels))
                self.input_blocks.append(nn.ModuleList(layers))
                skip_widths.append(channels)
            if level < levels - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(channels)]))
                skip_widths.append(channels)
                downsampling *= 2

        self.middle_block = nn.ModuleList(
            [residual(channels, channels), transformer(channels), residual(channels, channels)]
        )

        self.output_blocks = nn.ModuleList()
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for position in range(config.num_res_blocks + 1):
                layers = [residual(channels + skip_widths.pop(), mult * width)]
                channels = mult * width
                if downsampling in config.attention_downsampling:
                    layers.append(transformer(channels))
                if level > 0 and position == config.num_res_blocks:
                    layers.append(Upsample(channels))
                    downsampling //= 2
                self.output_blocks.append(nn.ModuleList(layers))

        self.out = nn.Sequential(
            nn.GroupNorm(config.norm_groups, channels, eps=1e-5),
            nn.SiLU(),
            _zeroed(nn.Conv2d(channels, config.latent_channels, 3, padding=1)),
        )
        # Plain tuples: the modules are registered above, under their published names.
        self.residual_blocks = tuple(residual_blocks)
        self._cross_attentions = tuple(
            cast(TransformerBlock, block).attn2
            for place in transformers
            for block in place.transformer_blocks
        )

    def time_embeddings(self, timesteps: Int[Tensor, " steps"]) -> Float[Tensor, "steps _"]:
        """Embed times, in the arithmetic of the network."""
        dtype = next(self.time_embed.parameters()).dtype
        embedding = timestep_embedding(timesteps, self.config.model_channels).to(dtype)
        embedded: Tensor = self.time_embed(embedding)
        return embedded

    def time_biases(self, timesteps: Int[Tensor, " steps"]) -> TimeBiases:
        """Compute what the times contribute to every residual block.

        Args:
            timesteps: One time per sample of a batch, or the times of a solver, of whose
                results single rows are then given to ``predict``.
        """
        embedding = self.time_embeddings(timesteps)
        return tuple(block.time_bias(embedding) for block in self.residual_blocks)

    def context_features(
        self, context: Float[Tensor, "batch k_nn dim"], guided: bool = False
    ) -> ContextFeatures:
        """Compute keys and values of the neighbors for every cross-attention.

        Args:
            context: Neighbor embeddings, as stored (not normalized).
            guided: Whether ``predict`` shall also predict for an all-zero context. That
                branch needs no keys: attention to zeros is the bias of its output layer.
        """
        return ContextFeatures(
            tuple(attention.keys_values(context) for attention in self._cross_attentions), guided
        )

    def predict(
        self,
        x: Float[Tensor, "batch given height width"],
        time_biases: TimeBiases,
        context: ContextFeatures,
    ) -> Float[Tensor, "_ channel height width"]:
        """Predict noise from what ``time_biases`` and ``context_features`` prepared.

        Args:
            x: Noisy latents, one row per sample; see ``forward``.
            time_biases: Per residual block one row per sample, or one row for all.
            context: Features of the neighbors.

        Returns:
            One row per sample; if the context is guided, the conditional predictions of all
            samples followed by the unconditional ones.
        """

        return self.predict_leaving_deep(x, time_biases, context)[0]

    def predict_leaving_deep(
        self,
        x: Float[Tensor, "batch given height width"],
        time_biases: TimeBiases,
        context: ContextFeatures,
    ) -> tuple[Float[Tensor, "_ channel height width"], Float[Tensor, "_ deep height width"]]:
        """Predict noise as ``predict`` does, and leave the deep features for ``predict_shallow``.

        Returns:
            The prediction, and what entered the last block.
        """
        skips = []
        for layers in self.input_blocks:
            x = _apply(layers, x, time_biases, context)
            skips.append(x)
        x = _apply(self.middle_block, x, time_biases, context)
        for layers in self.output_blocks[:-1]:
            x = _skip_to(x, skips.pop())
            x = _apply(layers, x, time_biases, context)
        return self._finish(x, skips.pop(), time_biases, context), x

    def predict_shallow(
        self,
        x: Float[Tensor, "batch given height width"],
        time_biases: TimeBiases,
        context: ContextFeatures,
        deep: Float[Tensor, "_ deep height width"],
    ) -> Float[Tensor, "_ channel height width"]:
        """Predict noise from the first and the last block, around deep features of another step.

        DeepCache (Ma et al. 2023, arXiv:2312.00858) with the shallowest branch: features deep in
        the network change little from one step to the next.

        Args:
            x: As for ``predict``.
            time_biases: As for ``predict``.
            context: As for ``predict``, with the branches that ``deep`` was left with.
            deep: What ``predict_leaving_deep`` left.
        """
        return self._finish(
            deep, _apply(self.input_blocks[0], x, time_biases, context), time_biases, context
        )

    def _finish(
        self, deep: Tensor, first: Tensor, time_biases: TimeBiases, context: ContextFeatures
    ) -> Tensor:
        """Apply the last block to what is deeper and to what the first block gave."""
        last = self.output_blocks[len(self.output_blocks) - 1]
        out: Tensor = self.out(_apply(last, _skip_to(deep, first), time_biases, context))
        return out

    def forward(
        self,
        x: Float[Tensor, "batch given height width"],
        timesteps: Int[Tensor, " batch"],
        context: Float[Tensor, "batch k_nn dim"],
    ) -> Float[Tensor, "batch channel height width"]:
        """Predict the noise in ``x`` at its times, given its neighbors.

        Args:
            x: Noisy latents, and behind them on the channel axis a given picture's, for heads
                that edit.
            timesteps: Integer time of every row.
            context: Neighbor embeddings of every row, as stored; zeros for no neighbors.
        """
        return self.predict(x, self.time_biases(timesteps), self.context_features(context))
