"""The ``conditioning`` part of a job file: what the head is given for each sample."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_validator, model_validator

from rdm_batch.specs.base import Spec, Uri
from rdm_batch.specs.edits import EditSpec

MAX_PROMPT_CHARACTERS = 10_000
"""Characters of a prompt or a label, of which encoders read the first few hundred at most."""
MAX_SAMPLES_PER_QUERY = 1_000_000
_Prompt = Annotated[str, Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS)]


_Row = Annotated[int, Field(ge=0, lt=2**40)]
_Rows = Annotated[tuple[_Row, ...], Field(strict=False, min_length=1, max_length=1000)]


class _Conditioning(Spec):
    """What all modes have in common.

    The facts about a mode that other parts of a job ask for stand in its class; all else about it
    is in its module of ``generation.modes``.

    Attributes:
        embeds_text: Whether texts are embedded, always.
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

    @property
    def needs_encoder(self) -> bool:
        """Tell whether texts or pictures are embedded, which takes an encoder."""
        return self.embeds_text

    @property
    def editing(self) -> EditSpec | None:
        """How given pictures are made into others; None where pictures are made from nothing."""
        return None


class _SeveralSamples(_Conditioning):
    """What all modes have in common that go through queries in turn."""

    samples_per_query: Annotated[int, Field(ge=1, le=MAX_SAMPLES_PER_QUERY)] = Field(
        default=1,
        description="Samples in a row that share a query: sample i takes query "
        "(i // samples_per_query) mod Q.",
    )


class _Queried(_SeveralSamples):
    """What all modes have in common whose queries are given.

    The contexts of such a mode are the query alone (named after the mode), ``..._and_neighbors``,
    ``neighbors`` and ``mixed``.
    """

    query_weight: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None,
        description="How far context `mixed` turns each neighbor toward the query: 0 leaves the "
        "neighbors, 1 gives the query's direction at the neighbors' lengths. Needed there, and "
        "nowhere else.",
    )

    @property
    def query_leads(self) -> bool:
        """The query is first, unless it is left out or fills all places."""
        context: str = getattr(self, "context")  # noqa: B009 (every mode declares its own)
        alone = context not in ("neighbors", "mixed") and self.k_nn == 1
        return context.endswith("_and_neighbors") or alone

    @model_validator(mode="after")
    def _weight_where_it_counts(self) -> _Queried:
        mixed = getattr(self, "context") == "mixed"  # noqa: B009
        if mixed and self.query_weight is None:
            raise ValueError("context mixed needs a query_weight, 0 (neighbors) to 1 (query)")
        if not mixed and self.query_weight is not None:
            raise ValueError("query_weight counts with context mixed only; leave it out")
        return self


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
    common_pseudo_queries: bool = Field(
        default=False,
        description="Whether jobs that differ in `top_m` share pseudo-queries: a sample draws from "
        "the whole pool until a row is among those kept. The distribution is the same, the "
        "samples are others.",
    )

    @property
    def query_leads(self) -> bool:
        """A row of the database is the nearest to itself."""
        return True


class TextConditioning(_Queried):
    """Follow prompts through the shared text and image space of CLIP."""

    embeds_text: ClassVar[bool] = True
    follows_prompts: ClassVar[bool] = True

    mode: Literal["text"] = Field(description="Follow prompts. Sample i takes prompt i mod P.")
    prompts: tuple[_Prompt, ...] | None = Field(
        default=None, strict=False, description="The prompts, inline."
    )
    prompts_file: Uri | None = Field(
        default=None,
        description="A UTF-8 text file with one prompt a line, empty lines skipped; or a table, "
        "`.csv`, `.jsonl` or `.parquet`, with a column of prompts. At most 128 MiB, and 10,000 "
        "characters a prompt.",
    )
    prompt_column: str | None = Field(
        default=None, description="Column of a table that holds the prompts. None: `prompt`."
    )
    columns: tuple[str, ...] | None = Field(
        default=None,
        strict=False,
        description="Other columns of the table that travel into the sample set, each as "
        "`prompt.NAME`. None: all of them.",
    )
    context: Literal["text", "text_and_neighbors", "neighbors", "mixed"] = Field(
        default="neighbors",
        description="`text`: the text embedding alone, k_nn times over. `text_and_neighbors`: "
        "the text embedding and its k_nn - 1 nearest images. `neighbors`: its k_nn nearest images "
        "only. `mixed`: each of these turned toward the text by `query_weight`.",
    )

    @model_validator(mode="after")
    def _one_source(self) -> TextConditioning:
        if (self.prompts is None) == (self.prompts_file is None):
            raise ValueError("give exactly one of prompts and prompts_file")
        if self.prompts is not None and not self.prompts:
            raise ValueError("prompts is empty; give at least one prompt")
        if self.prompts is not None and (self.prompt_column or self.columns):
            raise ValueError("prompt_column and columns belong to a prompts_file that is a table")
        return self


