"""The suite file: jobs that are run again and again, and the gates that judge what they give."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, model_validator

from rdm_batch.specs.base import OutputUri, Spec
from rdm_batch.specs.sampling import MAX_SAMPLES
from rdm_batch.specs.scores import SCORES

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")]

SPEEDS = ("images_per_s", "images_per_s_with_start_up")
LATENCIES = (
    "start_up_s",
    "cpu_s",
    *(f"{scope}_{p}_s" for scope in ("query", "batch") for p in ("p50", "p95", "p99")),
)
MEMORIES = ("peak_memory_bytes", "retriever_bytes", "bytes_per_image")
OF_OWN_PROCESS = ("cpu_s",)
"""What can be told of a job alone in its process only."""
SPEED_FIGURES = (*SPEEDS, *LATENCIES, *MEMORIES)
"""What is measured of a job besides its scores."""
SEARCH_FIGURES = tuple(f"search_{p}_s" for p in ("p50", "p95", "p99"))
"""What is measured of its searches alone, in place of the job."""


class NamedChange(Spec):
    """A change that may move samples, and by how much it was seen to."""

    name: Name = Field(description="What it is called in verdicts.")
    versions: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Distributions whose versions may differ from the accepted run's.",
    )
    fields: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Fields of the job, by dotted names, that may differ: `model.precision`.",
    )
    largest_byte: Annotated[int, Field(ge=0, le=255)] = Field(
        description="Largest difference of a byte of an image."
    )
    mean_byte: Annotated[float, Field(ge=0, le=255)] = Field(
        description="Mean difference of all bytes of all images of the canary."
    )
    features: Annotated[float, Field(ge=0)] | None = Field(
        default=None,
        description="Largest distance of a sample's features, relative to their length. None: "
        "not compared.",
    )

    @model_validator(mode="after")
    def _names_something(self) -> NamedChange:
        if not self.versions and not self.fields:
            raise ValueError("names neither versions nor fields that may differ")
        return self


class PairedSpec(Spec):
    """How far scores may move while the same samples are judged."""

    primary: str = Field(description="The score that decides; others of `delta` explain.")
    delta: dict[str, PositiveFloat] = Field(
        description="By score, the largest difference that does not matter, to either side."
    )

    @model_validator(mode="after")
    def _known(self) -> PairedSpec:
        unknown = [score for score in self.delta if score not in SCORES]
        if unknown:
            raise ValueError(f"delta names {unknown[0]!r}, which is no score")
        if self.primary not in self.delta:
            raise ValueError(f"primary is {self.primary!r}, for which delta gives nothing")
        return self


class SpeedSpec(Spec):
    """How much slower, or larger, a job may become."""

    primary: str = Field(
        default="images_per_s",
        description=f"The figure that decides: {', '.join(f'`{name}`' for name in SPEED_FIGURES)}; "
        f"with `searches` {', '.join(f'`{name}`' for name in SEARCH_FIGURES)}.",
    )
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.03,
        description="Relative change for the worse that does not matter; a change just as large is "
        "told in half of all cases.",
    )
    repeats: Annotated[int, Field(ge=1, le=100)] = Field(
        default=25,
        description="How often the job is run for its speed alone every night, each time by a "
        "process of its own and without scores; of every figure the mean of the middle half is the "
        "night's. 1: "
        "the speed of the one run that is scored, for long jobs on machines that do nothing else.",
    )
    searches: Annotated[int, Field(ge=1_000, le=1_000_000)] | None = Field(
        default=None,
        description="Instead of the job, so many of its searches are timed in every repeat, one "
        "after the other by a process that does nothing else. What a job itself waits for a "
        "search (`batch_p99_s`) is also what its other threads do meanwhile. None: the job.",
    )

    @model_validator(mode="after")
    def _known(self) -> SpeedSpec:
        if self.primary not in self.figures:
            with_searches = "with" if self.searches else "without"
            raise ValueError(
                f"primary is {self.primary!r}, which is none of the figures of speed "
                f"{with_searches} searches: {', '.join(self.figures)}"
            )
        if self.primary in OF_OWN_PROCESS and self.repeats == 1:
            raise ValueError(f"{self.primary} is that of a process of its own: repeats is 1")
        return self

    @property
    def figures(self) -> tuple[str, ...]:
        """Return the figures that the gate judges."""
        return SEARCH_FIGURES if self.searches else SPEED_FIGURES

    @property
    def repeated(self) -> bool:
        """Return whether anything is run besides the one run that is scored."""
        return self.repeats > 1 or self.searches is not None


class GatesSpec(Spec):
    """What is held against what was accepted, as a ladder."""

    identity: bool = Field(
        default=True,
        description="Gate 0: neighbors, images and features of the canary are the accepted ones, "
        "byte for byte, on this class of machine.",
    )
    closeness: tuple[NamedChange, ...] = Field(
        default=(),
        strict=False,
        description="Gate 1: changes that may move samples a little. What one of them explains "
        "does not fail gate 0.",
    )
    paired: PairedSpec | None = Field(
        default=None,
        description="Gate 2: scores of the same samples are equivalent to the accepted ones.",
    )
    bounds: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Gate 3: scores that must lie between bounds accepted from several seeds; too "
        "good fails as well.",
    )
    speed: SpeedSpec | None = Field(
        default=None, description="Gate 4: speed, latency, memory and bytes. None: only recorded."
    )

    @model_validator(mode="after")
    def _some(self) -> GatesSpec:
        if not (self.identity or self.paired or self.bounds or self.speed):
            raise ValueError("no gate is set; a job without gates can only pass")
        if self.closeness and not self.identity:
            raise ValueError("closeness explains what fails the gate identity, which is off")
        unknown = [score for score in self.bounds if score not in SCORES]
        if unknown:
            raise ValueError(f"bounds names {unknown[0]!r}, which is no score")
        return self

    @property
    def scores(self) -> tuple[str, ...]:
        """Return the scores that gates need."""
        paired = () if self.paired is None else tuple(self.paired.delta)
        return tuple(dict.fromkeys((*paired, *self.bounds)))


class SuiteJobSpec(Spec):
    """One job of a suite."""

    name: Name = Field(description="What it is called in the history; unique in the suite.")
    job: str = Field(description="Its job file, relative to the suite's folder.")
    overrides: tuple[str, ...] = Field(
        default=(),
        strict=False,
        description="Changes to it, such as `sampling.seed=7`, as `--set` of a job takes them.",
    )
    canary: Annotated[int, Field(ge=1, le=MAX_SAMPLES)] = Field(
        default=256,
        description="Samples, from the first on, that are kept in the history to be compared byte "
        "for byte. At most as many as the job has.",
    )
    gates: GatesSpec = Field(default_factory=GatesSpec, description="What it is judged by.")


class SuiteSpec(Spec):
    """A whole suite file."""

    kind: Literal["suite"] = Field(description="Tells a suite from a job.")
    name: Name = Field(description="Shown in the history and on the page.")
    baseline: str = Field(
        description="The file that `rdm-batch bench accept` writes and that is reviewed with the "
        "code, relative to the suite's folder."
    )
    output: OutputUri = Field(
        description="Below this, in a folder of its own for every run, the sample sets go."
    )
    jobs: Annotated[tuple[SuiteJobSpec, ...], Field(min_length=1)] = Field(
        strict=False, description="The jobs, in the order they are run."
    )

    @model_validator(mode="after")
    def _unique(self) -> SuiteSpec:
        names = [job.name for job in self.jobs]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two jobs are called {twice[0]!r}")
        return self
