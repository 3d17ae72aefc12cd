"""Train an autoregressive head on the codes of images.

Blattmann et al. 2022 (arXiv:2204.11824): a causal transformer learns the codes of an image,
row by row, from the image's nearest neighbors in a database. Without neighbors it is the
autoregressive baseline (Esser et al. 2021, arXiv:2012.09841).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Int64
from torch import Tensor

from rdm_batch.models.autoencoder import VqAutoencoder
from rdm_batch.models.transformer import CausalTransformer
from rdm_batch.specs.architecture import TransformerConfig
from rdm_batch.training.context import TrainingContext
from rdm_batch.training.device import on_device_of
from rdm_batch.training.images import TrainingImages

_ENCODED_AT_ONCE = 256


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
        self._start = torch.full((1, 1), start_token)

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the negative log-likelihood of one batch."""
        codes = self._codes[rows]
        tokens = torch.cat([self._start.expand(len(rows), 1), codes[:, :-1]], dim=1)
        context = self._context(rows, generator)
        tokens, codes, context = on_device_of(self.network, tokens, codes, context)
        logits = self.network(tokens, context)
        return F.cross_entropy(logits.float().flatten(0, 1), codes.flatten())


@torch.no_grad()
def encode_codes(
    autoencoder: VqAutoencoder, images: TrainingImages
) -> Int64[Tensor, "image position"]:
    """Encode a training set to codes once; heads then train on codes alone."""
    parts = torch.split(torch.arange(len(images)), _ENCODED_AT_ONCE)
    codes = [autoencoder.quantize.nearest(autoencoder.encode(images.batch(p))) for p in parts]
    return torch.cat(codes).flatten(1)
