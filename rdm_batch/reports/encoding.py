"""How fast the images of a database were encoded, and what held it up."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, PositiveInt

from rdm_batch.reports.run_report import Provenance
from rdm_batch.reports.units import format_duration, format_number, format_share


class EncodingSpeed(BaseModel):
    """Report one source that was encoded; images that were encoded before do not count.

    ``seconds`` runs from the first part that was asked for to the last that was stored.
    ``encoder_s`` and ``reading_s`` are sums over the workers: in the encoder, its own resizing
    included, and reading, decoding, cutting and shrinking images beside it. ``gpu_s`` is how long
    batches took on GPUs, by their own clocks; None on CPUs.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    images: NonNegativeInt
    seconds: NonNegativeFloat
    workers: PositiveInt
    device: str
    encoder_s: NonNegativeFloat
    reading_s: NonNegativeFloat
    gpus: NonNegativeFloat = 0
    gpu_s: NonNegativeFloat | None = None

    @property
    def images_per_s(self) -> float | None:
        """Give the rate of all workers; None when nothing was encoded."""
        return self.images / self.seconds if self.images and self.seconds else None

    @property
    def shares(self) -> dict[str, float]:
        """Divide the workers' time; waiting is for the next part, and while a worker loads."""
        worked = self.seconds * self.workers
        encoder, reading = (
            min(1.0, spent / worked) if worked else 0.0
            for spent in (self.encoder_s, self.reading_s)
        )
        return {"encoder": encoder, "reading": reading, "waiting": max(0.0, 1 - encoder - reading)}

    @property
    def gpu_share(self) -> float | None:
        """Give the share of time that GPUs were busy, at most: workers of one may overlap."""
        possible = self.seconds * self.gpus
        return min(1.0, self.gpu_s / possible) if self.gpu_s is not None and possible else None

    def __str__(self) -> str:
        rate = "none" if self.images_per_s is None else format_number(self.images_per_s)
        shares = self.shares
        text = (
            f"{self.images:,} images in {format_duration(self.seconds)}, {rate} a second; of the "
            f"workers' time {format_share(shares['encoder'])} in the encoder, "
            f"{format_share(shares['reading'])} reading images, "
            f"{format_share(shares['waiting'])} waiting"
        )
        if self.gpu_share is not None:
            text += f"; GPUs busy {format_share(self.gpu_share)}"
        return text


class BuildReport(BaseModel):
    """Say what making a database took: content of the file of ``--report``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uri: str
    digest: str
    rows: PositiveInt
    provenance: Provenance
    encoded: tuple[EncodingSpeed, ...] = ()

    def to_json(self) -> bytes:
        """Serialize, indented, ending in a newline."""
        return self.model_dump_json(indent=2).encode() + b"\n"
