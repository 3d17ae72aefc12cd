"""What a report keeps of how samples lie among reference and database, for people to look at."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveInt

Share = Annotated[float, Field(ge=0, le=1)]
Permille = Annotated[int, Field(ge=0, le=1000)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Points(_Part):
    """Place some of a set's images in the plane of the map, in thousandths of its sides.

    ``inside`` says for each whether it lies in the other set's manifold; empty when unknown.
    """

    x: tuple[Permille, ...]
    y: tuple[Permille, ...]
    inside: tuple[bool, ...] = ()


class FeatureMap(_Part):
    """Hold samples and reference in the two directions in which the reference varies most.

    ``explained`` is the share of the reference's variance in the plane. ``outside`` names some
    samples that lie outside of the reference's manifold, ``unreached`` some reference images
    outside of the samples'.
    """

    explained: Share
    samples: Points
    references: Points
    outside: tuple[NonNegativeInt, ...] = ()
    unreached: tuple[NonNegativeInt, ...] = ()
    num_outside: NonNegativeInt = 0
    num_unreached: NonNegativeInt = 0


class Region(_Part):
    """Count what lies in one region of the reference, and name what lies in its midst."""

    num_samples: NonNegativeInt
    num_references: PositiveInt
    samples: tuple[NonNegativeInt, ...] = ()
    references: tuple[NonNegativeInt, ...] = ()


class NovelSample(_Part):
    """Name a sample, the nearest of its conditioning neighbors and the nearest database entry.

    Distances are ``1 - cosine``. Without conditioning neighbors the first two are None.
    """

    sample_index: NonNegativeInt
    neighbor_id: NonNegativeInt | None
    neighbor_distance: float | None
    nearest_id: NonNegativeInt
    nearest_distance: float


class Views(_Part):
    """Hold everything there is to look at; what an evaluation does not give is left out.

    ``regions`` are sorted by how much more seldom samples fall into them than reference images
    do. ``extractor`` and ``dim`` describe the features behind map and regions.
    """

    extractor: str = ""
    dim: NonNegativeInt = 0
    num_samples: NonNegativeInt = 0
    num_references: NonNegativeInt = 0
    map: FeatureMap | None = None
    regions: tuple[Region, ...] = ()
    most_novel: tuple[NovelSample, ...] = ()
    least_novel: tuple[NovelSample, ...] = ()

    def expected(self, region: Region) -> NonNegativeFloat:
        """Give the samples a region would hold if they fell where reference images do."""
        return self.num_samples * region.num_references / self.num_references