class EditConditioning(TextConditioning):
    """Make given pictures into others, as texts say."""

    mode: Literal["edit"] = Field(  # type: ignore[assignment]
        description="Edit pictures by prompts, the instructions. With P pictures and T prompts "
        "sample i takes prompt (i // samples_per_query) mod T of picture "
        "(i // (samples_per_query T)) mod P."
    )
    images: Uri = Field(
        description="The pictures: a PNG, JPEG or WebP file, a folder of them, a parquet file or "
        "folder, a sample set, a webdataset `.tar`, or `shapes:SUBSET[:COUNT]`. All of them are "
        "decoded before work begins."
    )
    pairing: Literal["every", "aligned"] = Field(
        default="every",
        description="`every`: every picture by every prompt. `aligned`: each picture by the "
        "prompt at its own place; there are as many of both.",
    )
    other_sizes: Literal["refuse", "crop", "stretch"] = Field(
        default="refuse",
        description="What becomes of pictures of another size than the head's. `refuse`: the job "
        "is. `crop`: the largest centered square is resized (bicubic, antialiased). `stretch`: "
        "all of the picture is.",
    )
    edit: EditSpec = Field(description="How the head is given the picture.")

    @property
    def editing(self) -> EditSpec | None:
        """Pictures are given."""
        return self.edit


class ClassConditioning(_SeveralSamples):
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


class ImageConditioning(_Queried):
    """Show what given pictures show."""

    mode: Literal["image"] = Field(
        description="Take given pictures as queries. Sample i takes picture i mod P."
    )
    images: Uri = Field(
        description="The pictures: a PNG, JPEG or WebP file, a folder of them, a parquet file or "
        "folder, a webdataset `.tar`, or `shapes:SUBSET[:COUNT]`. All of them are decoded before "
        "work begins."
    )
    context: Literal["image", "image_and_neighbors", "neighbors", "mixed"] = Field(
        default="neighbors",
        description="`image`: the picture's embedding alone, k_nn times over. "
        "`image_and_neighbors`: its embedding and its k_nn - 1 nearest rows. `neighbors`: its k_nn "
        "nearest rows only. `mixed`: each of these turned toward the picture by `query_weight`.",
    )

    @property
    def needs_encoder(self) -> bool:
        """Pictures are embedded."""
        return True


class EmbeddingsConditioning(_Queried):
    """Take embeddings that were made elsewhere."""

    mode: Literal["embeddings"] = Field(
        description="Take given embeddings as queries, or as whole contexts. Sample i takes row i "
        "mod N."
    )
    file: Uri = Field(
        description="A `.npy` array of shape (N, width) or (N, k_nn, width), or a parquet table "
        "with a vector column; of the encoder that made the database. At most 2 GiB."
    )
    column: str | None = Field(
        default=None,
        description="Vector column of a parquet table. None: `embedding`, or the only one.",
    )
    context: Literal["embeddings", "embeddings_and_neighbors", "neighbors", "mixed"] = Field(
        default="neighbors",
        description="`embeddings`: the embedding alone, k_nn times over; with three axes the k_nn "
        "embeddings as they are. `embeddings_and_neighbors`: it and its k_nn - 1 nearest rows. "
        "`neighbors`: its k_nn nearest rows only. `mixed`: each of these turned toward it by "
        "`query_weight`.",
    )


