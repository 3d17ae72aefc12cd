"""The retrieval-augmented autoregressive head (Blattmann et al. 2022, arXiv:2204.11824)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn

from rdm_batch.errors import CheckpointError
from rdm_batch.heads.arithmetic import compiled
from rdm_batch.heads.decode import decode_in_parts, not_finite
from rdm_batch.heads.drawing import Canvas
from rdm_batch.heads.head import HowDrawn
from rdm_batch.heads.native_tokens import NativeTransformer, can_draw_natively
from rdm_batch.heads.network_head import NetworkHead, computes
from rdm_batch.heads.token_loop import TokenLoop
from rdm_batch.models.networks import RarmNetworks
from rdm_batch.models.packed import can_pack
from rdm_batch.models.streamed import stream_linears
from rdm_batch.models.transformer import Generation
from rdm_batch.sampling import noise as streams
from rdm_batch.sampling.autoregressive import (
    Choose,
    Drawn,
    NextLogits,
    Observe,
    TokenSampler,
    draw,
    sample_tokens,
)
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sampling.samplers import build_token_sampler
from rdm_batch.specs.families import RarmArchitecture
from rdm_batch.specs.precisions import Precision
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.transfers import upload


class RarmHead(NetworkHead):
    """Draw the codes of an image one by one given neighbors, and decode them.

    The networks are taken over: moved, converted and set to evaluation.

    Args:
        networks: Transformer and autoencoder with their weights.
        sampler: How tokens are chosen.
        guidance_scale: 1 is none; above, logits are guided away from an all-zero context's.
        device: Where to compute.
        precision: Arithmetic of the networks; logits are turned into tokens in float32.
        compile: Whether to compile drawing a token, and the decoder. On a CPU, for wide networks in
            float32 or bfloat16, it compiles the kernel of ``native_tokens``; the decoder stays as
            it is.

    Raises:
        SpecError: The guidance scale is below 1.
    """

    @staticmethod
    def sampler_of(architecture: RarmArchitecture, sampling: SamplingSpec) -> TokenSampler:
        """Build the token sampler; see ``NetworkHead.sampler_of``."""
        return build_token_sampler(sampling)

    def __init__(
        self,
        networks: RarmNetworks,
        sampler: TokenSampler,
        guidance_scale: float = 1.0,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        compile: bool = False,
    ) -> None:
        super().__init__(networks.architecture, guidance_scale, device, precision, compile)
        self.architecture = networks.architecture
        self._sampler = sampler
        networks = networks.to(self._device).eval().requires_grad_(False)
        self._convert(networks)
        self._transformer = networks.transformer
        self._autoencoder = networks.autoencoder
        self._decode_ids = networks.autoencoder.decode_ids
        self._native: NativeTransformer | None = None
        if self._draws_natively():
            self._native = NativeTransformer(self._transformer)
            self._arrange(networks.autoencoder)
        elif compile:
            self._decode_ids = compiled(self._decode_ids, self._device)
        self._loop = self._own_loop()

    def _own_loop(self) -> TokenLoop | None:
        """Compile drawing a token as this head draws it; None where PyTorch compiles nothing."""
        if not self._compile or self._native is not None:
            return None
        return TokenLoop(
            self._transformer,
            self._sampler,
            self._guide,
            self._guided,
            self.architecture.start_token,
        )

    def beside(self, how: HowDrawn, prepared: None = None) -> RarmHead:
        """Give a head around the same networks that draws otherwise; see ``NetworkHead``."""
        head = super().beside(how, prepared)
        head._sampler = self.sampler_of(self.architecture, how.sampling)
        # Choosing a token is part of the compiled step.
        head._loop = head._own_loop()
        return head

    def _arrange(self, networks: nn.Module) -> None:
        """Lay out the transformer's weights for few rows as well; see ``NetworkHead``."""
        if self._dtype == torch.float32 and isinstance(networks, RarmNetworks):
            stream_linears(networks.transformer)
        super()._arrange(networks)

    def _draws_natively(self) -> bool:
        """Say whether compiling means the kernel of this package, which is made for CPUs."""
        here = self._compile and self._device.type == "cpu" and can_pack(self._dtype)
        return here and can_draw_natively(self._transformer)

    def _draw(
        self, context: Float[Tensor, "batch k_nn dim"], noise: SampleNoise, canvas: Canvas
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Draw tokens and decode them; see ``NetworkHead``."""
        num_tokens = self.architecture.transformer.num_positions
        uniform = upload(noise.uniform(streams.TOKENS, (num_tokens,)), self._device)
        drawn = self.draw_tokens(context, uniform)

        def tell(failed: Tensor) -> CheckpointError:
            token = int(drawn.failed_at[failed.to(self._device)][0]) + 1
            what = f"logits are not finite at token {token} of {num_tokens}"
            return not_finite(failed, what, noise, self.precision)

        canvas.check(drawn.failed_at >= 0, tell)
        return self.decode(drawn.tokens)

    @computes
    def draw_tokens(
        self, context: Float[Tensor, "batch k_nn dim"], uniform: Float64[Tensor, "batch position"]
    ) -> Drawn:
        """Draw the codes of an image, row by row, one number a code.

        Args:
            context: Neighbor embeddings as stored.
            uniform: Numbers in [0, 1), on the device of the head.
        """
        if self._loop is not None:
            return self._loop.draw(context.to(self._device, self._dtype), uniform)
        return self.sample_tokens(
            context, lambda probabilities, position: draw(probabilities, uniform[:, position])
        )

    @computes
    def sample_tokens(
        self,
        context: Float[Tensor, "batch k_nn dim"],
        choose: Choose,
        observe: Observe | None = None,
    ) -> Drawn:
        """Draw codes in a way of one's own, and look at them: never compiled.

        Args:
            context: Neighbor embeddings as stored.
            choose: Draws tokens from their probabilities.
            observe: Sees every draw.
        """
        num_tokens = self.architecture.transformer.num_positions
        return sample_tokens(
            self._predictor(context),
            self._start_tokens(len(context)),
            num_tokens,
            self._sampler,
            choose,
            observe,
        )

    def work_of(
        self, context: Float[Tensor, "1 entry dim"], count: Callable[[Callable[[], object]], float]
    ) -> float:
        """Sum up the tokens and the decoder; see ``NetworkHead``."""
        transformer, num_tokens = self._transformer, self.architecture.transformer.num_positions
        started: list[Generation] = []
        once = count(lambda: started.append(transformer.start(context, self._guided)))
        start = self._start_tokens(1)
        # A token's work grows by as much for every one before it.
        first, last = (
            count(partial(transformer.next_logits, start, position, started[0]))
            for position in (0, num_tokens - 1)
        )
        tokens = torch.zeros(1, num_tokens, dtype=torch.int64, device=self._device)
        return once + num_tokens * (first + last) / 2 + count(lambda: self.decode(tokens))

    @computes
    def _repeat_once(self, context: Float[Tensor, "batch k_nn dim"]) -> None:
        """Draw a token of every length once, and decode; see ``NetworkHead``."""
        if self._loop is not None:
            self._loop.repeat_once(context.to(self._device, self._dtype))
        num_tokens = self.architecture.transformer.num_positions
        self.decode(torch.zeros(len(context), num_tokens, dtype=torch.int64, device=self._device))

    def _start_tokens(self, count: int) -> Int[Tensor, " batch"]:
        token = self.architecture.start_token
        return torch.full((count,), token, dtype=torch.int64, device=self._device)

    def _predictor(self, context: Float[Tensor, "batch k_nn dim"]) -> NextLogits:
        context = context.to(self._device, self._dtype)
        predict: Callable[[Tensor, int], Tensor]
        if self._native is not None:
            native, begun = self._native, self._native.start(context, self._guided)
            predict = partial(native.next_logits, generation=begun)
        else:
            generation = self._transformer.start(context, self._guided)
            predict = partial(self._transformer.next_logits, generation=generation)

        def next_logits(tokens: Tensor, position: int) -> Tensor:
            return self._guide(predict(tokens, position))

        return next_logits

    @computes
    def decode(
        self, tokens: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode codes to images, nominally in -1..1, some at a time."""
        size = self.architecture.latent_size
        return decode_in_parts(
            self._decode_ids, tokens.reshape(-1, size, size), self.image_size, self._compile
        )
