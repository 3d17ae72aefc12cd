"""The transformer of an autoregressive head on a CPU, token by token, by a kernel of its own.

``token_kernel.cpp`` computes what ``models/transformer.py`` says, with the weights in the order
they are read in and one pass of the threads over all layers of a token
(docs/decisions/tokens-by-a-kernel.md).
"""

from __future__ import annotations

import ctypes
import weakref
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, cast

import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn

from rdm_batch.heads.native_code import native_library
from rdm_batch.models.huge_pages import huge_empty
from rdm_batch.models.layers import Attention
from rdm_batch.models.packed import PositionwiseLinear
from rdm_batch.models.transformer import CausalTransformer

SOURCE: Final = Path(__file__).with_name("token_kernel.cpp")

_LANES: Final = 16
"""Numbers the kernel keeps side by side: a vector of AVX-512."""

_PAIRED: Final = {torch.float32: 1, torch.bfloat16: 2}
"""Inputs whose weights lie side by side for each output: those that a CPU multiplies at once."""

_DEPTH: Final = {torch.float32: 2, torch.bfloat16: 32}
"""What the inputs of every product are a multiple of: those multiplied at once, by AMX 32."""

_CHUNK: Final = 192
"""Inputs the kernel multiplies before it goes on to other outputs."""

_LINE: Final = 64
"""Bytes of a line of the caches."""

_BFLOAT16 = ("-DBFLOAT16",)
_NO_TILES = "-DNO_TILES"

_WIDE: Final = 2**18
"""Weights of the narrowest layer from which on reading them counts more than calling it."""


def can_draw_natively(transformer: CausalTransformer) -> bool:
    """Say whether the kernel is made for this type and these sizes: wide, in whole vectors."""
    config, depth = transformer.config, _DEPTH.get(transformer.proj_in.weight.dtype)
    if depth is None or config.width**2 < _WIDE or config.width % depth:
        return False
    return not any(size % _LANES for size in (config.head_channels, config.vocabulary_out))


@dataclass(frozen=True)
class NativeGeneration:
    """Remember what is needed to generate the next token of a batch.

    Attributes:
        sizes: As the kernel takes them; the last is the position.
        blocks: Addresses of what every block reads and changes, one row a block.
        room: The kernel's working memory.
        kept: What the addresses point into.
        guided: Whether an unconditional branch goes along.
    """

    sizes: Int[Tensor, " size"]
    blocks: Int[Tensor, "block address"]
    room: Float32[Tensor, " number"]
    kept: tuple[Tensor, ...]
    guided: bool


