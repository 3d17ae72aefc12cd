"""Compile a few steps of every objective, and print what came of it as JSON.

A program of its own: under pytest every annotation is checked, and what checks cannot be compiled.
The backend leaves out code generation, which takes minutes and knows nothing of the objectives.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.models.clip import build_clip, collect_vocabulary
from rdm_batch.models.unet import UNet
from rdm_batch.specs.networks import ClipArchitecture, KlAutoencoderConfig
from rdm_batch.training.autoencoder import KlObjective, VqObjective
from rdm_batch.training.clip import ClipObjective
from rdm_batch.training.context import NeighborContext, QueryContext
from rdm_batch.training.images import TrainingImages
from rdm_batch.training.knn_discrete import KnnDiscreteObjective
from rdm_batch.training.loop import Objective
from rdm_batch.training.rarm import RarmObjective
from rdm_batch.training.rdm import RdmObjective
from rdm_batch.training.text_tower import TextTowerObjective
from tests.tiny_heads import TINY_KNN_DISCRETE, TINY_RARM, TINY_RDM, TINY_VQ

STEPS = 4
_IMAGES = 12
_CLIP = ClipArchitecture(
    name="tiny", embed_dim=8, vision_width=4, text_width=16, head_width=8, text_layers=1,
    vocabulary=("a",),
)  # fmt: skip


def objectives() -> Iterator[tuple[str, Objective]]:
    """Make one of every kind, each with the same weights and data whenever it is made."""
    generator = torch.Generator().manual_seed(0)
    images = TrainingImages.load(ShapesSource("train", _IMAGES), TINY_VQ.resolution)
    embeddings = torch.randn(20, 6, generator=generator)
    neighbors = NeighborContext(
        torch.randint(20, (_IMAGES, 3), generator=generator), embeddings, 3, 0.1
    )
    query = QueryContext(embeddings[:_IMAGES], neighbors, 0.1)
    latents = torch.randn(_IMAGES, *TINY_RDM.latent_shape, generator=generator)
    codes = torch.randint(16, (_IMAGES, 16), generator=generator)
    torch.manual_seed(0)
    schedule = TINY_RDM.noise_schedule
    yield "rdm", RdmObjective(latents, neighbors, UNet(TINY_RDM.unet), schedule)
    yield "rarm", RarmObjective(codes, neighbors, TINY_RARM.transformer, TINY_RARM.start_token)
    transformer = TINY_KNN_DISCRETE.transformer
    yield (
        "knn_discrete",
        KnnDiscreteObjective(
            codes, query, transformer, 5e-4, torch.randn(transformer.codebook_size, 3)
        ),
    )
    yield "vq", VqObjective(images, TINY_VQ, 1, 2, 3, freeze_encoder_from=3)
    gaussian = KlAutoencoderConfig(**TINY_VQ.model_dump(exclude={"kind", "codebook_size"}))
    yield "kl", KlObjective(images, gaussian, 1e-4)
    captioned = TrainingImages.load(ShapesSource("captions", _IMAGES), 32)
    words = collect_vocabulary(caption for caption in captioned.captions if caption)
    clip = _CLIP.model_copy(update={"vocabulary": words})
    yield "clip", ClipObjective(captioned, clip, 30.0)
    yield "text_tower", TextTowerObjective(captioned, build_clip(clip), clip, 30.0, 1.0)


def losses_of(objective: Objective) -> list[float]:
    """Make a few steps; give the loss of each."""
    network = objective.network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=1e-2)
    found: list[float] = []
    for step in range(STEPS):
        rows = torch.from_numpy(np.arange(4 * step, 4 * step + 4) % _IMAGES)
        loss = objective.loss(step, rows, torch.Generator().manual_seed(step))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return found


def main() -> None:
    """Compare every objective with itself compiled."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = functools.partial(torch.compile, dynamic=False, fullgraph=True, backend=backend)
    found: dict[str, Any] = {}
    plain = {name: losses_of(objective) for name, objective in objectives()}
    for name, objective in objectives():
        torch._dynamo.reset()
        graphs.clear()
        objective.compile(compiled)
        losses = losses_of(objective)
        found[name] = {"plain": plain[name], "compiled": losses, "graphs": len(graphs)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
