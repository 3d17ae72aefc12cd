"""What a sample set says about itself: its header, one entry per shard, its completion.

Three kinds of small JSON objects, written in this order (design D3): ``sample_set.json``
before the first shard, ``_shards/00000.json`` after each shard's file, ``_SUCCESS.json``
when every planned shard has its entry.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rdm_batch.errors import RdmBatchError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.specs.messages import first_problem
from rdm_batch.specs.sampling import MAX_SAMPLES, MAX_SHARD_SAMPLES

FORMAT_VERSION = 1
HEADER_KEY = "sample_set.json"
SUCCESS_KEY = "_SUCCESS.json"
ENTRIES_FOLDER = "_shards"
DATA_FOLDER = "data"
MAX_IMAGE_SIZE = 8192
"""Height and width of samples, pixels; as ``png.MAX_PIXELS``."""
WARM_UP = "warm-up"
"""Name of the interval in which a head compiled itself, before its first shard."""
FEATURES = "features"
"""Name of the interval in which a head extracted features of what it had drawn."""

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[float, float]
"""Start and end, seconds since the epoch: comparable between processes of one machine."""

_EPOCH_S = time.time() - time.monotonic()


def epoch_s() -> float:
    """Give the seconds since the epoch, as a clock that is set meanwhile cannot change them."""
    return _EPOCH_S + time.monotonic()


class Manifest(BaseModel):
    """A small JSON object of a sample set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_bytes(self) -> bytes:
        """Give canonical JSON: equal objects, equal bytes."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True)
        return f"{text}\n".encode()


class SampleSetHeader(Manifest):
    """What every sample of the set has in common."""

    format_version: Literal[1] = Field(default=1, description="Version of this layout.")
    spec: dict[str, Any] = Field(description="Everything that defines the samples (design D1).")
    digest: Sha256 = Field(
        description="SHA-256 of the spec; sets with the same have the same bytes."
    )
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(description="Seed of the job.")
    num_samples: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = Field(
        description="Samples in the whole set."
    )
    shard_size: Annotated[int, Field(ge=1, le=MAX_SHARD_SAMPLES)] = Field(
        description="Samples of every shard but the last."
    )
    image_size: Annotated[int, Field(ge=1, le=MAX_IMAGE_SIZE)] = Field(
        description="Height and width in pixels."
    )
    content_digests: dict[str, str] = Field(
        default_factory=dict, description="Digests of weights, database and prompts."
    )
    software: dict[str, str] = Field(
        default_factory=dict, description="Versions of what wrote the header."
    )

    @property
    def num_shards(self) -> int:
        """Shards of the whole set."""
        return -(-self.num_samples // self.shard_size)

    def rows_of(self, shard: int) -> range:
        """Sample indices of a shard."""
        start = shard * self.shard_size
        return range(start, min(start + self.shard_size, self.num_samples))

    def changes_from(self, other: SampleSetHeader) -> list[str]:
        """List what differs in another header's spec, as ``field: other -> mine``."""
        old, new = dict(_leaves(other.spec)), dict(_leaves(self.spec))
        names = [*old, *(name for name in new if name not in old)]
        return [
            f"{name}: {old.get(name, 'not set')} -> {new.get(name, 'not set')}"
            for name in names
            if old.get(name) != new.get(name)
        ]


class Measured(Manifest):
    """Who made a shard and what its time went into; not part of what defines the samples."""

    run: str = Field(description="The run that made it: one execution of a job.")
    head: str = Field(description="The head actor that made it.")
    device: str = Field(description="What that head computed on.")
    device_class: str | None = Field(
        default=None, description="Kind of that device. None in sets of before: as `device` says."
    )
    device_software: dict[str, str] = Field(
        default_factory=dict, description="Versions that may move last digits on a GPU."
    )
    intervals: dict[str, Interval] = Field(
        description="Activity to its start and end, seconds since the epoch."
    )
    searches: tuple[tuple[int, float], ...] = Field(
        default=(), description="Queries and seconds of every retrieval call."
    )
    gpu_s: float | None = Field(
        default=None,
        description="Seconds its batches took on the GPU, by its own clock. None on a CPU.",
    )
    peak_flops_per_s: float | None = Field(
        default=None,
        description="Rate of that GPU in large matrix products, measured when the head started.",
    )

    @property
    def start(self) -> float:
        """When work on the shard began, its head being ready."""
        return min(start for name, (start, _) in self.intervals.items() if name != WARM_UP)

    @property
    def end(self) -> float:
        """When work on the shard ended."""
        return max(end for _, end in self.intervals.values())


class ShardEntry(Manifest):
    """Proof that one shard is stored."""

    shard: Count = Field(description="Position of the shard in the set.")
    first_index: Count = Field(description="Sample index of its first row.")
    num_rows: Annotated[int, Field(ge=1)] = Field(description="Rows in its file.")
    file: Annotated[str, Field(pattern=r"^data/\d{5,}\.parquet$")] = Field(
        description="Its file, below the root of the set."
    )
    sha256: Sha256 = Field(description="SHA-256 of its file.")
    num_bytes: Count = Field(description="Size of its file.")
    measured: Measured | None = Field(default=None, description="Who made it, and how fast.")

    @property
    def path(self) -> str:
        """Its file, under the name that every recorded file has its path by."""
        return self.file


class Success(Manifest):
    """Proof that the set is complete."""

    num_rows: Count = Field(description="Rows of all shards.")
    num_shards: Count = Field(description="Number of shards.")
    num_bytes: Count = Field(description="Bytes of all shard files.")
    digest: Sha256 = Field(description="SHA-256 over the SHA-256 of every shard file, in order.")

    @classmethod
    def over(cls, entries: Sequence[ShardEntry]) -> Success:
        """Sum entries up, in shard order."""
        ordered = sorted(entries, key=lambda entry: entry.shard)
        text = "\n".join(entry.sha256 for entry in ordered)
        return cls(
            num_rows=sum(entry.num_rows for entry in ordered),
            num_shards=len(ordered),
            num_bytes=sum(entry.num_bytes for entry in ordered),
            digest=hashlib.sha256(text.encode()).hexdigest(),
        )


ManifestT = TypeVar("ManifestT", bound=Manifest)


def parse_manifest(
    kind: type[ManifestT], data: bytes, where: str, error: type[RdmBatchError]
) -> ManifestT:
    """Read a manifest object.

    Raises:
        RdmBatchError: As ``error``, when it is no JSON, of another format version, or has
            missing, unknown or impossible fields.
    """
    try:
        content = parse_json(data)
        version = content.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise error(
                where, f"format version {version}", str(FORMAT_VERSION), "use the release it needs"
            )
        return kind.model_validate(content)
    except ValidationError as problem:
        raise error(where, f"is damaged: {first_problem(problem)}") from problem
    except (ValueError, AttributeError) as problem:
        raise error(where, "is damaged: not a JSON object") from problem


def shard_name(shard: int) -> str:
    """Name a shard in keys and messages: five digits or more."""
    return f"{shard:05d}"


def _leaves(value: object, name: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, child in value.items():
            yield from _leaves(child, f"{name}.{key}" if name else str(key))
    else:
        yield name, value
