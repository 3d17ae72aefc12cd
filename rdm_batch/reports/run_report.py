"""What a finished job knows about itself: the content of ``report.json``.

A ``RunReport`` is filled in by a pipeline and read by everything in this layer. It holds
numbers and names, never images, raw latencies or secrets; the files beside it are listed
in ``saved``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from rdm_batch.errors import SampleSetError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.reports.first_format import FIRST_FORMAT, from_first_format
from rdm_batch.reports.latency import LatencySummary
from rdm_batch.reports.views import Views
from rdm_batch.specs.messages import first_problem
from rdm_batch.specs.scores import Score

Share = Annotated[float, Field(ge=0, le=1)]


class _Part(BaseModel):
    """Freeze the parts of a report and refuse fields and numbers a reader cannot use."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Machine(_Part):
    """Describe one computer: what speed figures are relative to."""

    cpu_model: str
    num_cores: PositiveInt
    memory_bytes: PositiveInt
    gpus: tuple[str, ...] = ()
    platform: str = ""


class RayNode(_Part):
    """Describe one node of the Ray cluster by the resources it offers."""

    name: str
    num_cpus: NonNegativeFloat
    num_gpus: NonNegativeFloat = 0
    memory_bytes: NonNegativeInt = 0


class Provenance(_Part):
    """Say what produced the run: command, software, machine, cluster and time.

    ``software`` maps distribution names to versions. ``started`` and ``ended`` carry a time
    zone; they are shown in UTC. ``git_commit`` is None outside a git checkout.
    """

    command: str
    software: dict[str, str]
    machine: Machine
    started: AwareDatetime
    ended: AwareDatetime
    git_commit: str | None = None
    ray_nodes: tuple[RayNode, ...] = ()


class SampleSetSummary(_Part):
    """Count what lies at the output location and what this run added to it.

    ``rows`` and ``shards`` count the whole set; ``resumed_shards`` of them were complete
    before this run started. ``bytes_written`` counts this run only. ``device_classes`` names
    the kinds of devices the samples were made on; with several, they differ in last digits.
    """

    uri: str
    rows: NonNegativeInt
    shards: NonNegativeInt
    bytes_written: NonNegativeInt
    resumed_shards: NonNegativeInt = 0
    device_classes: tuple[str, ...] = ()


class HeadTimes(_Part):
    """Divide one head's wall time by what the head was doing, in seconds.

    A second is counted where it held the head up: work done by another thread while the
    model ran is not in here.
    """

    model_s: NonNegativeFloat
    neighbors_s: NonNegativeFloat
    encoding_s: NonNegativeFloat
    writing_s: NonNegativeFloat
    idle_s: NonNegativeFloat

    @classmethod
    def within(
        cls,
        wall_s: float,
        *,
        model_s: float,
        neighbors_s: float,
        encoding_s: float,
        writing_s: float,
    ) -> HeadTimes:
        """Build the division of ``wall_s``, counting what no activity claims as idle."""
        claimed_s = model_s + neighbors_s + encoding_s + writing_s
        return cls(
            model_s=model_s,
            neighbors_s=neighbors_s,
            encoding_s=encoding_s,
            writing_s=writing_s,
            idle_s=max(0.0, wall_s - claimed_s),
        )

    def shares(self) -> dict[str, float]:
        """Compute the fraction of the wall time each activity took, in display order."""
        seconds = {
            "model": self.model_s,
            "waiting for neighbors": self.neighbors_s,
            "encoding": self.encoding_s,
            "writing": self.writing_s,
            "idle": self.idle_s,
        }
        total_s = sum(seconds.values())
        return {name: value / total_s if total_s else 0.0 for name, value in seconds.items()}


