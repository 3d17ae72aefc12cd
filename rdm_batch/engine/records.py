"""From rendered images to the rows of a sample set."""

from __future__ import annotations

import pyarrow as pa

from rdm_batch.engine.worker import RenderedShard
from rdm_batch.specs.sampling import SamplingSpec
from rdm_batch.storage.png import encode_png
from rdm_batch.storage.table import make_table


def shard_table(rendered: RenderedShard, sampling: SamplingSpec) -> pa.Table:
    """Encode a shard's images and put them beside their provenance.

    Args:
        rendered: The shard.
        sampling: How it was drawn.
    """
    conditioning = rendered.inputs.conditioning
    shard = rendered.shard
    return make_table(
        sample_indices=shard.indices,
        images=[encode_png(image) for image in rendered.images],
        seed=sampling.seed,
        query_ids=conditioning.query_ids,
        neighbor_ids=conditioning.neighbor_ids,
        neighbor_scores=conditioning.neighbor_scores,
        labels=rendered.inputs.labels,
        prompts=rendered.inputs.prompts,
        sampler=sampling.sampler,
        num_steps=getattr(sampling, "num_steps", None),
        eta=getattr(sampling, "eta", None),
        guidance_scale=sampling.guidance_scale,
    )
