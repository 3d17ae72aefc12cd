"""Train a KNN-Diffusion head over codes.

Sheynin et al. 2023 (arXiv:2204.02849): trained on images alone, each from its own embedding and
those of its neighbors. The network predicts the clean codes; the loss is the variational bound
of mask-and-replace diffusion with times drawn by importance (Gu et al. 2022, arXiv:2111.14822).
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from rdm_batch.errors import SpecError
from rdm_batch.heads.knn_discrete import KnnDiscreteHead
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.code_transformer import CodeTransformer
from rdm_batch.sampling.code_sampler import CodeSampler
from rdm_batch.sampling.mask_replace import MaskReplaceSchedule
from rdm_batch.specs.families import KnnDiscreteArchitecture
from rdm_batch.specs.networks import CodeTransformerConfig
from rdm_batch.specs.training import KnnDiscreteTraining
from rdm_batch.training.attention import plain_attention
from rdm_batch.training.context import TrainingContext
from rdm_batch.training.heads import HeadPlan, train_head
from rdm_batch.training.images import TrainingImages, on_device_of
from rdm_batch.training.loop import Compile
from rdm_batch.training.rarm import encode_codes

_LEAST_DRAWS = 10
"""Losses seen of every time before times are drawn by them."""
_MEMORY = 0.9
"""Share of the old in the running mean of squared losses."""


class _Trained(nn.Module):
    """The network, and what is known of the loss at every time: both are needed to resume."""

    def __init__(self, network: CodeTransformer, num_times: int) -> None:
        super().__init__()
        self.network = network
        self.squares: Tensor
        self.draws: Tensor
        self.register_buffer("squares", torch.zeros(num_times, dtype=torch.float64))
        self.register_buffer("draws", torch.zeros(num_times, dtype=torch.int64))


class KnnDiscreteObjective:
    """Predict clean codes: the variational bound, summed over all times, in nats a code.

    Not its mean over times: AdamW's steps hardly depend on the scale of a loss, but a hundredth of
    it brings the gradients of seldom codes near the number that AdamW adds to their roots.

    Args:
        codes: Codes of the training set, row by row.
        context: Gives query and neighbors of the training images.
        transformer: Sizes of the network.
        auxiliary_weight: Factor of -log p(x_0) beside the bound.
        vectors: What the codes stand for in the codebook: a new network begins with them.
    """

    def __init__(
        self,
        codes: Int64[Tensor, "image position"],
        context: TrainingContext,
        transformer: CodeTransformerConfig,
        auxiliary_weight: float,
        vectors: Float[Tensor, "code channel"],
    ) -> None:
        network = CodeTransformer(transformer)
        network.begin_with(vectors)
        self.network = _Trained(network, transformer.num_times)
        self._schedule = MaskReplaceSchedule.linear(
            transformer.codebook_size, transformer.num_times
        )
        self._codes = codes
        self._context = context
        self._auxiliary_weight = auxiliary_weight
        self._compute = self._terms

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the bound of one batch, each example at a time of its own."""
        codes = self._codes[rows]
        times, share = self._draw_times(len(rows), generator)
        uniform = torch.rand(codes.shape, generator=generator, dtype=torch.float64)
        states = self._schedule.noised(codes, times, uniform)
        context = self._context(rows, generator)
        codes, states, times, context, share = on_device_of(
            self.network, codes, states, times, context, share
        )
        with plain_attention(codes.device):
            bound, surprise = self._compute(codes, states, times, context)
        if torch.is_grad_enabled():
            self._remember(times, bound.detach())
        late = 2.0 - times / self._schedule.num_times
        whole = self._schedule.num_times * (bound + self._auxiliary_weight * late * surprise)
        return (whole / share).mean()

    def compile(self, compiled: Compile) -> None:
        """Compile the network and the bound of its logits; see ``Objective``."""
        self._compute = compiled(self._terms)

    def _terms(
        self,
        codes: Int64[Tensor, "batch position"],
        states: Int64[Tensor, "batch position"],
        times: Int64[Tensor, " batch"],
        context: Float[Tensor, "batch entry dim"],
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Give the bound and -log p(x_0), both averaged over positions."""
        transformer = self.network.network
        logits = transformer(states, times, transformer.keys_values(context))
        log_clean = logits.float().log_softmax(-1)
        bound, surprise = self._schedule.bound(log_clean, codes, states, times)
        return bound.mean(1), surprise.mean(1)

    def _draw_times(
        self, count: int, generator: torch.Generator
    ) -> tuple[Int64[Tensor, " batch"], Float64[Tensor, " batch"]]:
        """Draw times by the root of the mean squared loss; give each its share of a uniform draw's.

        Uniformly until every time was seen often enough, and a little so ever after.
        """
        num_times = self._schedule.num_times
        draws, squares = self.network.draws.cpu(), self.network.squares.cpu()
        weights = torch.ones(num_times, dtype=torch.float64)
        if bool((draws >= _LEAST_DRAWS).all()):
            roots = squares.sqrt() + 1e-10
            weights = roots / roots.sum() * num_times
            weights = 0.999 * weights + 0.001
        times = torch.multinomial(weights, count, replacement=True, generator=generator)
        return times + 1, weights[times]

    def _remember(self, times: Int64[Tensor, " batch"], bound: Float[Tensor, " batch"]) -> None:
        draws, squares = self.network.draws, self.network.squares
        for time, value in zip((times - 1).tolist(), bound.square().tolist(), strict=True):
            old = squares[time] if draws[time] else value
            squares[time] = _MEMORY * old + (1 - _MEMORY) * value
            draws[time] += 1


def train_knn_discrete(spec: KnnDiscreteTraining, out: Path, resume: bool) -> Path:
    """Train a KNN-Diffusion head over codes; see ``train_head``."""
    return train_head(spec, out, resume, _plan)


def _plan(
    spec: KnnDiscreteTraining,
    autoencoder: VqAutoencoder | KlAutoencoder,
    images: TrainingImages,
    context: TrainingContext,
) -> HeadPlan:
    if not isinstance(autoencoder, VqAutoencoder):
        raise SpecError("autoencoder", f"{spec.autoencoder} has no codebook", "one of kind vq")
    codes, words = encode_codes(autoencoder, images), autoencoder.quantize.embedding.weight
    transformer = CodeTransformerConfig(
        **spec.transformer.model_dump(),
        codebook_size=autoencoder.config.codebook_size,
        grid_size=autoencoder.config.resolution // autoencoder.config.downsampling,
        num_times=spec.num_times,
        marks_query=True,
    )
    architecture = KnnDiscreteArchitecture(transformer=transformer, autoencoder=autoencoder.config)
    schedule = MaskReplaceSchedule.linear(transformer.codebook_size, transformer.num_times)
    sampler = CodeSampler(schedule, spec.preview_steps)
    return HeadPlan(
        architecture,
        lambda: KnnDiscreteObjective(
            codes, context, transformer, spec.auxiliary_weight, words.cpu()
        ),
        "transformer.",
        lambda networks, device: KnnDiscreteHead(networks, sampler, device=device),
        kept=lambda trained: trained.network,
    )
