"""The accepted baseline: a file that is written by ``bench accept`` and reviewed like code."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import AwareDatetime, Field, PositiveInt, StringConstraints, ValidationError

from rdm_batch.errors import RegressionError
from rdm_batch.files import canonical_digest, write_file
from rdm_batch.regression.history import History
from rdm_batch.regression.records import Record, RunId, Sha256
from rdm_batch.specs.messages import first_problem
from rdm_batch.specs.yaml_text import read_yaml

FORMAT = "rdm_batch.baseline/1"
_HEAD = """\
# What `rdm-batch bench accept` has accepted; review it like code, and change it with that command.
# Digests are of the first samples of each job; the samples themselves are kept in the history.
"""

Reason = Annotated[str, StringConstraints(strip_whitespace=True, min_length=3, max_length=2000)]


class AcceptedObject(Record):
    """An object of the history that belongs to an accepted run."""

    key: str
    sha256: Sha256


class AcceptedScore(Record):
    """A score as it was accepted, and the digest of what it depends on besides the samples."""

    value: float
    error: float | None = None
    description: Sha256


class AcceptedBounds(Record):
    """Bounds that a score was accepted to lie in, and the values of the seeds they are from."""

    low: float
    high: float
    seeds: PositiveInt
    description: Sha256


class Accepted(Record):
    """What was accepted of one job, on one class of machines.

    Args:
        job: Name of the job in the suite.
        machine_class: Where its bytes are expected again.
        run: Which run of the history it was.
        started: When that was.
        commit: Of the program.
        dirty: Whether there were local changes besides.
        reason: Why it was accepted.
        versions: Of what moves numbers.
        identity: Digest of everything that defines the samples.
        seed: Of the job.
        samples: In the canary.
        digests: Of the canary, by stage.
        scores: By id.
        bounds: By score.
        objects: Canary and influences of the run, in the history.
    """

    job: str
    machine_class: str
    run: RunId
    started: AwareDatetime
    commit: str | None
    dirty: bool
    reason: Reason
    versions: dict[str, str]
    identity: Sha256
    seed: int
    samples: PositiveInt
    digests: dict[str, Sha256]
    scores: dict[str, AcceptedScore] = Field(default_factory=dict)
    bounds: dict[str, AcceptedBounds] = Field(default_factory=dict)
    objects: dict[str, AcceptedObject] = Field(default_factory=dict)


class Baseline(Record):
    """Everything that was accepted of a suite.

    Args:
        format: Version of this file.
        suite: Name of the suite.
        accepted: By job and class of machine, each once.
    """

    format: Literal["rdm_batch.baseline/1"] = Field(default="rdm_batch.baseline/1")
    suite: str
    accepted: tuple[Accepted, ...] = ()

    @property
    def digest(self) -> str:
        """Return the digest of its content."""
        return canonical_digest(self.model_dump(mode="json"), escape=False)

    def find(self, job: str, machine_class: str) -> Accepted | None:
        """Return what was accepted of a job on a class of machines; None where nothing was."""
        found = (
            one for one in self.accepted if (one.job, one.machine_class) == (job, machine_class)
        )
        return next(found, None)

    def of_job(self, job: str) -> tuple[Accepted, ...]:
        """Return what was accepted of a job on any machine, the latest first."""
        found = [one for one in self.accepted if one.job == job]
        return tuple(sorted(found, key=lambda one: one.started, reverse=True))

    def replaced(self, others: tuple[Accepted, ...]) -> Baseline:
        """Give the baseline with newly accepted jobs in place of what stood for them before."""
        new = {(one.job, one.machine_class): one for one in others}
        kept = [one for one in self.accepted if (one.job, one.machine_class) not in new]
        merged = sorted([*kept, *others], key=lambda one: (one.job, one.machine_class))
        return self.model_copy(update={"accepted": tuple(merged)})


def load_baseline(path: Path, suite: str) -> Baseline | None:
    """Read a baseline; None where there is none yet.

    Args:
        path: The file.
        suite: Name of the suite it must be of.

    Raises:
        RegressionError: It is damaged, of another format or of another suite.
    """
    if not path.exists():
        return None
    document = read_yaml(path)
    found = document.get("format") if isinstance(document, dict) else None
    if not isinstance(document, dict) or found != FORMAT:
        raise RegressionError(
            str(path),
            f"is of the format {found!r}",
            f"a baseline in the format {FORMAT}",
            "use the release that wrote it, or accept a run anew into another file",
        )
    try:
        baseline = Baseline.model_validate(document)
    except ValidationError as error:
        raise RegressionError(
            str(path),
            f"is damaged ({first_problem(error)})",
            "a file as `rdm-batch bench accept` writes it",
            "take it from the last commit",
        ) from None
    if baseline.suite != suite:
        raise RegressionError(
            str(path), f"was accepted for the suite {baseline.suite!r}", f"one for {suite!r}"
        )
    return baseline


def save_baseline(path: Path, baseline: Baseline) -> None:
    """Write a baseline so that a change of it can be read as a difference of lines.

    Raises:
        RegressionError: It cannot be written.
    """
    document = baseline.model_dump(mode="json", exclude_none=False)
    text = yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)
    write_file(path, (_HEAD + text).encode(), RegressionError)


def accepted_object(history: History, accepted: Accepted, name: str) -> bytes | None:
    """Read what an accepted run has kept; None where this history does not hold it.

    Raises:
        RegressionError: It is there and is not what was accepted.
    """
    recorded = accepted.objects.get(name)
    if recorded is None:
        return None
    data = history.store.read_if_there(recorded.key)
    if data is None:
        return None
    if hashlib.sha256(data).hexdigest() != recorded.sha256:
        raise RegressionError(
            history.store.child_uri(recorded.key),
            "has other content than was accepted",
            f"the SHA-256 {recorded.sha256[:12]}...",
            "restore it, or accept a run anew",
        )
    return data