class HeadReport(_Part):
    """Report one head actor: what it made and where its wall time went.

    ``wall_s`` runs from the start of the head's first shard to the end of the run's last.
    ``gpu_s`` is how long batches took on its GPU, by the GPU's clock: from the first operation
    of a batch to the last of it, waiting in between included. None on a CPU.
    ``peak_flops_per_s`` is what that GPU did in large matrix products when the head started.
    """

    name: str
    device: str
    images: NonNegativeInt
    wall_s: NonNegativeFloat
    times: HeadTimes
    gpu_s: NonNegativeFloat | None = None
    peak_flops_per_s: NonNegativeFloat | None = None

    @property
    def images_per_s(self) -> float | None:
        """Give the head's rate; None when it had no time."""
        return self.images / self.wall_s if self.wall_s else None


class Throughput(_Part):
    """Report how fast images were made, with and without start-up.

    ``images`` counts this run only. ``generation_s`` is the time from the start of the first
    shard to the commit of the last one; ``start_up_s`` the time from the command to the start
    of the first shard, ``warm_up_s`` of it the longest that a head compiled itself.
    ``flops_per_image`` counts the operations that drawing and decoding an image takes; None
    where no head had a GPU.
    """

    images: NonNegativeInt
    start_up_s: NonNegativeFloat
    warm_up_s: NonNegativeFloat = 0
    generation_s: NonNegativeFloat
    flops_per_image: NonNegativeFloat | None = None
    heads: tuple[HeadReport, ...] = ()

    @property
    def images_per_s(self) -> float | None:
        """Give images per second between first and last shard; None when nothing was made."""
        return self.images / self.generation_s if self.images and self.generation_s else None

    @property
    def images_per_s_with_start_up(self) -> float | None:
        """Give images per second from the command on; None when nothing was made."""
        total_s = self.start_up_s + self.generation_s
        return self.images / total_s if self.images and total_s else None

    @property
    def model_share(self) -> float | None:
        """Give the fraction of all heads' wall time spent in the model; None without heads."""
        wall_s = sum(head.wall_s for head in self.heads)
        return sum(head.times.model_s for head in self.heads) / wall_s if wall_s else None

    @property
    def gpu_share(self) -> float | None:
        """Give the fraction of the heads' wall time in which their GPUs drew; None without GPUs."""
        heads = [head for head in self.heads if head.gpu_s is not None]
        wall_s = sum(head.wall_s for head in heads)
        return sum(head.gpu_s or 0.0 for head in heads) / wall_s if wall_s else None

    @property
    def flops_per_s(self) -> float | None:
        """Give the rate a GPU worked at, over its head's wall time; None without GPUs."""
        heads = [head for head in self.heads if head.gpu_s is not None]
        wall_s = sum(head.wall_s for head in heads)
        if self.flops_per_image is None or not wall_s:
            return None
        return self.flops_per_image * sum(head.images for head in heads) / wall_s

    @property
    def peak_share(self) -> float | None:
        """Give that rate as a fraction of the measured peak; None where no peak is known."""
        heads = [head for head in self.heads if head.peak_flops_per_s]
        possible = sum(head.wall_s * (head.peak_flops_per_s or 0.0) for head in heads)
        if self.flops_per_image is None or not possible:
            return None
        return self.flops_per_image * sum(head.images for head in heads) / possible


class Stage(_Part):
    """Place one named stage of a run on its clock, in seconds after the command started.

    Stages may overlap: heads load while retrievers do.
    """

    name: str
    start_s: NonNegativeFloat
    end_s: NonNegativeFloat

    @model_validator(mode="after")
    def _ends_after_start(self) -> Stage:
        if self.end_s < self.start_s:
            raise ValueError(f"stage {self.name} ends at {self.end_s} s, before it starts")
        return self


class Recall(_Part):
    """Report recall@k of the index: the part of the exact k neighbors that it found."""

    k: PositiveInt
    queries: PositiveInt
    value: Share


class LostRetriever(_Part):
    """Say how often a retriever was lost while samples were made, and what it holds.

    It was brought back, and what it had been asked was asked again: samples do not tell.
    ``times`` is None where Ray could not be asked.
    """

    holds: str
    times: PositiveInt | None


