"""A score and everything it depends on."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class ScoreDescription(BaseModel):
    """Say what a score depends on besides the samples. Scores compare only when this matches.

    Args:
        name: Which score, e.g. ``fid``.
        extractor: Name of the feature extractor.
        extractor_digest: SHA-256 of its weights and configuration.
        layer: Feature layer.
        image_size: Side in pixels of what the extractor sees.
        resize: Named resize, filter included.
        reference: Digest of the reference. None for scores without one.
        num_generated: Samples judged. None when their file does not say.
        num_reference: Reference samples. None without a reference, or when its file does not say.
        k: Neighborhood size. None for scores without neighborhoods.
        seed: Seed of splits or subsets. None when nothing is drawn.
        settings: Everything else that moves the value (splits, subset size, ...).
        partial: Whether the set was incomplete and judged all the same.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    extractor: str
    extractor_digest: str
    layer: str
    image_size: int
    resize: str
    reference: str | None = None
    num_generated: int | None
    num_reference: int | None = None
    k: int | None = None
    seed: int | None = None
    settings: dict[str, int | float | str] = {}
    partial: bool = False


class Score(BaseModel):
    """Hold one score.

    Args:
        value: The number.
        uncertainty: One standard error (or the spread the score's own convention reports). None
            when there is none.
        uncertainty_method: How it was obtained and what that cost, in words.
        description: What the number depends on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    uncertainty: float | None
    uncertainty_method: str
    description: ScoreDescription

    @property
    def name(self) -> str:
        """Return which score this is."""
        return self.description.name


def difference_of_descriptions(first: Score, second: Score) -> list[str]:
    """List what keeps two scores from being compared, field by field.

    Returns:
        One ``field: first != second`` entry per differing field; empty when they compare.
    """
    mine = first.description.model_dump()
    theirs = second.description.model_dump()
    return [
        f"{field}: {mine[field]!r} != {theirs[field]!r}"
        for field in mine
        if mine[field] != theirs[field]
    ]
