"""Build a job's conditioner; texts are embedded on the cluster, not by who asks for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32

from rdm_batch.engine.conditioner import (
    VARIANTS,
    ClassConditioner,
    Conditioner,
    TextConditioner,
    UnconditionalConditioner,
)
from rdm_batch.engine.preflight import CheckedJob
from rdm_batch.inputs.databases import load_proposal
from rdm_batch.retrieval.proposal import every_row
from rdm_batch.specs.conditioning import ClassConditioning, TextConditioning
from rdm_batch.specs.job import EncoderSpec

Embed = Callable[[EncoderSpec, tuple[str, ...]], Float32[np.ndarray, "texts dim"]]
"""Embed texts with an encoder, wherever there is room for it."""


def build_conditioner(job: CheckedJob, embed: Embed) -> Conditioner:
    """Build what conditions the samples of a job.

    Args:
        job: The job.
        embed: Embeds its texts, where it has any.

    Raises:
        RdmBatchError: The proposal distribution or the encoder cannot be used.
    """
    spec = job.spec
    conditioning = spec.conditioning
    if job.prompts is None:
        return _unconditional(job)
    assert spec.database.encoder is not None  # the spec demands it where texts are embedded
    texts = job.prompts.texts
    embeddings = embed(spec.database.encoder, texts)
    if isinstance(conditioning, ClassConditioning):
        return ClassConditioner(
            conditioning.labels, texts, embeddings, conditioning.k_nn, conditioning.pool_size
        )
    assert isinstance(conditioning, TextConditioning)
    return TextConditioner(texts, embeddings, conditioning.k_nn, VARIANTS[conditioning.context])


def _unconditional(job: CheckedJob) -> Conditioner:
    conditioning = job.spec.conditioning
    assert conditioning.mode == "unconditional"
    proposal = load_proposal(job.spec.database.uri, job.manifest)
    if proposal is None:
        proposal = every_row(job.manifest.rows)
    return UnconditionalConditioner(
        proposal.truncate(conditioning.top_m), conditioning.k_nn, conditioning.weighting
    )
