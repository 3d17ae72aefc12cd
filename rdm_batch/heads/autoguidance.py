"""What a weaker head has to share with the head that is guided away from it.

Karras et al. 2024 (arXiv:2406.02507): both predict the noise in the same latents, at the same
times.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from rdm_batch.errors import CheckpointError, RdmBatchError, SpecError
from rdm_batch.models.networks import HeadNetworks
from rdm_batch.specs.families import Architecture, RdmArchitecture

_WHERE = "sampling.autoguidance"
# Weights are stored in 16 bits or 32: what differs by more than their rounding is another network.
_ROUNDING = 1e-2
# Scales of latents are estimated from the training set, each time a head is trained, and rounded.
_SCALES = 1e-3


def weaker_problems(head: Architecture, weaker: Architecture) -> Iterator[RdmBatchError]:
    """List why the predictions of one head cannot be guided away from those of another.

    Args:
        head: Of the head that draws.
        weaker: Of the other one.
    """
    if weaker.kind != head.kind:
        yield SpecError(_WHERE, f"names a {weaker.kind!r} head", f"one of kind {head.kind!r}")
        return
    if not isinstance(head, RdmArchitecture) or not isinstance(weaker, RdmArchitecture):
        return
    shared = ("autoencoder", "latent_size", "noise_schedule")
    other = [name for name in shared if getattr(head, name) != getattr(weaker, name)]
    if abs(weaker.scale_factor / head.scale_factor - 1) > _SCALES:
        other.append("scale_factor")
    if other:
        yield SpecError(
            _WHERE,
            f"names a head of other latents or times: its {' and '.join(other)} differ",
            "a head trained on the same autoencoder and noise schedule",
        )
    if not weaker.parametric and weaker.context_dim != head.context_dim:
        yield SpecError(
            _WHERE,
            f"names a head that attends to {weaker.context_dim} dimensions",
            f"{head.context_dim} dimensions, as the head's",
        )


def check_same_latents(networks: HeadNetworks, weaker: HeadNetworks) -> None:
    """Make sure that two heads have the same autoencoder, not only one of the same sizes.

    Raises:
        CheckpointError: A tensor of the first stage differs by more than rounding explains.
    """
    prefix = "first_stage_model."
    others = weaker.state_dict()
    for name, tensor in networks.state_dict().items():
        if not name.startswith(prefix) or not tensor.is_floating_point():
            continue
        own, other = tensor.float(), others[name].float()
        largest = float(own.abs().max())
        if not torch.allclose(own, other, rtol=0, atol=_ROUNDING * largest):
            raise CheckpointError(
                f"{_WHERE}.checkpoint",
                f"was trained on another autoencoder: its {name} is another one's",
                "a head trained on the same autoencoder, whose latents are the same",
            )