class NativeTransformer:
    """Give logits token by token, as ``CausalTransformer`` does.

    Weights, keys and values are kept in the type of the network; what lies between products, and
    their sums, is float32.

    Args:
        transformer: On a CPU, in float32 or bfloat16; ``can_draw_natively`` allows it. It is taken
            over: its wide layers are laid out anew and freed.

    Raises:
        ClusterError: The kernel cannot be compiled on this machine.
    """

    @torch.no_grad()
    def __init__(self, transformer: CausalTransformer) -> None:
        self._dtype = transformer.proj_in.weight.dtype
        library = _library(self._dtype)
        self._next_logits, self._room_for_token = library.next_logits, library.room_for_token
        self._next_logits.restype = None
        self._room_for_token.restype = ctypes.c_int64
        self._spare: Tensor | None = None
        self._transformer = transformer
        self._config = transformer.config
        self._eps = transformer.blocks[0].norm1.eps
        last: nn.Module = transformer.proj_out
        # The kernel takes sums in float32.
        transformer.proj_in.float()
        transformer.positional_encoding.data = transformer.positional_encoding.float()
        # One piece of memory in the order of reading: prefetching goes on from layer to layer.
        layers = [*transformer.blocks, last]
        sizes = [[_whole_lines(part) for part in _parts(layer)] for layer in layers]
        memory = huge_empty((sum(chain(*sizes)),), torch.uint8)
        places = iter(memory.split([*chain(*sizes)]))
        self._laid = []
        for layer in layers:
            self._laid.append([_lay(part, next(places)) for part in _parts(layer)])
            _free(layer)

    def start(
        self, context: Float[Tensor, "batch k_nn dim"], guided: bool = False
    ) -> NativeGeneration:
        """Prepare to generate: project the neighbors once, make room for keys and values.

        Args:
            context: Neighbor embeddings, as stored.
            guided: Whether logits for an all-zero context are wanted too.
        """
        config, (samples, neighbors) = self._config, context.shape[:2]
        folded = folds(samples, neighbors, config.head_channels)
        project = _folded if folded else _apart
        # Keys lie in whole vectors of positions.
        of_row = [_whole(config.num_positions, _LANES), config.num_positions]
        counts = [
            (2 * samples if guided and place > 0 else samples) * config.width * positions
            for place in range(config.depth)
            for positions in of_row
        ]
        past = self._take_room(sum(counts))
        parts = iter(past[: sum(counts)].split(counts))
        kept, addresses = [past], []
        for laid, block in zip(self._laid, self._transformer.blocks, strict=False):
            of_batch = [next(parts), next(parts), *project(block.attn2, context)]
            kept += of_batch
            addresses.append([part.data_ptr() for part in (*laid, *of_batch)])
        sizes = torch.tensor(
            [
                config.depth,
                config.width,
                config.num_heads,
                config.head_channels,
                config.num_positions,
                config.vocabulary_out,
                samples,
                neighbors,
                guided,
                folded,
                torch.get_num_threads(),
                0,
            ],
            dtype=torch.int64,
        )
        room = torch.zeros(int(self._room_for_token(_address(sizes))))
        generation = NativeGeneration(sizes, torch.tensor(addresses), room, tuple(kept), guided)
        # Where nobody generates with it any more, the next batch may.
        weakref.finalize(generation, self._give_back, past)
        return generation

    def _take_room(self, count: int) -> Float[Tensor, " room"]:
        """Give memory for keys and values: that of a batch that has ended, if it is enough.

        Memory asked for anew is cleared by the system first, hundreds of MB a batch.
        """
        spare, self._spare = self._spare, None
        if spare is not None and len(spare) >= count:
            return spare
        return huge_empty((count,), self._dtype)

    def _give_back(self, past: Float[Tensor, " room"]) -> None:
        self._spare = past

    def next_logits(
        self, tokens: Int[Tensor, " batch"], position: int, generation: NativeGeneration
    ) -> Float[Tensor, "_ code"]:
        """Give the logits of the code that follows; see ``CausalTransformer.next_logits``."""
        embedded = self._transformer.embed(tokens[:, None], position).contiguous()
        rows = 2 * len(tokens) if generation.guided else len(tokens)
        logits = embedded.new_empty(rows, self._config.vocabulary_out)
        generation.sizes[-1] = position
        self._next_logits(
            _address(generation.sizes),
            _address(generation.blocks),
            *map(_address, self._laid[-1]),
            ctypes.c_float(self._eps),
            _address(embedded),
            _address(generation.room),
            _address(logits),
        )
        return logits


def folds(samples: int, neighbors: int, head_channels: int) -> bool:
    """Say whether what the neighbors give is multiplied with the layers around it beforehand.

    Those are ``samples x neighbors x heads x width`` numbers on either side, in place of
    ``heads x head_channels x width`` weights: fewer to read where this holds.
    """
    return samples * neighbors <= head_channels


def _folded(attention: Attention, context: Float[Tensor, "batch k_nn dim"]) -> list[Tensor]:
    """Multiply keys with the queries' layer, and values with the one behind.

    Returns:
        Per sample and head a row of the width for every neighbor; per sample and 16 outputs those
        outputs for every head and neighbor.
    """
    keys, values = (found.float() for found in attention.keys_values(context))
    channels = keys.shape[-1]
    to_query = attention.to_q.weight.float().unflatten(0, (-1, channels))
    behind = cast(Tensor, attention.to_out[0].weight).float().unflatten(1, (-1, channels))
    of_keys = torch.einsum("shnc,hcw->shnw", keys, to_query) * channels**-0.5
    of_values = torch.einsum("shnc,whc->swhn", values, behind)
    in_blocks = of_values.unflatten(1, (-1, _LANES)).flatten(3).transpose(2, 3)
    return [part.to(context.dtype).contiguous() for part in (of_keys, in_blocks)]


