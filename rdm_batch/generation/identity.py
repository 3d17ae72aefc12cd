"""What defines the samples of a job, and nothing else (design D1).

Two jobs with the same identity make the same bytes. Files enter by their content, not by
where they are stored; the cluster, the evaluation, the job's name and the output location
do not enter at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rdm_batch.files import canonical_digest
from rdm_batch.specs.job import JobSpec

_NOT_IDENTITY = {
    "name": True,
    "cluster": True,
    "evaluation": True,
    "model": {"checkpoint", "preset", "architecture"},
    "sampling": {"autoguidance": {"checkpoint", "preset", "architecture"}},
    "database": {"uri", "encoder", "retriever_shards"},
    "conditioning": {
        *("prompts", "prompts_file", "prompt_column", "columns"),
        *("images", "file", "column", "rows", "rows_file", "through"),
    },
    "output": {"uri"},
}
_LATER: dict[tuple[str, str], Any] = {
    ("database", "reorder"): None,
    ("sampling", "guidance_interval"): None,
    ("sampling", "autoguidance"): None,
    ("sampling", "reuse_deep_features"): 1,
    ("conditioning", "samples_per_query"): 1,
    ("conditioning", "query_weight"): None,
    ("conditioning", "common_pseudo_queries"): False,
}
"""Fields that jobs did not have once, and what they are where left alone: then they do not enter,
so that sample sets of before can be completed."""


@dataclass(frozen=True)
class ContentDigests:
    """Digests of the files a job reads.

    Args:
        checkpoint: Of the weights and the architecture used. None for a head without.
        database: Of the database manifest, which covers its embeddings and indexes.
        encoder: Of the encoder weights. None when no text is embedded.
        prompts: The prompts in order, read from wherever they stand. None without text.
        columns: Of what stands beside the prompts and is recorded. None where nothing does.
        queries: Of pictures, embeddings or rows that are given. None without such.
        weaker: Of the weights and the architecture that ``sampling.autoguidance`` names.
    """

    checkpoint: str | None
    database: str
    encoder: str | None
    prompts: tuple[str, ...] | None
    columns: str | None = None
    queries: str | None = None
    weaker: str | None = None


def job_identity(spec: JobSpec, contents: ContentDigests) -> dict[str, Any]:
    """Collect everything that defines the samples, as plain JSON values."""
    identity: dict[str, Any] = spec.model_dump(mode="json", exclude=_NOT_IDENTITY)  # type: ignore[arg-type]
    for (part, field), left_alone in _LATER.items():
        if identity[part].get(field, left_alone) == left_alone:
            identity[part].pop(field, None)
    if identity["database"]["engine"] != "exact":
        # `auto` follows from the database, whose digest is here.
        del identity["database"]["engine"]
    identity["model"]["checkpoint_digest"] = contents.checkpoint
    identity["database"]["digest"] = contents.database
    if contents.weaker is not None:
        identity["sampling"]["autoguidance"]["checkpoint_digest"] = contents.weaker
    if contents.encoder is not None:
        identity["database"]["encoder_digest"] = contents.encoder
    if contents.prompts is not None:
        identity["conditioning"]["num_prompts"] = len(contents.prompts)
        identity["conditioning"]["prompts_digest"] = canonical_digest(
            list(contents.prompts), escape=False
        )
    if contents.columns is not None:
        identity["conditioning"]["prompt_columns_digest"] = contents.columns
    if contents.queries is not None:
        identity["conditioning"]["queries_digest"] = contents.queries
    return identity
