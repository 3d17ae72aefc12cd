"""Train a KNN-Diffusion head over latents to make given pictures into others, without a mask.

Sheynin et al. 2023 (arXiv:2204.02849): parts of a picture are replaced by those of another, and
the head learns to bring the picture back from that and from the picture's own embedding. So it
changes what does not fit the embedding, and keeps the rest.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from torch import Tensor, nn

from rdm_batch.errors import CheckpointError, SpecError
from rdm_batch.files import written_aside
from rdm_batch.heads.head import EditingHead
from rdm_batch.heads.knn_continuous import KnnContinuousHead
from rdm_batch.inputs.databases import Database
from rdm_batch.models.autoencoder import KlAutoencoder, VqAutoencoder
from rdm_batch.models.checkpoint import Checkpoint, load_checkpoint
from rdm_batch.models.pixels import from_uint8
from rdm_batch.models.query_unet import QueryUNet
from rdm_batch.sampling.ddim import DdimSolver
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.sampling.schedules import NoiseSchedule
from rdm_batch.specs.families import KnnContinuousArchitecture
from rdm_batch.specs.training import KnnEditTraining
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.alignment import AlikePartners, Pairs, align_all, opencv
from rdm_batch.training.content import pixels_of, some_rows
from rdm_batch.training.context import NeighborContext, QueryContext, TrainingContext
from rdm_batch.training.heads import HeadPlan, Weights, train_head
from rdm_batch.training.images import TrainingImages, on_device_of
from rdm_batch.training.loop import Compile
from rdm_batch.training.rdm import encode_latents

_PREFIX = "model.diffusion_model."
_STEM = "input_blocks.0.0.weight"
_LEAST_SIDE, _MOST_SIDE = 0.25, 0.75
"""Sides of a box, by the picture's: what is given always shows some of the picture."""
PAIRS_NAME = "pairs.json"