class RowsConditioning(_SeveralSamples):
    """Take rows of the database that the job names."""

    mode: Literal["rows"] = Field(
        description="Take given rows of the database. Sample i takes entry i mod N."
    )
    rows: tuple[_Row | _Rows, ...] | None = Field(
        default=None,
        strict=False,
        description="Row ids, inline: one for each entry, or with context `rows` a list of k_nn.",
    )
    rows_file: Uri | None = Field(
        default=None,
        description="A `.txt` with the ids of one entry a line, a `.npy` array of integers of "
        "shape (N,) or (N, k_nn), a parquet table with a column `row_id`, or a neighbor memory of "
        "RDM's authors (`.p`), whose entries are most frequent first.",
    )
    context: Literal["rows", "neighbors"] = Field(
        default="neighbors",
        description="`neighbors`: the k_nn rows nearest to the given one, itself usually among "
        "them. `rows`: the k_nn given rows themselves.",
    )

    @property
    def query_leads(self) -> bool:
        """A row of the database is the nearest to itself."""
        return self.context == "neighbors"

    @model_validator(mode="after")
    def _one_source(self) -> RowsConditioning:
        if (self.rows is None) == (self.rows_file is None):
            raise ValueError("give exactly one of rows and rows_file")
        if self.rows is not None and not self.rows:
            raise ValueError("rows is empty; give at least one")
        return self


class Waypoint(Spec):
    """One end of a path: a text, a picture or a row."""

    text: _Prompt | None = Field(default=None, description="A text.")
    image: Uri | None = Field(default=None, description="A PNG, JPEG or WebP file.")
    row: _Row | None = Field(default=None, description="A row of the database.")

    @model_validator(mode="after")
    def _one_kind(self) -> Waypoint:
        if sum(value is not None for value in (self.text, self.image, self.row)) != 1:
            raise ValueError("give exactly one of text, image and row")
        return self


class InterpolateConditioning(_SeveralSamples):
    """Go from one query to another."""

    mode: Literal["interpolate"] = Field(
        description="Take mixtures of queries along a path. Sample i takes point i mod `steps`."
    )
    through: Annotated[tuple[Waypoint, ...], Field(min_length=2, max_length=1000)] = Field(
        strict=False, description="The queries, in order: two ends, and what lies between them."
    )
    steps: Annotated[int, Field(ge=2, le=1_000_000)] = Field(
        default=8, description="Points of the path, both ends included, spread evenly."
    )
    path: Literal["spherical", "linear"] = Field(
        default="spherical",
        description="`spherical`: along the great circle, lengths linearly (Shoemake 1985, as "
        "Ramesh et al. 2022 mix embeddings of CLIP). `linear`: along the straight line.",
    )
    context: Literal["mixture", "mixture_and_neighbors", "neighbors"] = Field(
        default="neighbors",
        description="`mixture`: the mixed embedding alone, k_nn times over. "
        "`mixture_and_neighbors`: it and its k_nn - 1 nearest rows. `neighbors`: its k_nn nearest "
        "rows only.",
    )

    @property
    def query_leads(self) -> bool:
        """The mixture is first, unless it is left out or fills all places."""
        alone = self.context == "mixture" and self.k_nn == 1
        return alone or self.context == "mixture_and_neighbors"

    @property
    def needs_encoder(self) -> bool:
        """Texts and pictures are embedded; rows are embeddings already."""
        return any(point.row is None for point in self.through)


ConditioningSpec = Annotated[
    UnconditionalConditioning
    | TextConditioning
    | ClassConditioning
    | ImageConditioning
    | EmbeddingsConditioning
    | RowsConditioning
    | InterpolateConditioning
    | EditConditioning,
    Field(discriminator="mode"),
]
