"""Rounds of a campaign: disturb a piece of work, resume it until it is complete, look at it."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tests.campaign.flows import (
    SAMPLES,
    Flow,
    content,
    left_aside,
    make_flows,
    rows_of,
    write_worlds,
)
from tests.campaign.processes import SERVERS, Family, kill
from tests.campaign.record import Campaign, Round
from tests.campaign.runs import Kill, Plan, Run, plan_run, run_command

ORPHAN_S = 30.0
"""How long processes may outlive their run: agents of Ray look for their servers meanwhile."""
_MOST_TRIES = 4
_MOST_WORKER_KILLS = 8
_OVERWRITTEN = {"losses.png"}
_RAY_WORDS = re.compile(r"\.cc:\d+:|\(raylet\)|StackTrace|Stack trace")
_MOST_LINES = 60
_PRELOADED = (
    "rdm_batch.run",
    "rdm_batch.cli",
    "rdm_batch.generation.job",
    "rdm_batch.evaluation.commands",
    "rdm_batch.databases.build",
    "rdm_batch.training.train",
    "rdm_batch.export",
)


@dataclass(frozen=True)
class Reference:
    """What comes of a flow when nobody disturbs it, and how long that takes."""

    run: Run
    content: dict[str, str]


class Workshop:
    """Where rounds are made, below one folder that is removed at the end.

    Args:
        root: An empty folder.
        rng: Source of chance.
        commands: Share of the runs without Ray that are programs of their own, not copies of
            this process.
        victims: Whom to kill; empty means everybody a flow has.
    """

    def __init__(
        self, root: Path, rng: random.Random, commands: float, victims: Sequence[str]
    ) -> None:
        for module in _PRELOADED:
            import_module(module)
        self._root = root
        self._rng = rng
        self._commands = commands
        self._victims = victims
        self._references: dict[tuple[str, str], Reference] = {}
        self._outliving: list[tuple[Family, float, Round]] = []
        self._count = 0
        (root / "worlds").mkdir()
        self.flows = _in_a_child(root / "worlds")
        self._run_undisturbed(self.flows["generation"], "none", root / "worlds" / "samples")

    def can_disturb(self, flow: Flow, address: str) -> bool:
        """Tell whether a flow has one of the victims at an address."""
        return bool(self._victims_of(flow, address)) and (address == "none" or bool(flow.workers))

    def round(self, flow: Flow, address: str, most: int, changed: Callable[[Round], None]) -> Round:
        """Disturb a flow, run it until it is complete, and look at the result.

        Args:
            flow: What to run.
            address: ``none`` or ``local``.
            most: Kills to make at most.
            changed: Told of the round when it begins and after every kill.
        """
        reference = self._reference(flow, address)
        self._count += 1
        made = Round(flow.name, address, self._count)
        changed(made)
        began, place = time.monotonic(), self._root / "work"
        out = self._fresh(flow)
        disturbed = self._rng.randint(1, 8 if address == "none" else 2)
        tries = 0

        def killed(each: Kill) -> None:
            made.kills[each.victim] = made.kills.get(each.victim, 0) + 1
            made.working += each.working
            changed(made)

        while True:
            plan, left = Plan(), most - made.killed
            if made.runs < disturbed and left > 0:
                victims = self._victims_of(flow, address)
                workers = tuple(victim for victim in victims if victim in flow.workers)
                chosen = self._rng.choice(victims)
                if chosen in workers and self._rng.random() < 0.9:
                    # Workers are brought back: several deaths, of all kinds, in one run.
                    plan = plan_run(
                        self._rng, workers, reference.run, min(left, _MOST_WORKER_KILLS)
                    )
                else:
                    plan = plan_run(self._rng, (chosen,), reference.run, 1)
            else:
                tries += 1
            run = self._run(flow, address, out, place, made.runs, plan, killed)
            made.runs += 1
            if made.runs == 1 and run.status == 0 and run.seconds < reference.run.seconds:
                # The first of its kind was slower, and moments drawn over it came too late.
                reference.run.seconds = run.seconds
                reference.run.first_change_s = run.first_change_s
            made.silence_s = max(made.silence_s, run.silence_s)
            self._judge_run(made, run)
            if run.family is not None:
                self._outliving.append((run.family, run.ended, made))
            self._look_for_orphans()
            if run.status == 0:
                break
            self._judge_interrupted(made, out, reference)
            if tries >= _MOST_TRIES:
                made.unfinished = 1
                break
        self._judge_result(made, flow, out, place, reference)
        made.seconds = round(time.monotonic() - began, 1)
        return made

    def settle(self) -> None:
        """Wait for what still outlives its run, as long as it may."""
        while self._outliving:
            self._look_for_orphans()
            time.sleep(0.2)

    def _victims_of(self, flow: Flow, address: str) -> list[str]:
        there = ["driver"] if address == "none" else ["driver", *flow.workers, *SERVERS]
        return [victim for victim in there if not self._victims or victim in self._victims]

    def _reference(self, flow: Flow, address: str) -> Reference:
        key = (flow.name, address)
        if key not in self._references:
            out = self._fresh(flow)
            run = self._run_undisturbed(flow, address, out)
            self._references[key] = Reference(run, content(out))
        return self._references[key]

    def _fresh(self, flow: Flow) -> Path:
        """Begin again: what is made names where it was made, so that is always the same folder."""
        shutil.rmtree(self._root / "work", ignore_errors=True)
        out = self._root / "work" / "out"
        out.mkdir(parents=True)
        flow.before(out)
        return out

    def _run_undisturbed(self, flow: Flow, address: str, out: Path) -> Run:
        run = self._run(flow, address, out, self._root, 0, Plan(), lambda _: None)
        if run.status != 0:
            raise RuntimeError(f"{flow.name} fails undisturbed:\n{run.printed[-4000:]}")
        return run

    def _run(
        self,
        flow: Flow,
        address: str,
        out: Path,
        place: Path,
        number: int,
        plan: Plan,
        on_kill: Callable[[Kill], None],
    ) -> Run:
        copy = address == "none" and self._rng.random() >= self._commands
        with _ray_folder(address):
            return run_command(
                flow,
                flow.arguments(out, address, number > 0),
                out,
                place / f"run-{number}.log",
                place / "tmp",
                copy,
                plan,
                self._rng,
                on_kill,
                self._look_for_orphans,
            )

    def _look_for_orphans(self) -> None:
        waiting = []
        for family, ended, made in self._outliving:
            living, since_s = family.living(), time.monotonic() - ended
            if not living:
                continue
            made.longest_orphan_s = max(made.longest_orphan_s, since_s)
            if since_s <= ORPHAN_S:
                waiting.append((family, ended, made))
                continue
            made.orphans += len(living)
            for process in living:
                with contextlib.suppress(Exception):
                    made.notes.append(f"outlived its run: {' '.join(process.cmdline())[:100]}")
                kill(process)
        self._outliving = waiting

    def _judge_run(self, made: Round, run: Run) -> None:
        if "Traceback (most recent call last)" in run.printed:
            made.tracebacks += 1
            made.notes.append(run.printed[-1500:])
        lines = run.printed.splitlines()
        errors = sum(line.startswith("error:") for line in lines)
        words = _RAY_WORDS.search(run.printed)
        silent = run.status not in (0, -9) and errors == 0
        if errors > 1 or words or len(lines) > _MOST_LINES or silent:
            made.floods += 1
            made.notes.append(f"status {run.status}, {len(lines)} lines: {run.printed[-1500:]}")
        elif run.status not in (0, -9):
            after = ", ".join(each.victim for each in run.kills) or "nobody was killed"
            made.notes.append(f"({after}) {lines[-1][:300] if lines else ''}")

    def _judge_interrupted(self, made: Round, out: Path, reference: Reference) -> None:
        for name, digest in content(out).items():
            if name not in _OVERWRITTEN and reference.content.get(name, digest) != digest:
                made.half += 1
                made.notes.append(f"{name} differs while the work is not complete")

    def _judge_result(
        self, made: Round, flow: Flow, out: Path, place: Path, reference: Reference
    ) -> None:
        found = content(out)
        for name, digest in reference.content.items():
            if found.get(name) != digest:
                made.lost += 1
                made.notes.append(f"{name} {'differs' if name in found else 'is missing'}")
        strays = sorted(found.keys() - reference.content.keys())
        made.stray += len(strays)
        made.notes += [f"{name} does not belong there" for name in strays]
        if flow.name == "generation":
            rows = rows_of(out)
            made.lost += len(set(range(SAMPLES)) - rows.keys())
            made.doubled += sum(count - 1 for count in rows.values())
        made.left_aside = left_aside(out)
        tmp = place / "tmp"
        made.left_in_tmp = sum(1 for path in tmp.rglob("*") if path.is_file())


@contextmanager
def workshop(rng: random.Random, commands: float, victims: Sequence[str]) -> Iterator[Workshop]:
    """Open a workshop in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="kills-", ignore_cleanup_errors=True) as folder:
        yield Workshop(Path(folder), rng, commands, victims)


