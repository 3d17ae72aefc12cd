"""Make given pictures into others, as texts say: each is conditioned on its text, and is given."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Int64, UInt8

from rdm_batch.datasets.fit import fit_image
from rdm_batch.datasets.source import ImageSource
from rdm_batch.errors import ImageError, RdmBatchError, SpecError
from rdm_batch.files import canonical_digest
from rdm_batch.generation.modes.mode import Embed, NoPictures, SampleInputs, Sources
from rdm_batch.generation.modes.queried import QUERY_COLUMN, Names, Turn
from rdm_batch.generation.modes.text import Text, TextConditioner
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.images import open_images
from rdm_batch.inputs.prompts import Prompts
from rdm_batch.inputs.queries import GivenPictures, GivenQueries, open_pictures
from rdm_batch.inputs.resolve import Resolved
from rdm_batch.retrieval.retriever import Retriever
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.conditioning import EditConditioning
from rdm_batch.specs.image_resize import ImageResize

_FIELD = "conditioning.images"


class OpenedSources:
    """Decode pictures where samples are made, each to the size of the head.

    It travels to the heads as a place to look; the pictures are opened when the first is asked for.

    Args:
        location: Where they are, as ``open_images`` takes it.
        count: How many there were when the job was checked.
        resize: How those of another size are brought to the head's.
    """

    def __init__(self, location: str, count: int, resize: ImageResize) -> None:
        self._location = location
        self._count = count
        self._resize = resize
        self._source: ImageSource | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, object]:
        # A lock stays where it is, and so does an open file.
        return {**vars(self), "_lock": None, "_source": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def __call__(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n height width 3"]:
        """Give the pictures at some positions.

        Raises:
            ImageError: They are not there any more, or others are.
        """
        distinct, places = np.unique(positions, return_inverse=True)
        # Sources keep a place between calls and are asked by one thread; shards by several.
        with self._lock:
            source = self._opened()
            pictures = [fit_image(source[at].image, self._resize) for at in distinct.tolist()]
        return np.stack(pictures)[places]

    def _opened(self) -> ImageSource:
        if self._source is None:
            source, _ = open_images(self._location)
            if len(source) != self._count:
                raise ImageError(
                    f"{_FIELD} {self._location}",
                    f"{len(source):,} pictures, which were {self._count:,} when the job began",
                    "the same pictures on every machine and until the job is done",
                )
            self._source = source
        return self._source


@dataclass(frozen=True)
class EditConditioner:
    """Give each sample the next pair of picture and text.

    Attributes:
        instructions: Conditions samples on their texts.
        names: Of the pictures.
        captions: Theirs; None where one has none.
        turn: Which picture each sample takes.
        decode: Gives pictures by their positions.
    """

    instructions: TextConditioner
    names: tuple[str, ...]
    captions: tuple[str | None, ...]
    turn: Turn
    decode: OpenedSources

    def __call__(self, noise: SampleNoise, retriever: Retriever) -> SampleInputs:
        """Condition each sample on its text, and name the picture it is an edit of."""
        inputs = self.instructions(noise, retriever)
        chosen = self.turn.of(noise.sample_indices)
        places = chosen.tolist()
        return replace(
            inputs,
            columns={**inputs.columns, QUERY_COLUMN: Names(self.names).of(chosen)},
            sources=Sources(
                tuple(self.names[at] for at in places),
                tuple(self.captions[at] for at in places),
                partial(self.decode, chosen),
            ),
        )


@dataclass(frozen=True)
class Edit(NoPictures):
    """The mode ``edit``; see ``Mode``. Its texts are those of mode ``text``."""

    spec: EditConditioning
    needs_proposal = False

    def read_prompts(self) -> Prompts:
        """Give the prompts of the job file, or of the file it names."""
        return self._text.read_prompts()

    def read_queries(self) -> GivenPictures:
        """Open the pictures, and decode each once."""
        pictures = open_pictures(self.spec.images, _FIELD)
        # Captions are recorded beside the samples.
        digest = canonical_digest([pictures.digest, pictures.captions], escape=False)
        return replace(pictures, digest=digest)

    def problems(self, database: Database, queries: GivenQueries | None) -> Iterator[RdmBatchError]:
        """List what is asked for and the database or the pictures cannot give."""
        yield from self._text.problems(database, None)
        if self.spec.pairing != "aligned" or queries is None:
            return
        num_texts = len(self.read_prompts().texts)
        if len(queries) != num_texts:
            yield SpecError(
                "conditioning.pairing",
                f"is 'aligned', but there are {len(queries):,} pictures and {num_texts:,} prompts",
                "as many prompts as pictures, or pairing every",
            )

    def build_conditioner(self, opened: Resolved, embed: Embed) -> EditConditioner:
        """Embed the prompts."""
        spec, pictures = self.spec, opened.queries
        assert isinstance(pictures, GivenPictures)
        instructions = self._text.build_conditioner(opened, embed)
        in_a_row = spec.samples_per_query
        if spec.pairing == "every":
            in_a_row *= len(instructions.prompts)
        resize = ImageResize(
            size=opened.model.image_size,
            crop="center" if spec.other_sizes == "crop" else "none",
            filter="bicubic",
        )
        return EditConditioner(
            instructions,
            pictures.names,
            pictures.captions,
            Turn(len(pictures), in_a_row),
            OpenedSources(pictures.location, len(pictures), resize),
        )

    @property
    def _text(self) -> Text:
        return Text(self.spec)
