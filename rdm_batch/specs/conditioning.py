"""The ``conditioning`` part of a job file: what the head is given for each sample."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator, model_validator

from rdm_batch.specs.base import Spec, Uri

MAX_PROMPT_CHARACTERS = 10_000
"""Characters of a prompt or a label, of which encoders read the first few hundred at most."""
_Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


class _Conditioning(Spec):
    """What all modes have in common.

    The facts about a mode that other parts of a job ask for stand in its class; all else about it
    is in its module of ``generation.modes``.

    Attributes:
        embeds_text: Whether texts are embedded, which takes an encoder.
        follows_prompts: Whether each sample has a prompt of its own that it is to show.
        steers: Whether the job says what samples show, so that the head must see it.
    """

    embeds_text: ClassVar[bool] = False
    follows_prompts: ClassVar[bool] = False
    steers: ClassVar[bool] = True

    k_nn: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=4, description="Neighbors per query, the query itself included where it counts."
    )

    @field_validator("context", mode="before", check_fields=False)
    @classmethod
    def _query_and_neighbors_in_every_mode(cls, value: Any) -> Any:
        """Take ``query_and_neighbors`` for the mode's own name of it, as KNN-Diffusion calls it."""
        if value != "query_and_neighbors":
            return value
        names = get_args(cls.model_fields["context"].annotation)
        return next((name for name in names if name.endswith("_and_neighbors")), value)

    @property
    def query_leads(self) -> bool:
        """Tell whether the context begins with its query, once."""
        return False


class UnconditionalConditioning(_Conditioning):
    """Draw a pseudo-query from the database; its neighbors are the context."""

    steers: ClassVar[bool] = False

    mode: Literal["unconditional"] = Field(
        description="Draw a pseudo-query from the database by the proposal distribution."
    )
    top_m: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0,
        description="Fraction of the query pool kept, most frequent neighbors of the training "
        "set first. Small values raise precision and lower recall.",
    )
    weighting: Literal["proposal", "uniform"] = Field(
        default="proposal",
        description="Draw from the kept entries in proportion to the proposal distribution, or "
        "uniformly. `uniform` with `top_m: 1.0` needs no proposal distribution.",
    )

    @property
    def query_leads(self) -> bool:
        """A row of the database is the nearest to itself."""
        return True


class TextConditioning(_Conditioning):
    """Follow prompts through the shared text and image space of CLIP."""

    embeds_text: ClassVar[bool] = True
    follows_prompts: ClassVar[bool] = True

    mode: Literal["text"] = Field(description="Follow prompts. Sample i takes prompt i mod P.")
    prompts: tuple[_Prompt, ...] | None = Field(
        default=None, strict=False, description="The prompts, inline."
    )
    prompts_file: Uri | None = Field(
        default=None,
        description="A UTF-8 text file with one prompt a line; empty lines skipped. At most "
        "128 MiB, and 10,000 characters a line.",
    )
    context: Literal["text", "text_and_neighbors", "neighbors"] = Field(
        default="neighbors",
        description="`text`: the text embedding alone, k_nn times over. `text_and_neighbors`: "
        "the text embedding and its k_nn - 1 nearest images. `neighbors`: its k_nn nearest images "
        "only.",
    )

    @property
    def query_leads(self) -> bool:
        """The text's embedding is first, unless it is left out or fills all places."""
        return self.context == "text_and_neighbors" or (self.context == "text" and self.k_nn == 1)

    @model_validator(mode="after")
    def _one_source(self) -> TextConditioning:
        if (self.prompts is None) == (self.prompts_file is None):
            raise ValueError("give exactly one of prompts and prompts_file")
        if self.prompts is not None and not self.prompts:
            raise ValueError("prompts is empty; give at least one prompt")
        return self


class ClassConditioning(_Conditioning):
    """Draw k neighbors at random from the pool that a class name retrieves."""

    embeds_text: ClassVar[bool] = True

    mode: Literal["class"] = Field(
        description="Retrieve a pool for each label; every sample draws k_nn of it. "
        "Sample i takes label i mod L."
    )
    labels: Annotated[tuple[_Prompt, ...], Field(min_length=1)] = Field(
        strict=False, description="Class names."
    )
    template: Annotated[str, Field(max_length=MAX_PROMPT_CHARACTERS)] = Field(
        default="An image of a {label}.",
        description="The text that is embedded for a label; `{label}` stands for the class name.",
    )
    pool_size: Annotated[int, Field(ge=1)] = Field(
        default=50, description="Entries retrieved for a label (l in the paper), at least k_nn."
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClassConditioning:
        if "{label}" not in self.template:
            raise ValueError(f"template {self.template!r} has no {{label}} to fill in")
        places = self.template.count("{label}")
        longest = len(self.template) + places * max(map(len, self.labels))
        if longest > 2 * MAX_PROMPT_CHARACTERS:
            raise ValueError(
                f"template with its longest label has {longest:,} characters; "
                f"needed at most {2 * MAX_PROMPT_CHARACTERS:,}"
            )
        if self.pool_size < self.k_nn:
            raise ValueError(
                f"pool_size is {self.pool_size} but k_nn is {self.k_nn}; "
                "a sample cannot draw more neighbors than its pool holds"
            )
        return self


ConditioningSpec = Annotated[
    UnconditionalConditioning | TextConditioning | ClassConditioning, Field(discriminator="mode")
]
