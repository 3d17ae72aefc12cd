"""The convolutional autoencoders under the heads, with the published parameter names.

VQ: Esser et al. 2021 (arXiv:2012.09841), quantization as in van den Oord et al. 2017
(arXiv:1711.00937). KL: Rombach et al. 2022 (arXiv:2112.10752).
"""

from __future__ import annotations

from itertools import pairwise

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from rdm_batch.models.codebook import Codebook, Quantized
from rdm_batch.models.convolutions import Conv3x3, Upsample
from rdm_batch.models.layers import add_to, silu
from rdm_batch.specs.networks import KlAutoencoderConfig, VqAutoencoderConfig

_EPS = 1e-6


def _norm(channels: int, groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(groups, channels, eps=_EPS)


class _ResidualBlock(nn.Module):
    """Apply two normalized 3x3 convolutions, with a residual connection."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = _norm(in_channels, groups)
        self.conv1 = Conv3x3(in_channels, out_channels)
        self.norm2 = _norm(out_channels, groups)
        self.conv2 = Conv3x3(out_channels, out_channels)
        if in_channels != out_channels:
            self.nin_shortcut = nn.Conv2d(in_channels, out_channels, 1)
        self.has_shortcut = in_channels != out_channels

    def forward(
        self, x: Float[Tensor, "batch in_channel height width"]
    ) -> Float[Tensor, "batch out_channel height width"]:
        hidden = self.conv1(silu(self.norm1(x)))
        hidden = self.conv2(silu(self.norm2(hidden)))
        return add_to(hidden, self.nin_shortcut(x) if self.has_shortcut else x)


class _AttentionBlock(nn.Module):
    """Attend among all positions with a single head, with a residual connection."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = _norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        normed = self.norm(x)
        query, key, value = (
            layer(normed).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v)
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        hidden = attended[:, 0].transpose(1, 2).reshape(x.shape)
        return add_to(self.proj_out(hidden), x)


class _Downsample(nn.Module):
    """Halve the resolution, padding by one on the right and at the bottom only."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)))
        return out


class _Level(nn.Module):
    """Apply the blocks of one resolution, then go to the next."""

    def __init__(
        self,
        widths: list[int],
        groups: int,
        attention: bool,
        downsample: nn.Module | None = None,
        upsample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            _ResidualBlock(before, after, groups) for before, after in pairwise(widths)
        )
        self.attn = nn.ModuleList(
            _AttentionBlock(after, groups) for after in widths[1:] if attention
        )
        self.downsample = downsample
        self.upsample = upsample

    def forward(self, x: Tensor) -> Tensor:
        for position, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[position](x)
        if self.downsample is not None:
            x = self.downsample(x)
        if self.upsample is not None:
            x = self.upsample(x)
        return x


class _Middle(nn.Module):
    """Apply a residual block, attention and a residual block at the lowest resolution."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.block_1 = _ResidualBlock(channels, channels, groups)
        self.attn_1 = _AttentionBlock(channels, groups)
        self.block_2 = _ResidualBlock(channels, channels, groups)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return out


class Encoder(nn.Module):
    """Map images to features at the latents' resolution.

    Args:
        config: Sizes of the autoencoder.
        out_channels: Channels of the features.
    """

    def __init__(
        self, config: VqAutoencoderConfig | KlAutoencoderConfig, out_channels: int
    ) -> None:
        super().__init__()
        groups = config.norm_groups
        widths = [mult * config.channels for mult in config.channel_mult]
        self.conv_in = nn.Conv2d(config.image_channels, config.channels, 3, padding=1)
        self.down = nn.ModuleList()
        before = config.channels
        for level, width in enumerate(widths):
            attention = config.resolution // 2**level in config.attention_resolutions
            self.down.append(
                _Level(
                    [before] + [width] * config.num_res_blocks,
                    groups,
                    attention,
                    downsample=_Downsample(width) if level < len(widths) - 1 else None,
                )
            )
            before = width
        self.mid = _Middle(before, groups)
        self.norm_out = _norm(before, groups)
        self.conv_out = nn.Conv2d(before, out_channels, 3, padding=1)

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch feature small_height small_width"]:
        """Encode images in -1..1."""
        x = self.conv_in(images)
        for level in self.down:
            x = level(x)
        x = self.mid(x)
        out: Tensor = self.conv_out(silu(self.norm_out(x)))
        return out


class Decoder(nn.Module):
    """Map features at the latents' resolution to images.

    Args:
        config: Sizes of the autoencoder.
    """

    def __init__(self, config: VqAutoencoderConfig | KlAutoencoderConfig) -> None:
        super().__init__()
        groups = config.norm_groups
        widths = [mult * config.channels for mult in config.channel_mult]
        before = widths[-1]
        self.conv_in = nn.Conv2d(config.latent_channels, before, 3, padding=1)
        self.mid = _Middle(before, groups)
        stages = []
        for level in reversed(range(len(widths))):
            attention = config.resolution // 2**level in config.attention_resolutions
            stages.append(
                _Level(
                    [before] + [widths[level]] * (config.num_res_blocks + 1),
                    groups,
                    attention,
                    upsample=Upsample(widths[level]) if level > 0 else None,
                )
            )
            before = widths[level]
        # Numbered from the image's resolution down, as published, and applied in reverse.
        self.up = nn.ModuleList(reversed(stages))
        self.norm_out = _norm(before, groups)
        self.conv_out = nn.Conv2d(before, config.image_channels, 3, padding=1)

    def forward(
        self, features: Float[Tensor, "batch feature small_height small_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Decode features to images, nominally in -1..1."""
        x = self.mid(self.conv_in(features))
        for level in reversed(self.up):
            x = level(x)
        out: Tensor = self.conv_out(silu(self.norm_out(x)))
        return out


class VqAutoencoder(nn.Module):
    """Encode images to latents, and decode latents by way of the codebook.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: VqAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, config.latent_channels)
        self.decoder = Decoder(config)
        self.quantize = Codebook(config.codebook_size, config.embed_dim)
        self.quant_conv = nn.Conv2d(config.latent_channels, config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.latent_channels, 1)

    def encode(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch latent small_height small_width"]:
        """Give the latents of images in -1..1, before quantization."""
        out: Tensor = self.quant_conv(self.encoder(images))
        return out

    def decode(
        self, latents: Float[Tensor, "batch latent small_height small_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Quantize latents to the codebook and decode them."""
        return self.decode_ids(self.quantize.nearest(latents))

    def decode_ids(
        self, ids: Int[Tensor, "batch small_height small_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Decode positions in the codebook."""
        return self.decode_quantized(self.quantize.lookup(ids))

    def decode_quantized(
        self, latents: Float[Tensor, "batch latent small_height small_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Decode latents as they are."""
        # Code words are kept in float32 where the networks are not.
        out: Tensor = self.decoder(self.post_quant_conv(latents.to(self.post_quant_conv.weight)))
        return out

    def forward(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[Float[Tensor, "batch channel height width"], Quantized]:
        """Reconstruct images for training, with the quantized latents and their loss."""
        quantized = self.quantize(self.encode(images))
        return self.decode_quantized(quantized.latents), quantized


class KlAutoencoder(nn.Module):
    """Encode images to a diagonal Gaussian over latents, and decode latents as they are.

    Args:
        config: Sizes of the network.
    """

    def __init__(self, config: KlAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config, 2 * config.latent_channels)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * config.latent_channels, 2 * config.embed_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.embed_dim, config.latent_channels, 1)

    def moments(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> tuple[
        Float[Tensor, "batch latent small_height small_width"],
        Float[Tensor, "batch latent small_height small_width"],
    ]:
        """Give mean and log-variance (clamped to -30..20) of the latents of images."""
        mean, log_variance = self.quant_conv(self.encoder(images)).chunk(2, dim=1)
        return mean, log_variance.clamp(-30.0, 20.0)

    def encode(
        self, images: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch latent small_height small_width"]:
        """Give the mean of the latents of images in -1..1."""
        return self.moments(images)[0]

    def decode(
        self, latents: Float[Tensor, "batch latent small_height small_width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Decode latents."""
        out: Tensor = self.decoder(self.post_quant_conv(latents))
        return out


def build_autoencoder(
    config: VqAutoencoderConfig | KlAutoencoderConfig,
) -> VqAutoencoder | KlAutoencoder:
    """Build the autoencoder of a configuration, with new weights."""
    if isinstance(config, VqAutoencoderConfig):
        return VqAutoencoder(config)
    return KlAutoencoder(config)
