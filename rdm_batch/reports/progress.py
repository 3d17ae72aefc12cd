"""One progress line per stage, with its rate and the time left.

On a terminal the lines are redrawn in place; elsewhere (a log file, a submitted job) a
plain line is printed when a stage starts, now and then, and when it ends. Of a step, which has
nothing to count, a log hears only when it takes longer than a moment.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rdm_batch.reports.units import format_duration, format_number, printable

# The rate is that of the last minutes, so that the time left follows a cluster that grows
# or shrinks; one mark a second bounds the memory.
_WINDOW_S = 300.0
_MARK_EVERY_S = 1.0

# Plain lines come quickly at first, when people watch, and rarely in long logs.
_FIRST_INTERVAL_S = 5.0
_LAST_INTERVAL_S = 60.0
_MOMENT_S = 5.0
_TICK_S = 0.5

_BAR_CELLS = 20


class Stage:
    """Follow one stage of a run. Made by ``Progress.stage``; safe to use from any thread."""

    def __init__(
        self,
        name: str,
        total: int | None,
        unit: str,
        done: int,
        clock: Callable[[], float],
        lock: threading.RLock,
        changed: Callable[[Stage], None],
        quiet_s: float | None = None,
    ) -> None:
        self.name = printable(name)
        self.total = total
        self.unit = unit
        self.done = done
        self._clock = clock
        self._lock = lock
        self._changed = changed
        self._step = quiet_s is not None
        self._named = quiet_s is None
        self._started_s = clock()
        self._ended_s: float | None = None
        self._stopped = False
        self._resumed = done
        self._marks: deque[tuple[float, int]] = deque([(self._started_s, done)])
        self._interval_s = _FIRST_INTERVAL_S
        self._next_line_s = self._started_s + (quiet_s or 0.0)

    def advance(self, count: int = 1) -> None:
        """Count ``count`` more units as done; 0 only gives the line a chance to be printed."""
        with self._lock:
            self.done += count
            now = self._clock()
            if now - self._marks[-1][0] >= _MARK_EVERY_S:
                self._marks.append((now, self.done))
            while len(self._marks) > 2 and now - self._marks[1][0] >= _WINDOW_S:
                self._marks.popleft()
            self._changed(self)

    def reach(self, done: int) -> None:
        """Count as many units as done as there are now; fewer than before change nothing."""
        with self._lock:
            if done > self.done:
                self.advance(done - self.done)

    def finish(self, stopped: bool = False) -> None:
        """End the stage, whether or not everything was done. A second call does nothing.

        Args:
            stopped: It ended early, which a stage without a total cannot tell by itself.
        """
        with self._lock:
            if self._ended_s is None:
                self._ended_s = self._clock()
                self._stopped = stopped
                self._changed(self)

    @property
    def finished(self) -> bool:
        """Tell whether the stage has ended."""
        return self._ended_s is not None

    def rate(self) -> float | None:
        """Compute units per second; None before the first unit of this run.

        Units that were done before the stage began never count. A finished stage gives its
        average, a running one the rate of the last five minutes.
        """
        with self._lock:
            if self._ended_s is not None:
                since_s, before, now = self._started_s, self._resumed, self._ended_s
            else:
                (since_s, before), now = self._marks[0], self._clock()
            new, elapsed_s = self.done - before, now - since_s
            return new / elapsed_s if new > 0 and elapsed_s > 0 else None

    def seconds_left(self) -> float | None:
        """Estimate the time to the end at the present rate; None when nothing is known yet."""
        with self._lock:
            rate = self.rate()
            if self.total is None or rate is None:
                return None
            return max(0, self.total - self.done) / rate

    def describe(self) -> str:
        """Describe count, rate and time, such as ``128/256 samples  12.3/s  0:10 left``."""
        with self._lock:
            if self._step:
                return self._time_text()
            of_total = f"/{self.total:,}" if self.total is not None else ""
            parts = [f"{self.done:,}{of_total} {self.unit}"]
            rate = self.rate()
            if rate is not None:
                parts.append(f"{format_number(rate)}/s")
            parts.append(self._time_text())
            return "  ".join(parts)

    def _time_text(self) -> str:
        if self._ended_s is not None:
            took = format_duration(self._ended_s - self._started_s)
            complete = not self._stopped if self.total is None else self.done >= self.total
            return f"done in {took}" if complete else f"stopped after {took}"
        left_s = self.seconds_left()
        if left_s is not None:
            return f"{format_duration(float(math.ceil(left_s)))} left"
        return f"{format_duration(self._clock() - self._started_s)} so far"

    def line_is_due(self) -> bool:
        """Tell whether a log should get a line now, and if so plan the next one."""
        now = self._clock()
        if self._ended_s is None and now < self._next_line_s:
            return False
        if self._ended_s is not None and not self._named:
            return False
        self._named = True
        self._next_line_s = now + self._interval_s
        self._interval_s = min(_LAST_INTERVAL_S, self._interval_s * 2)
        return True


class Progress:
    """Show the stages of a run while they last.

    Use it as a context manager::

        with Progress() as progress:
            with progress.step("start Ray"):
                ...
            stage = progress.stage("generate", total=256, unit="samples")
            stage.advance(32)

    Leaving the block finishes every stage, also after an exception.

    Args:
        console: Where to draw. None means standard error.
        clock: A monotonic clock in seconds.
    """

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console or Console(stderr=True)
        self._clock = clock
        self._lock = threading.RLock()
        self._stages: list[Stage] = []
        self._left = threading.Event()
        self._live: Live | None = None
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(
                console=self._console,
                get_renderable=self._render,
                refresh_per_second=4,
                # What is printed meanwhile appears above the lines, unless it goes to a file.
                redirect_stdout=sys.stdout.isatty(),
            )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        else:
            threading.Thread(target=self._tick, name="progress", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._left.set()
        for stage in self._stages:
            stage.finish(stopped=kind is not None)
        if self._live is not None:
            self._live.stop()

    def stage(self, name: str, total: int | None = None, unit: str = "", done: int = 0) -> Stage:
        """Begin a stage.

        Args:
            name: What is being done, such as "generate".
            total: Units in the whole stage; None when unknown.
            unit: Plural name of the units, such as "samples".
            done: Units that were complete before (a resumed run). They count as done but
                not into the rate.
        """
        stage = Stage(name, total, unit, done, self._clock, self._lock, self._stage_changed)
        with self._lock:
            self._stages.append(stage)
            self._stage_changed(stage)
        return stage

    def begin(self, name: str, quiet_s: float = _MOMENT_S) -> Stage:
        """Begin a step: a stage with nothing to count, only its time.

        Args:
            name: What is being done, such as "start Ray".
            quiet_s: Time after which a log hears of it, if it lasts that long, seconds.
        """
        stage = Stage(name, None, "", 0, self._clock, self._lock, self._stage_changed, quiet_s)
        with self._lock:
            self._stages.append(stage)
        return stage

    @contextmanager
    def step(self, name: str, quiet_s: float = _MOMENT_S) -> Iterator[None]:
        """Name what a block does, with the time it takes; arguments as ``begin``."""
        stage = self.begin(name, quiet_s)
        try:
            yield
        except BaseException:
            stage.finish(stopped=True)
            raise
        stage.finish()

    def _tick(self) -> None:
        """Give every stage that lasts a chance of a line, while nobody counts anything."""
        while not self._left.wait(_TICK_S):
            with self._lock:
                for stage in self._stages:
                    if not stage.finished:
                        self._stage_changed(stage)

    def _stage_changed(self, stage: Stage) -> None:
        if self._live is None and stage.line_is_due():
            self._console.print(Text(f"{stage.name}  {stage.describe()}"), soft_wrap=True)

    def _render(self) -> Table:
        with self._lock:
            grid = Table.grid(padding=(0, 2))
            for _ in range(3):
                grid.add_column(no_wrap=True, overflow="ellipsis")
            for stage in self._stages:
                style = "green" if stage.finished else "bold"
                bar = _bar(stage, "=" if self._console.options.ascii_only else "━")
                grid.add_row(Text(stage.name, style), bar, Text(stage.describe()))
            return grid


def _bar(stage: Stage, cell: str) -> Text:
    if not stage.total:
        return Text("")
    full = min(_BAR_CELLS, _BAR_CELLS * stage.done // stage.total)
    return Text.assemble((cell * full, "green"), (cell * (_BAR_CELLS - full), "bright_black"))
