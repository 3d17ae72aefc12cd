"""The job file: one generation and evaluation run, declared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, model_validator

from rdm_batch.specs.base import OutputUri, Spec, Uri
from rdm_batch.specs.conditioning import ConditioningSpec
from rdm_batch.specs.database import EngineChoice
from rdm_batch.specs.families import ModelSpec
from rdm_batch.specs.image_resize import ImageResize
from rdm_batch.specs.sampling import MAX_SHARD_SAMPLES, SamplingSpec, samplers_of
from rdm_batch.specs.scores import SCORES, ScoreKind


class EncoderSpec(Spec):
    """The CLIP that embeds prompts and images."""

    name: str = Field(
        description="`shapes-clip` for the embedded world's, or an open_clip architecture such as "
        "`ViT-B-32-quickgelu`."
    )
    weights: Uri | None = Field(
        default=None, description="Weights file. None for `shapes-clip`, whose weights ship here."
    )


class DatabaseSpec(Spec):
    """The retrieval database and how hard to search it."""

    uri: Uri = Field(description="A database made by `rdm-batch database build`.")
    encoder: EncoderSpec | None = Field(
        default=None,
        description="Encoder for prompts, labels and query pictures; must be the one the database "
        "was built with. Conditioning that embeds nothing does without.",
    )
    retriever_shards: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Retriever actors; the database's index shards are spread over them. "
        "None: one actor for each index shard. Never changes results.",
    )
    engine: EngineChoice = Field(
        default="auto",
        description="`scann` searches the index of each shard. `exact` streams all rows past all "
        "queries of the job once, ahead of generation: no index, bounded memory, on GPUs where "
        "there are any. `auto` is `scann` unless a shard has no index. `--dry-run` tells what "
        "each costs.",
    )
    leaves_to_search: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Search effort: partitions of the index searched for a query. None: as "
        "built, for pictures or for texts.",
    )
    reorder: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Search effort: candidates of a partitioned shard that are rescored from less "
        "compressed vectors, for a query. None: as built.",
    )


class OutputSpec(Spec):
    """Where the sample set goes."""

    uri: OutputUri = Field(
        description="Folder or `s3://bucket/prefix` of the sample set. Running the same job again "
        "completes what is missing there; another job is refused."
    )
    shard_size: Annotated[int, Field(ge=1, le=MAX_SHARD_SAMPLES)] = Field(
        default=256, description="Samples per shard: the unit of work, of commit and of resume."
    )


class ExtractorSpec(Spec):
    """The network whose features the scores compare."""

    name: str = Field(
        description="`shapes-clip`, `inception-v3-compat`, `vgg16`, `dinov2-vit-s-14` (or `b`, "
        "`l`, `g`), or an open_clip architecture."
    )
    weights: Uri | None = Field(
        default=None, description="Weights file. None for `shapes-clip`, whose weights ship here."
    )
    resize: Literal["tensorflow-bilinear", "clean-bicubic"] | None = Field(
        default=None,
        description="How images get to the size `inception-v3-compat`, `vgg16` and `dinov2-*` see. "
        "None: `tensorflow-bilinear`, as FID was first computed. Image-text encoders have their "
        "own.",
    )


def _listed(fits: Callable[[ScoreKind], bool]) -> str:
    """List the scores of certain needs, for a description."""
    *names, last = (f"`{kind.id}`" for kind in SCORES.values() if fits(kind))
    return f"{', '.join(names)} and {last}" if names else last


_OF_ENCODER = _listed(lambda kind: kind.features_of == "encoder")
_OF_HELD_OUT = _listed(lambda kind: "held_out" in kind.distances)


class EvaluationSpec(Spec):
    """How the finished set is judged."""

    reference: Uri = Field(
        description="What to judge against: saved statistics (`rdm-batch reference build`), a "
        "sample set, a folder or parquet of images, an ADM `.npz`, or `shapes:SUBSET[:COUNT]`."
    )
    scores: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default=("fid", "precision", "recall"),
        strict=False,
        description="Scores to compute (docs/scores.md): "
        + "; ".join(f"`{kind.id}` {kind.summary}" for kind in SCORES.values())
        + ".",
    )
    extractor: ExtractorSpec = Field(description="Feature extractor.")
    resize: ImageResize | None = Field(
        default=None,
        description="How photographs of several sizes are brought to one: all images judged and "
        "judged against that have another size. Part of the description of every score. None: "
        "images of several sizes are refused.",
    )
    encoder: EncoderSpec | None = Field(
        default=None,
        description=f"Image-text encoder of {_OF_ENCODER}. None: the extractor where it is "
        "one, else the database's.",
    )
    inline: bool = Field(
        default=False,
        description="Whether heads extract the features of what they draw, on their own devices, "
        "instead of a pass of its own over the finished set. Takes their memory for the "
        "extractors; scores are the same up to the last digits of float sums.",
    )
    held_out: Uri | None = Field(
        default=None,
        description=f"Images for {_OF_HELD_OUT} that neither the database nor the training set "
        "holds, in any form a reference has. None: the reference.",
    )


class ClusterSpec(Spec):
    """What the job takes of the cluster. Never changes the samples."""

    heads: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="Head actors. None: one for each GPU, or on a cluster without GPUs as many as "
        "its CPUs allow.",
    )
    gpus_per_head: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="GPUs (or a fraction of one) per head. None: 1 where there are GPUs, else 0.",
    )
    cpus_per_head: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="CPUs reserved per head. None: model.cpu_threads without a GPU, else 1.",
    )
    encoders_per_head: Annotated[int, Field(ge=0, le=64)] | None = Field(
        default=None,
        description="Processes that encode and store what a head draws, beside its own. 0: its own "
        "does it. None: 2 for a head with a GPU, else 0.",
    )
    mixed_devices: bool = Field(
        default=False,
        description="Whether one sample set may come from several kinds of devices, whose samples "
        "differ in last digits. The report then names them.",
    )
    cpus_per_retriever: Annotated[float, Field(ge=0)] = Field(
        default=0.0,
        description="CPUs reserved per retriever actor. 0 lets retrievers share the heads' CPUs.",
    )


class JobSpec(Spec):
    """A whole job file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")] = Field(
        description="Shown in progress lines and on the page."
    )
    model: ModelSpec = Field(description="The decoding head.")
    database: DatabaseSpec = Field(description="The retrieval database.")
    conditioning: ConditioningSpec = Field(description="What each sample is conditioned on.")
    sampling: SamplingSpec = Field(description="How many samples, and how each is drawn.")
    output: OutputSpec = Field(description="Where the sample set goes.")
    evaluation: EvaluationSpec | None = Field(
        default=None, description="Scores of the finished set. None: generate only."
    )
    cluster: ClusterSpec = Field(
        default_factory=ClusterSpec, description="Share of the Ray cluster."
    )

    @model_validator(mode="after")
    def _parts_fit(self) -> JobSpec:
        allowed = samplers_of(self.model.process)
        if self.sampling.sampler not in allowed:
            raise ValueError(
                f"sampling.sampler {self.sampling.sampler!r} does not drive model.head "
                f"{self.model.head!r}; use {' or '.join(allowed)}"
            )
        if self.conditioning.needs_encoder and self.database.encoder is None:
            what = "text" if self.conditioning.embeds_text else "texts or pictures"
            raise ValueError(
                f"conditioning.mode {self.conditioning.mode!r} embeds {what}, but database.encoder "
                "is not set; name the encoder the database was built with"
            )
        return self
