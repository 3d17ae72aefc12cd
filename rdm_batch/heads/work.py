"""How many operations a sample takes, and how many a GPU can do at best."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch

from rdm_batch.backends import multiplying
from rdm_batch.heads.arithmetic import torch_dtype
from rdm_batch.heads.build import build_head_around
from rdm_batch.heads.drawing import mark
from rdm_batch.heads.network_head import NetworkHead
from rdm_batch.models.networks import build_networks
from rdm_batch.specs.edits import EditSpec
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.precisions import PRECISIONS, Precision
from rdm_batch.specs.sampling import SamplingSpec

_PEAK_SIZE = 8192
"""Rows and columns of the product a GPU's peak is measured with; 1 ms on the fastest."""
_PEAK_REPEATS = 5


def count_flops(run: Callable[[], object]) -> float:
    """Count the floating-point operations of a computation, a multiply-add as two.

    Those of products, convolutions and attention, as ``torch.utils.flop_counter`` has them.

    Args:
        run: The computation; on tensors of the meta device it costs next to nothing.
    """
    from torch.utils.flop_counter import FlopCounterMode  # takes half a second

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        run()
    return float(counter.get_total_flops())


def flops_per_sample(
    architecture: Architecture,
    sampling: SamplingSpec,
    entries: int,
    weaker: Architecture | None = None,
    edit: EditSpec | None = None,
) -> float:
    """Count the operations that drawing and decoding a sample takes, without weights.

    What a head leaves out (docs/decisions/heads-leave-work-out.md) is not counted, nor is what it
    does in vain: rows that fill up a batch, positions that a compiled transformer masks out.

    Args:
        architecture: Of the head.
        sampling: Sampler and its settings.
        entries: Entries of a sample's context.
        weaker: Of the head that ``sampling.autoguidance`` names.
        edit: How given pictures are made into others. None: pictures are made from nothing.
    """
    with torch.device("meta"):
        networks = build_networks(architecture)
        others = None if weaker is None else build_networks(weaker)
    # On the meta device nothing is stored, so the arithmetic does not matter.
    head = build_head_around(networks, sampling, "meta", weaker=others, edit=edit)
    assert isinstance(head, NetworkHead)
    context = torch.zeros(1, entries, architecture.context_dim, device="meta")
    return head.work_of(context, count_flops)


def measure_peak(precision: Precision, device: torch.device | str = "cuda") -> float:
    """Measure the rate of a GPU in large matrix products: the best of a few, below a second.

    Args:
        precision: Arithmetic of the factors.
        device: The GPU.

    Returns:
        Floating-point operations a second.
    """
    dtype = torch_dtype(precision)
    with torch.inference_mode(), multiplying(PRECISIONS[precision].tf32):
        left, right = (
            torch.randn(_PEAK_SIZE, _PEAK_SIZE, device=device).to(dtype) for _ in range(2)
        )
        product = left @ right
        marks = [mark()]
        for _ in range(_PEAK_REPEATS):
            torch.mm(left, right, out=product)
            marks.append(mark())
        marks[-1].synchronize()
        best_ms = min(before.elapsed_time(after) for before, after in pairwise(marks))
    return 2 * _PEAK_SIZE**3 / (best_ms * 1e-3)
