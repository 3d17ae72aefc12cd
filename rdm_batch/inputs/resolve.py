"""From the names in a job to the things they name: each is opened here, once.

What is given is small and is handed on: to the checks, the generation, the evaluation and the
report of the job, and pickled to workers on other machines, which open only what is in it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from pydantic import BaseModel

from rdm_batch.errors import InvalidJobError, RdmBatchError
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.encoders import OpenedEncoder, open_encoder
from rdm_batch.inputs.prompts import Prompts
from rdm_batch.inputs.references import OpenedReferences, open_references
from rdm_batch.inputs.weights import OpenedCheckpoint, OpenedWeights, open_checkpoint, open_weaker
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.specs.job import JobSpec

_PACKAGE = Path(__file__).parents[1]
Thing = TypeVar("Thing")
OpenThing = TypeVar("OpenThing", covariant=True)


@runtime_checkable
class ModeNeeds(Protocol):
    """What a conditioning mode needs of what a job names."""

    @property
    def needs_proposal(self) -> bool:
        """Tell whether the proposal distribution of the database is to be opened."""

    def read_prompts(self) -> Prompts | None:
        """Collect the texts to embed; None where there are none."""


@dataclass(frozen=True)
class Opening(Generic[OpenThing]):
    """Hold what became of opening one thing.

    Attributes:
        thing: What was opened. None where it could not be, or where there was nothing to open.
        problems: Why it could not be.
    """

    thing: OpenThing | None
    problems: tuple[RdmBatchError, ...] = ()


@dataclass(frozen=True)
class Resolved:
    """Hold everything a job names, opened.

    Attributes:
        model: The head, ready to load.
        database: Where it is and what its manifest says.
        proposal: Its proposal distribution; None where it has none or nothing is drawn from it.
        encoder: What embeds texts; None where there are none.
        prompts: Texts to embed; None where there are none.
        references: What samples will be judged against; None where they are not.
    """

    model: OpenedCheckpoint
    database: Database
    proposal: Proposal | None
    encoder: OpenedEncoder | None
    prompts: Prompts | None
    references: OpenedReferences | None


@dataclass(frozen=True)
class Resolution:
    """Hold what became of opening everything a job names; fields as those of ``Resolved``.

    There, ``weaker`` is the model's.
    """

    model: Opening[OpenedCheckpoint]
    weaker: Opening[OpenedWeights]
    database: Opening[Database]
    proposal: Opening[Proposal]
    encoder: Opening[OpenedEncoder]
    prompts: Opening[Prompts]
    references: Opening[OpenedReferences]

    def resolved(self) -> Resolved:
        """Give the things, once there is known to be no problem with any of them."""
        model, database = self.model.thing, self.database.thing
        assert model is not None
        assert database is not None
        return Resolved(
            replace(model, weaker=self.weaker.thing),
            database,
            self.proposal.thing,
            self.encoder.thing,
            self.prompts.thing,
            self.references.thing,
        )


def attempt(step: Callable[[], Thing | None]) -> Opening[Thing]:
    """Take a step that may fail, and give what it gives or why it failed.

    A failure that nobody expected is a problem like the others: it must not hide them.
    """
    try:
        return Opening(step())
    except InvalidJobError as error:
        return Opening(None, error.problems)
    except RdmBatchError as error:
        return Opening(None, (error,))
    except Exception as error:
        return Opening(None, (_defect(error),))


def found_by(check: Callable[[], Iterable[RdmBatchError]]) -> tuple[RdmBatchError, ...]:
    """List the problems a check finds; where it fails itself, what it found before and that."""
    found: list[RdmBatchError] = []

    def step() -> None:
        for problem in check():
            found.append(problem)

    failed = attempt(step).problems
    return (*found, *failed)


def _defect(error: Exception) -> RdmBatchError:
    """Describe a failure nobody expected, without its own words: they may hold a secret."""
    frames = traceback.extract_tb(error.__traceback__)
    place = frames[-1]
    for frame in frames:
        if _PACKAGE in Path(frame.filename).parents:
            place = frame
    return RdmBatchError(
        f"{Path(place.filename).name}:{place.lineno}",
        f"a check failed by itself ({type(error).__name__} in {place.name})",
        "",
        "this is a defect of rdm_batch, please report it with the file that caused it",
    )


class Openings:
    """Remember what was opened, so that several jobs that name one thing open it once."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], Opening[Any]] = {}

    def once(
        self, kind: str, named: BaseModel | str, step: Callable[[], Thing | None]
    ) -> Opening[Thing]:
        """Open a thing, or give what became of it before.

        Args:
            kind: What sort of thing it is.
            named: What the job says of it.
            step: Opens it.
        """
        key = kind, named if isinstance(named, str) else named.model_dump_json()
        if key not in self._known:
            self._known[key] = attempt(step)
        return self._known[key]


def resolve(spec: JobSpec, mode: ModeNeeds, openings: Openings | None = None) -> Resolution:
    """Open everything a job names; what cannot be opened does not keep the rest from it.

    Args:
        spec: The job, with absolute locations.
        mode: How it conditions its samples.
        openings: What other jobs have opened. None: there are none.
    """
    opened = Openings() if openings is None else openings
    uri = spec.database.uri
    database = opened.once("database", uri, lambda: _open_database(uri))
    proposal: Opening[Proposal] = Opening(None)
    if database.thing is not None and mode.needs_proposal:
        proposal = opened.once("proposal", uri, database.thing.proposal)
    encoder: Opening[OpenedEncoder] = Opening(None)
    named = spec.database.encoder
    if named is not None and spec.conditioning.embeds_text:
        encoder = opened.once("encoder", named, lambda: open_encoder(named))
    references: Opening[OpenedReferences] = Opening(None)
    evaluation = spec.evaluation
    if evaluation is not None:
        references = opened.once("references", evaluation, lambda: open_references(evaluation))
    return Resolution(
        model=opened.once("model", spec.model, lambda: open_checkpoint(spec.model)),
        weaker=opened.once("weaker", spec.sampling, lambda: open_weaker(spec.sampling)),
        database=database,
        proposal=proposal,
        encoder=encoder,
        prompts=attempt(mode.read_prompts),
        references=references,
    )


def _open_database(uri: str) -> Database:
    database = Database.open(uri)
    database.check()
    return database
