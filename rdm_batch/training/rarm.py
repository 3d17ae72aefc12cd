"""Train an autoregressive head on the codes of images.

Blattmann et al. 2022 (arXiv:2204.11824): a causal transformer learns the codes of an image,
row by row, from the image's nearest neighbors in a database. Without neighbors it is the
autoregressive baseline (Esser et al. 2021, arXiv:2012.09841).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from rdm_batch.errors import SpecError
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.transformer import CausalTransformer
from rdm_batch.sampling.autoregressive import TokenSampler
from rdm_batch.specs.families import RarmArchitecture
from rdm_batch.specs.networks import TransformerConfig
from rdm_batch.specs.training import AutoregressiveTraining, NeighborTraining
from rdm_batch.training.attention import plain_attention_in_bfloat16
from rdm_batch.training.context import TrainingContext
from rdm_batch.training.heads import HeadPlan, train_head
from rdm_batch.training.images import TrainingImages, encoded, on_device_of
from rdm_batch.training.loop import Compile


class RarmObjective:
    """Predict codes: the mean negative log-likelihood of an image's codes, in nats a code.

    Args:
        codes: Codes of the training set, row by row.
        context: Gives the neighbors of the training images.
        transformer: Sizes of the network.
        start_token: Token every sequence starts with.
    """

    def __init__(
        self,
        codes: Int64[Tensor, "image position"],
        context: TrainingContext,
        transformer: TransformerConfig,
        start_token: int,
    ) -> None:
        self.network = CausalTransformer(transformer)
        self._codes = codes
        self._context = context
        self._compute = self._likelihood
        self._start = torch.full((1, 1), start_token)

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the negative log-likelihood of one batch."""
        codes = self._codes[rows]
        tokens = torch.cat([self._start.expand(len(rows), 1), codes[:, :-1]], dim=1)
        context = self._context(rows, generator)
        tokens, codes, context = on_device_of(self.network, tokens, codes, context)
        with plain_attention_in_bfloat16(tokens.device):
            return self._compute(tokens, codes, context)

    def compile(self, compiled: Compile) -> None:
        """Compile the network and the likelihood of its logits; see ``Objective``."""
        self._compute = compiled(self._likelihood)

    def _likelihood(
        self,
        tokens: Int64[Tensor, "batch position"],
        codes: Int64[Tensor, "batch position"],
        context: Float[Tensor, "batch k_nn dim"],
    ) -> Float[Tensor, ""]:
        logits = self.network(tokens, context)
        return F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())


def encode_codes(
    autoencoder: VqAutoencoder, images: TrainingImages
) -> Int64[Tensor, "image position"]:
    """Encode a training set to codes once; heads then train on codes alone."""

    def encode(pixels: Tensor) -> Tensor:
        return autoencoder.quantize.nearest(autoencoder.encode(pixels))

    return encoded(encode, autoencoder, images).flatten(1)


def train_rarm(spec: AutoregressiveTraining, out: Path, resume: bool) -> Path:
    """Train an autoregressive head, with neighbors or without; see ``train_head``."""
    return train_head(spec, out, resume, _plan)


def _plan(
    spec: AutoregressiveTraining,
    autoencoder: VqAutoencoder | KlAutoencoder,
    images: TrainingImages,
    context: TrainingContext,
) -> HeadPlan:
    if not isinstance(autoencoder, VqAutoencoder):
        raise SpecError("autoencoder", f"{spec.autoencoder} has no codebook", "one of kind vq")
    codes = encode_codes(autoencoder, images)
    codebook_size = autoencoder.config.codebook_size
    transformer = TransformerConfig(
        **spec.transformer.model_dump(),
        vocabulary_in=codebook_size + 1,
        vocabulary_out=codebook_size,
        num_positions=codes.shape[1],
    )
    architecture = RarmArchitecture(
        transformer=transformer,
        autoencoder=autoencoder.config,
        start_token=codebook_size,
        parametric=not isinstance(spec, NeighborTraining),
    )
    return HeadPlan(
        architecture,
        lambda: RarmObjective(codes, context, transformer, architecture.start_token),
        "transformer.",
        lambda networks, device: RarmHead(networks, TokenSampler(), device=device),
    )
