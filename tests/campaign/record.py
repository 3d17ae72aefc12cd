"""What a campaign has found so far: kept after every kill, and printed as a table at the end."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.records import Row
from rdm_batch.files import written_aside

FAULTS = ("lost", "doubled", "stray", "half", "tracebacks", "floods", "orphans", "unfinished")
SILENCE_S = 60.0


@dataclass
class Round:
    """One piece of work, run again until it was complete.

    Attributes:
        flow: What was run.
        address: Where.
        number: Position in the campaign.
        runs: Runs until it was complete.
        kills: Kills by victim.
        working: Kills after the output had first changed.
        lost: Files of the undisturbed result that are missing or differ, and missing samples.
        doubled: Samples stored more than once.
        stray: Visible files that the undisturbed result does not have.
        half: Files that differed from the undisturbed ones right after a kill, under final names.
        tracebacks: Runs that printed one.
        floods: Failed runs that printed more than one error, or more than 40 lines.
        orphans: Processes alive longer than they may be after their run.
        unfinished: 1 when it was given up.
        left_aside: Hidden ``.partial`` files; they are in nobody's way.
        left_in_tmp: Temporary files of killed processes.
        longest_orphan_s: How long a process outlived its run.
        silence_s: Longest time without a sign of progress.
        notes: What was wrong, in words.
    """

    flow: str
    address: str
    number: int
    runs: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    working: int = 0
    lost: int = 0
    doubled: int = 0
    stray: int = 0
    half: int = 0
    tracebacks: int = 0
    floods: int = 0
    orphans: int = 0
    unfinished: int = 0
    left_aside: int = 0
    left_in_tmp: int = 0
    longest_orphan_s: float = 0.0
    silence_s: float = 0.0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    @property
    def killed(self) -> int:
        """Kills of every kind."""
        return sum(self.kills.values())


@dataclass
class Campaign:
    """All rounds of a campaign."""

    settings: Mapping[str, Any]
    rounds: list[Round] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def of(cls, settings: Mapping[str, Any], earlier: Path | None) -> Campaign:
        """Begin a campaign, or go on with the one that a file holds: its rounds count."""
        if earlier is None:
            return cls(settings)
        found = json.loads(earlier.read_text())
        rounds = [Round(**each) for each in found["rounds"]]
        before = f"{found['kills']} kills of {found['settings']}"
        return cls({**settings, "before": before}, rounds, found["seconds"])

    @property
    def kills(self) -> int:
        """Kills of all rounds."""
        return sum(each.killed for each in self.rounds)

    @property
    def faults(self) -> int:
        """Everything that must not be."""
        return sum(getattr(each, name) for each in self.rounds for name in FAULTS)

    def save(self, path: Path | None) -> None:
        """Write what there is; a campaign that is interrupted loses nothing."""
        if path is None:
            return
        document = {**asdict(self), "kills": self.kills, "faults": self.faults}
        document["table"] = [row.model_dump(exclude_none=True) for row in self.rows()]
        with written_aside(path) as aside:
            aside.write_text(json.dumps(document, indent=1) + "\n")

    def rows(self) -> list[Row]:
        """Sum up by flow and address, and by victim, and over all."""
        keys = list(dict.fromkeys((each.flow, each.address) for each in self.rounds))
        rows = [
            _row(f"{flow}, --address {address}", [r for r in self.rounds if key_of(r) == key])
            for key in keys
            for flow, address in [key]
        ]
        victims: Counter[str] = Counter()
        for each in self.rounds:
            victims.update(each.kills)
        rows += [
            Row(name=f"killed: {victim}", value=count, unit="kills")
            for victim, count in sorted(victims.items())
        ]
        return [*rows, _row("all", self.rounds)]


def key_of(found: Round) -> tuple[str, str]:
    """Say which row of the table a round belongs to."""
    return found.flow, found.address


def _row(name: str, rounds: list[Round]) -> Row:
    details: dict[str, Any] = {
        "rounds": len(rounds),
        "runs": sum(each.runs for each in rounds),
        "while it worked": sum(each.working for each in rounds),
        **{fault: sum(getattr(each, fault) for each in rounds) for fault in FAULTS},
        "left aside": sum(each.left_aside for each in rounds),
        "left in tmp": sum(each.left_in_tmp for each in rounds),
        "longest silence, s": round(max((each.silence_s for each in rounds), default=0), 1),
        "longest orphan, s": round(max((each.longest_orphan_s for each in rounds), default=0), 1),
    }
    kills = sum(each.killed for each in rounds)
    return Row(name=name, value=kills, unit="kills", details=details)