class RetrievalReport(_Part):
    """Report the speed and quality of retrieval.

    ``query_method`` says how the latency of one query was obtained, for example "batch
    seconds divided by its queries". The raw values are stored beside the report. ``engine`` says
    what searched; the exact one has no recall to measure. ``resident_bytes`` is the memory that
    opening the database took, over all retrievers, without files that are mapped. ``lost`` names
    the retrievers that were lost and brought back.
    """

    per_query: LatencySummary
    per_batch: LatencySummary
    query_method: str
    recall: Recall | None = None
    engine: Literal["scann", "exact"] = "scann"
    resident_bytes: NonNegativeInt | None = None
    lost: tuple[LostRetriever, ...] = ()


class IllustratedSample(_Part):
    """Name a sample shown on the page and the neighbors it was conditioned on.

    ``caption`` is what was asked for (prompt, class, pseudo-query). ``neighbor_captions``
    is empty where the database has none. ``neighbor_scores`` is empty where neighbors were given
    without a query. ``is_edit`` says that the picture it was made from is kept and shown before
    it.
    """

    sample_index: NonNegativeInt
    caption: str = ""
    neighbor_ids: tuple[NonNegativeInt, ...] = ()
    neighbor_scores: tuple[float, ...] = ()
    neighbor_captions: tuple[str, ...] = ()
    is_edit: bool = False

    @model_validator(mode="after")
    def _neighbors_agree(self) -> IllustratedSample:
        if self.neighbor_scores and len(self.neighbor_scores) != len(self.neighbor_ids):
            raise ValueError("neighbor_scores must be empty or have one value per neighbor id")
        if self.neighbor_captions and len(self.neighbor_captions) != len(self.neighbor_ids):
            raise ValueError("neighbor_captions must be empty or have one value per neighbor id")
        return self


class RunReport(_Part):
    """Hold everything a finished job knows about itself.

    ``spec`` is the job as it ran, with every default filled in, and ``spec_digest`` its
    digest. ``retrieval`` is None for a job that retrieves nothing, ``views`` for one that
    scores nothing.
    """

    format: Literal["rdm_batch.report/2"] = "rdm_batch.report/2"
    job_name: str
    spec: dict[str, JsonValue]
    spec_digest: str
    provenance: Provenance
    sample_set: SampleSetSummary
    throughput: Throughput
    start_up: tuple[Stage, ...] = ()
    retrieval: RetrievalReport | None = None
    scores: tuple[Score, ...] = ()
    views: Views | None = None
    illustrated: tuple[IllustratedSample, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _of_any_format(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("format") == FIRST_FORMAT:
            return from_first_format(content)
        return content

    def to_json(self) -> bytes:
        """Serialize to the bytes of ``report.json``, indented, ending in a newline."""
        return self.model_dump_json(indent=2).encode() + b"\n"


def load_report(source: Path | bytes, where: str | None = None) -> RunReport:
    """Read a report that ``RunReport.to_json`` wrote.

    Args:
        source: A local file, or its content.
        where: What to call the source in an error; None means its path or "report.json".

    Raises:
        SampleSetError: The file is missing or does not hold a report of this format.
    """
    if isinstance(source, Path):
        where = where or str(source)
        try:
            source = source.read_bytes()
        except OSError as error:
            raise SampleSetError(
                where,
                f"cannot be read ({error.strerror})",
                "the report of a finished job",
                "run the job to its end first",
            ) from error
    try:
        parse_json(source)  # whose depth is bounded
        return RunReport.model_validate_json(source)
    except ValueError as error:
        found = str(error)
        if isinstance(error, ValidationError):
            found = f"{error.error_count()} problem(s), the first: {first_problem(error)}"
        raise SampleSetError(
            where or "report.json",
            found,
            "a report in the format rdm_batch.report/2, or one that an earlier version wrote",
            "run the job again to write a new one",
        ) from error


def stages_from_milestones(milestones: Mapping[str, float]) -> tuple[Stage, ...]:
    """Turn milestones into stages, each lasting from the milestone before it to its own.

    Args:
        milestones: Name of what was finished to seconds after the command started, in order.
    """
    stages = []
    start_s = 0.0
    for name, end_s in milestones.items():
        stages.append(Stage(name=name, start_s=start_s, end_s=end_s))
        start_s = end_s
    return tuple(stages)