def _apart(attention: Attention, context: Float[Tensor, "batch k_nn dim"]) -> list[Tensor]:
    """Give keys in blocks of 16 neighbors, for each channel 16 side by side, and values."""
    keys, values = attention.keys_values(context)
    missing = -keys.shape[2] % _LANES
    filled = nn.functional.pad(keys, (0, 0, 0, missing))
    in_blocks = filled.unflatten(2, (-1, _LANES)).transpose(3, 4)
    return [in_blocks.contiguous(), values.contiguous()]


def _parts(layer: Any) -> list[Tensor]:
    """Give the weights of a block, or of the last layer, as the kernel lists them."""
    if isinstance(layer, PositionwiseLinear):
        bias: Tensor | None = layer.bias
        return [layer.weight[:, :, 0], torch.zeros(len(layer.weight)) if bias is None else bias]
    within, across, gated, back = layer.attn1, layer.attn2, layer.ff.net[0].proj, layer.ff.net[2]
    return [
        layer.norm1.weight,
        layer.norm1.bias,
        torch.cat([within.to_q.weight, within.to_k.weight, within.to_v.weight]),
        within.to_out[0].weight,
        within.to_out[0].bias,
        layer.norm2.weight,
        layer.norm2.bias,
        across.to_q.weight,
        across.to_out[0].weight,
        across.to_out[0].bias,
        layer.norm3.weight,
        layer.norm3.bias,
        _interleaved(gated.weight),
        _interleaved(gated.bias),
        back.weight,
        back.bias,
    ]


def _free(layer: Any) -> None:
    """Let go of what only the kernel reads from now on; neighbors are projected by PyTorch."""
    if isinstance(layer, PositionwiseLinear):
        del layer.weight
    else:
        del layer.attn1, layer.ff


def _interleaved(gated: Tensor) -> Tensor:
    """Put 16 gates behind the 16 values that they gate."""
    return torch.stack([half.unflatten(0, (-1, _LANES)) for half in gated.chunk(2)], 1).flatten(
        0, 2
    )


def _lay(layer: Tensor, place: UInt8[Tensor, " byte"]) -> Tensor:
    """Copy a vector, or a matrix in chunks of inputs and blocks of outputs, to where it is read."""
    numbers = place.view(_kept_in(layer))[: layer.numel()]
    if layer.ndim == 1:
        return numbers.copy_(layer)
    begin = 0
    for chunk in layer.split(_CHUNK, dim=1):
        blocks = chunk.unflatten(0, (-1, _LANES)).unflatten(2, (-1, _PAIRED[layer.dtype]))
        blocks = blocks.transpose(1, 2)
        numbers[begin : begin + chunk.numel()].view(blocks.shape).copy_(blocks)
        begin += chunk.numel()
    return numbers


def _kept_in(layer: Tensor) -> torch.dtype:
    """Name the type of a matrix, or of a vector: few numbers, which sums in float32 meet."""
    return torch.float32 if layer.ndim == 1 else layer.dtype


def _whole_lines(layer: Tensor) -> int:
    """Give the bytes that a layer fills, in whole lines of the caches."""
    return _whole(layer.numel() * _kept_in(layer).itemsize, _LINE)


def _whole(count: int, of: int) -> int:
    """Round up to a multiple."""
    return -(-count // of) * of


def _library(dtype: torch.dtype) -> ctypes.CDLL:
    """Load the kernel for a type. Where the system keeps AMX from a process, it does without."""
    if dtype == torch.float32:
        return native_library(SOURCE)
    library = native_library(SOURCE, _BFLOAT16)
    return library if library.may_multiply() else native_library(SOURCE, (*_BFLOAT16, _NO_TILES))


def _address(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
