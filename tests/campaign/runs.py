"""One run of a command: watched while it lasts, disturbed at random moments."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.campaign.flows import Flow
from tests.campaign.processes import Family, Started, alive, kill

LIMIT_S = 400.0
_POLL_S = 0.01
_LEAST_WORK_S = 0.3
"""What changes its output for less than this is mostly complete before it can be killed."""
_LOOK_S, _LOOK_ON_RAY_S = 0.03, 0.15


@dataclass(frozen=True)
class Kill:
    """One process that was ended.

    Attributes:
        victim: What it was.
        after_s: Seconds since its run began.
        working: Whether the run had changed its output by then.
    """

    victim: str
    after_s: float
    working: bool


@dataclass
class Run:
    """What one run did.

    Attributes:
        status: Exit status, negative for a signal.
        seconds: How long it lasted.
        first_change_s: When it first changed its output. None: never.
        silence_s: Longest time without a line printed or a change of the output.
        kills: Who was killed.
        printed: What it printed.
        family: Its processes.
        ended: When it ended, on the monotonic clock.
    """

    status: int | None = None
    seconds: float = 0.0
    first_change_s: float | None = None
    silence_s: float = 0.0
    kills: list[Kill] = field(default_factory=list)
    printed: str = ""
    family: Family | None = None
    ended: float = 0.0


@dataclass(frozen=True)
class Plan:
    """When to kill whom in a run.

    Attributes:
        victims: Of whom one is drawn for each kill; empty disturbs nothing.
        working: Whether waiting begins when the output changes, or when the run begins.
        waits_s: Seconds to wait before each kill.
    """

    victims: tuple[str, ...] = ()
    working: bool = False
    waits_s: tuple[float, ...] = ()


def plan_run(
    rng: random.Random, victims: tuple[str, ...], undisturbed: Run, most_kills: int
) -> Plan:
    """Draw when to kill, over the whole of a run; more often while it works."""
    first = undisturbed.first_change_s or 0.0
    worked_s = undisturbed.seconds - first
    working = rng.random() < (0.75 if worked_s > _LEAST_WORK_S else 0.25)
    length = worked_s if working else 0.95 * undisturbed.seconds
    count = rng.randint(1, most_kills)
    waits = tuple(rng.uniform(0, max(length, 0.05)) / count for _ in range(count))
    return Plan(victims, working, waits)


def run_command(
    flow: Flow,
    arguments: list[str],
    out: Path,
    log: Path,
    folder: Path,
    copy: bool,
    plan: Plan,
    rng: random.Random,
    on_kill: Callable[[Kill], None],
    on_look: Callable[[], None],
) -> Run:
    """Run a command to its end, and carry out a plan meanwhile."""
    run, began = Run(), time.monotonic()
    before = _signs(out)
    log.touch()  # it may be killed before it has opened it
    started = Started(flow.module, arguments, log, folder, copy)
    run.family = family = Family(started.pid)
    try:
        _follow(run, started, out, plan, rng, before, began, on_kill, on_look, copy)
    except BaseException:
        for process in family.living():
            kill(process)
        raise
    run.printed = log.read_text(errors="replace")
    assert not alive(family.driver)
    return run


def _follow(
    run: Run,
    started: Started,
    out: Path,
    plan: Plan,
    rng: random.Random,
    before: tuple[int, int, int],
    began: float,
    on_kill: Callable[[Kill], None],
    on_look: Callable[[], None],
    copy: bool,
) -> None:
    """Watch a run to its end, and kill as planned."""
    family, log = run.family, started.log
    assert family is not None
    waits, due = list(plan.waits_s), None
    sign, last_sign, next_look = (before, 0), began, began
    while (status := started.status()) is None:
        now = time.monotonic()
        if now >= next_look:
            family.look()
            seen = (_signs(out), log.stat().st_size if log.exists() else 0)
            if seen != sign:
                run.silence_s = max(run.silence_s, now - last_sign)
                sign, last_sign = seen, now
            if seen[0] != before and run.first_change_s is None:
                run.first_change_s = now - began
            on_look()
            next_look = time.monotonic() + (_LOOK_S if copy else _LOOK_ON_RAY_S)
        if waits and due is None and (not plan.working or run.first_change_s is not None):
            due = now + waits[0]
        if due is not None and now >= due:
            name = rng.choice(plan.victims)
            victims = family.members(name)
            if victims and kill(rng.choice(victims)):
                done = Kill(name, now - began, run.first_change_s is not None)
                run.kills.append(done)
                on_kill(done)
                waits.pop(0)
                due = None
        if now - began > LIMIT_S:
            for process in family.living():
                kill(process)
        time.sleep(_POLL_S)
    run.ended = time.monotonic()
    run.silence_s = max(run.silence_s, run.ended - last_sign)
    run.status, run.seconds = status, run.ended - began


def _signs(out: Path) -> tuple[int, int, int]:
    """Sum up what is below a folder: it changes with everything that is written there."""
    count, size, latest = 0, 0, 0
    for parent, _, names in os.walk(out):
        for name in names:
            try:
                found = (Path(parent) / name).stat()
            except OSError:
                continue
            count, size = count + 1, size + found.st_size
            latest = max(latest, found.st_mtime_ns)
    return count, size, latest