def run_campaign(
    made: Workshop,
    campaign: Campaign,
    work: Sequence[tuple[str, str]],
    rng: random.Random,
    kills: int,
    seconds: float,
    out: Path | None,
) -> None:
    """Make rounds until there were enough kills, or the time is over; keep what is found.

    Args:
        made: Where they are made.
        campaign: Takes what is found.
        work: Names of flows with addresses, of which each round draws one.
        rng: Source of chance.
        kills: Kills wanted.
        seconds: Longest time.
        out: File that is written after every kill.
    """
    began, before = time.monotonic(), campaign.seconds

    def save() -> None:
        campaign.seconds = round(before + time.monotonic() - began, 1)
        campaign.save(out)

    def changed(found: Round) -> None:
        if all(found is not each for each in campaign.rounds):
            campaign.rounds.append(found)
        save()

    try:
        while campaign.kills < kills and time.monotonic() - began < seconds:
            name, address = rng.choice(work)
            found = made.round(made.flows[name], address, kills - campaign.kills, changed)
            save()
            marks = " ".join(f"{victim} {count}" for victim, count in found.kills.items())
            print(
                f"{campaign.kills:4d} kills  {name}, {address}: {found.runs} runs, "
                f"killed {marks or 'nobody'}, {found.seconds:.0f} s"
                f"{'' if not campaign.faults else f'  FAULTS so far: {campaign.faults}'}",
                flush=True,
            )
        made.settle()
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        print("interrupted; what was found so far is kept", file=sys.stderr)
    finally:
        save()


def _in_a_child(root: Path) -> dict[str, Flow]:
    """Write the worlds in another process: this one must start no threads, for it is copied."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            write_worlds(root)
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if status:
        raise RuntimeError("the worlds could not be written")
    return make_flows(root)


@contextmanager
def _ray_folder(address: str) -> Iterator[None]:
    """Give Ray a folder of its own for its sessions, which it never removes."""
    if address == "none":
        yield
        return
    # A path of a socket may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="rk", dir="/tmp", ignore_cleanup_errors=True) as name:
        os.environ["RAY_TMPDIR"] = name
        try:
            yield
        finally:
            del os.environ["RAY_TMPDIR"]
