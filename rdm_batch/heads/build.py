"""From an architecture, its weights and the sampling part of a job to a head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from rdm_batch.heads.head import Head, HowDrawn
from rdm_batch.heads.knn_continuous import KnnContinuousHead
from rdm_batch.heads.knn_discrete import KnnDiscreteHead
from rdm_batch.heads.network_head import NetworkHead
from rdm_batch.heads.null import NullHead
from rdm_batch.heads.rarm import RarmHead
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.models.networks import HeadNetworks, RdmNetworks, load_networks
from rdm_batch.specs.edits import EditSpec
from rdm_batch.specs.families import Architecture
from rdm_batch.specs.precisions import Precision
from rdm_batch.specs.sampling import SamplingSpec

HEADS: Final[dict[str, type[NetworkHead]]] = {
    "rdm": RdmHead,
    "rarm": RarmHead,
    "knn_discrete": KnnDiscreteHead,
    "knn_continuous": KnnContinuousHead,
}
"""The head of every family with networks; see ``specs.families``."""
PLAIN_HEADS: Final[dict[str, Callable[[int, int], Head]]] = {"noise": NullHead}
"""Heads without networks, from the size of their images and the width of embeddings."""


def build_head(
    architecture: Architecture,
    state_dict: Mapping[str, Tensor],
    sampling: SamplingSpec,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    compile: bool = False,
) -> Head:
    """Build a head whose networks take over the given tensors without copying them.

    Args:
        architecture: Sizes of the networks.
        state_dict: Their weights, as ``checkpoint.load_checkpoint`` gives them.
        sampling: Sampler and its settings.
        device: Where to compute.
        precision: Arithmetic of the networks.
        compile: Whether to compile the UNet or the transformer.

    Raises:
        SpecError: The sampler does not drive this kind of head, or a setting is out of range.
    """
    networks = load_networks(architecture, state_dict)
    return build_head_around(networks, sampling, device, precision, compile)


def build_head_around(
    networks: HeadNetworks,
    sampling: SamplingSpec,
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    compile: bool = False,
    weaker: HeadNetworks | None = None,
    edit: EditSpec | None = None,
) -> Head:
    """Build a head around networks, which it takes over; see ``build_head``.

    Where nobody else holds the networks' tensors, converting them to another precision or
    moving them frees them one by one.

    Args:
        networks: The head's.
        sampling: Sampler and its settings.
        device: Where to compute.
        precision: Arithmetic of the networks.
        compile: Whether to compile the UNet or the transformer.
        weaker: Networks of the head that ``sampling.autoguidance`` names; taken over too.
        edit: How given pictures are made into others. None: the head makes them from nothing.
    """
    head = HEADS[networks.architecture.kind]
    if weaker is None and edit is None:
        return head.build(networks, sampling, device, precision, compile)
    assert issubclass(head, RdmHead)
    assert isinstance(networks, RdmNetworks)
    assert weaker is None or isinstance(weaker, RdmNetworks)
    return head.build(networks, sampling, device, precision, compile, weaker, edit)


def build_heads_around(
    networks: HeadNetworks,
    ways: Sequence[HowDrawn],
    device: torch.device | str = "cpu",
    precision: Precision = "float32",
    compile: bool = False,
    weaker: HeadNetworks | None = None,
) -> list[Head]:
    """Build heads that draw in several ways around the same networks; see ``build_head_around``.

    Each draws what a head of its own would, byte for byte. They are entered by one thread.

    Args:
        networks: The heads', which they take over.
        ways: How each draws; all with autoguidance where there is a weaker head, else none.
        device: Where to compute.
        precision: Arithmetic of the networks.
        compile: Whether to compile the UNet or the transformer.
        weaker: Networks of the head that ``autoguidance`` of all of them names.
    """
    kind, own, others = HEADS[networks.architecture.kind], ways[0], ways[1:]
    prepared = [kind.prepare(networks, weaker, one, device, precision) for one in others]
    first = build_head_around(networks, own.sampling, device, precision, compile, weaker, own.edit)
    assert isinstance(first, NetworkHead)
    return [first, *(first.beside(*each) for each in zip(others, prepared, strict=True))]