class EditObjective:
    """Predict noise: |eps - eps_theta(z_t, t, z_replaced, context)|^2, t uniform.

    z_replaced are the latents of the picture with parts of another in it.

    Args:
        latents: Latents of the training set, of about unit variance.
        pixels: The training set.
        pairs: What parts are replaced from.
        max_boxes: Boxes replaced in a picture, at most.
        whole_share: Share of the examples whose picture is replaced as a whole.
        autoencoder: Encodes pictures with replaced parts, where the network computes.
        context: Gives query and neighbors of the training images.
        unet: The network.
        architecture: Of the head.
    """

    def __init__(
        self,
        latents: Float[Tensor, "image channel height width"],
        pixels: UInt8[Tensor, "image _ _ 3"],
        pairs: Pairs,
        max_boxes: int,
        whole_share: float,
        autoencoder: VqAutoencoder | KlAutoencoder,
        context: TrainingContext,
        unet: QueryUNet,
        architecture: KnnContinuousArchitecture,
    ) -> None:
        self.network = unet
        self._latents = latents
        self._pixels = pixels
        self._rows = torch.from_numpy(pairs.rows)
        self._partners = torch.from_numpy(pairs.partners)
        self._max_boxes = max_boxes
        self._whole_share = whole_share
        self._autoencoder = autoencoder
        self._scale = architecture.scale_factor
        self._context = context
        self._compute = self._error
        schedule = NoiseSchedule.from_config(architecture.noise_schedule)
        self._alphas = torch.from_numpy(schedule.alphas_cumprod)

    def loss(self, step: int, rows: Int64[Tensor, " batch"], generator: torch.Generator) -> Tensor:
        """Compute the squared error of the predicted noise of one batch."""
        images = self._rows[rows]
        clean = self._latents[images]
        times = torch.randint(len(self._alphas), rows.shape, generator=generator)
        noise = torch.randn(clean.shape, generator=generator)
        context = self._context(images, generator)
        alpha = self._alphas[times][:, None, None, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        replaced = self.replaced(rows, generator)
        noisy, times, context, noise, replaced = on_device_of(
            self.network, noisy, times, context, noise, replaced
        )
        with torch.no_grad():
            source = self._autoencoder.encode(from_uint8(replaced)) * self._scale
        return self._compute(torch.cat([noisy, source], dim=1), times, context, noise)

    def replaced(
        self, rows: Int64[Tensor, " batch"], generator: torch.Generator
    ) -> UInt8[Tensor, "batch _ _ 3"]:
        """Give the pictures of some pairs with parts of them replaced."""
        images = self._pixels[self._rows[rows]]
        height, width = images.shape[1:3]
        inside = draw_boxes(len(rows), height, width, self._max_boxes, generator)
        if self._whole_share:
            whole = torch.rand(rows.shape, generator=generator) < self._whole_share
            inside |= whole[:, None, None]
        return torch.where(inside[..., None], self._partners[rows], images)

    def compile(self, compiled: Compile) -> None:
        """Compile the network and its error; see ``Objective``."""
        self._compute = compiled(self._error)

    def _error(
        self,
        given: Float[Tensor, "batch given height width"],
        times: Int64[Tensor, " batch"],
        context: Float[Tensor, "batch entry dim"],
        noise: Float[Tensor, "batch channel height width"],
    ) -> Float[Tensor, ""]:
        return F.mse_loss(self.network(given, times, context).float(), noise)


def draw_boxes(
    count: int, height: int, width: int, max_boxes: int, generator: torch.Generator
) -> Bool[Tensor, "count height width"]:
    """Draw one to ``max_boxes`` boxes in each of some pictures.

    Their sides are a quarter to three quarters of the picture's.

    Returns:
        Whether a pixel lies in one.
    """
    how_many = torch.randint(1, max_boxes + 1, (count,), generator=generator)
    chance = torch.rand((4, count, max_boxes), generator=generator)
    drawn = []
    for axis, length in enumerate((height, width)):
        side = (_LEAST_SIDE + (_MOST_SIDE - _LEAST_SIDE) * chance[2 * axis]) * length
        first = chance[2 * axis + 1] * (length - side)
        at = torch.arange(length) + 0.5
        drawn.append((at >= first[..., None]) & (at < (first + side)[..., None]))
    inside = drawn[0][..., :, None] & drawn[1][..., None, :]
    used = torch.arange(max_boxes) < how_many[:, None]
    return (inside & used[..., None, None]).any(dim=1)


@dataclass(frozen=True)
class _Previews:
    """Draw edits of pictures with replaced parts, as ``generate`` draws from nothing.

    Attributes:
        head: Edits them.
        sources: The pictures.
    """

    head: EditingHead
    sources: UInt8[np.ndarray, "shown height width 3"]

    def generate(
        self, context: Float32[np.ndarray, "batch k_nn dim"], noise: SampleNoise
    ) -> UInt8[np.ndarray, "batch height width 3"]:
        """Edit the pictures."""
        return self.head.start_edit(context, self.sources[: len(context)], noise).collect()


def train_knn_edit(spec: KnnEditTraining, out: Path, resume: bool) -> Path:
    """Train a head to edit; see ``train_head``.

    What became of the pairs is written to ``pairs.json``.

    Raises:
        SpecError: OpenCV is not installed, or what is named does not fit together.
    """
    opencv()
    Database.open(spec.database).check_images("database")

    def plan(
        spec: KnnEditTraining,
        autoencoder: VqAutoencoder | KlAutoencoder,
        images: TrainingImages,
        context: TrainingContext,
    ) -> HeadPlan:
        return _plan(spec, autoencoder, images, context, out)

    return train_head(spec, out, resume, plan)


def _plan(
    spec: KnnEditTraining,
    autoencoder: VqAutoencoder | KlAutoencoder,
    images: TrainingImages,
    context: TrainingContext,
    out: Path,
) -> HeadPlan:
    begun = _begun(spec, autoencoder)
    assert isinstance(begun.architecture, KnnContinuousArchitecture)  # checked
    sizes = begun.architecture.unet
    unet = sizes.model_copy(update={"source_channels": sizes.latent_channels})
    architecture = begun.architecture.model_copy(update={"unet": unet})
    pairs = find_pairs(spec, images, context)
    _record(out, pairs)
    latents = encode_latents(autoencoder, images) * architecture.scale_factor

    def objective() -> EditObjective:
        return EditObjective(
            latents,
            images.pixels,
            pairs,
            spec.max_boxes,
            spec.whole_share,
            autoencoder,
            context,
            QueryUNet(unet),
            architecture,
        )

    solver = DdimSolver(NoiseSchedule.from_config(architecture.noise_schedule), spec.preview_steps)
    return HeadPlan(
        architecture,
        objective,
        _PREFIX,
        lambda networks, device: _Previews(
            KnnContinuousHead(networks, solver, device=device), images.pixels.numpy()
        ),
        num_rows=len(pairs.rows),
        widen=widened,
    )


def widened(weights: Weights, network: nn.Module) -> Weights:
    """Give the weights of a network that is given no picture to one that is.

    The first layer has new inputs, whose weights are zero: the network predicts what it did.
    """
    stem = torch.zeros_like(network.state_dict()[_STEM])
    stem[:, : weights[_STEM].shape[1]] = weights[_STEM]
    return {**weights, _STEM: stem}


def find_pairs(spec: KnnEditTraining, images: TrainingImages, context: TrainingContext) -> Pairs:
    """Find a partner for every training picture, aligned to it.

    Raises:
        SpecError: Partners are to be nearest neighbors and there are none, pictures of the
            database have another size, or none of them fits.
        DatabaseError: The database keeps no pixels, or a file of it is damaged.
    """
    pixels = images.pixels.numpy()
    size = pixels.shape[1]
    if spec.partner == "alike":
        num_rows = Database.open(spec.database).manifest.rows
        pool = pixels_of(spec.database, some_rows(num_rows, spec.optimization.seed), size)
        alike = AlikePartners(pixels, pool, spec.candidates, spec.optimization.seed)
        return align_all(pixels, alike, spec.least_correlation)
    nearest = context.nearest if isinstance(context, QueryContext | NeighborContext) else None
    if nearest is None:
        raise SpecError("partner", "is 'nearest', but k_train is 0", "neighbors, or alike")
    distinct, places = np.unique(nearest.numpy(), return_inverse=True)
    kept = pixels_of(spec.database, distinct, size)
    return align_all(pixels, lambda row: kept[places[row]], spec.least_correlation)


def _begun(spec: KnnEditTraining, autoencoder: VqAutoencoder | KlAutoencoder) -> Checkpoint:
    """Load the head that training goes on from.

    Raises:
        CheckpointError: It is of another kind or other sizes, or of another autoencoder.
    """
    begun = load_checkpoint(local_path(spec.initialize_from, error=CheckpointError), None)
    architecture = begun.architecture
    needed = "weights of `train knn_continuous` with the unet and autoencoder named here"
    if not isinstance(architecture, KnnContinuousArchitecture):
        raise CheckpointError(
            f"initialize_from {spec.initialize_from}", f"holds a {architecture.kind!r} head", needed
        )
    same = (
        architecture.unet == spec.unet
        and architecture.autoencoder == autoencoder.config
        and architecture.noise_schedule == spec.noise_schedule
    )
    own = begun.state_dict
    same = same and all(
        torch.equal(own[f"first_stage_model.{name}"].float(), tensor.cpu())
        for name, tensor in autoencoder.state_dict().items()
    )
    if not same:
        raise CheckpointError(
            f"initialize_from {spec.initialize_from}", "has other sizes or latents", needed
        )
    return begun


def _record(out: Path, pairs: Pairs) -> None:
    """Say how many pictures were left out, and keep it."""
    total = len(pairs.rows) + pairs.num_skipped
    print(
        f"{pairs.num_skipped:,} of {total:,} pictures are skipped ({pairs.skipped_share:.1%}): "
        "no partner could be aligned to them well enough",
        file=sys.stderr,
    )
    out.mkdir(parents=True, exist_ok=True)
    found = {"pictures": total, "skipped": pairs.num_skipped, "share": pairs.skipped_share}
    with written_aside(out / PAIRS_NAME) as aside:
        aside.write_text(json.dumps(found))
