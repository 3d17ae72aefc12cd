from __future__ import annotations

import io
import threading
import time

import pytest
from rich.console import Console

from rdm_batch.reports.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def log_console() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=80), stream


def test_line_gives_count_rate_and_time_left() -> None:
    clock, (console, _) = Clock(), log_console()
    with Progress(console, clock) as progress:
        stage = progress.stage("generate", total=256, unit="samples")
        clock.now_s += 10
        stage.advance(128)
        assert stage.describe() == "128/256 samples  12.8/s  0:10 left"


def test_samples_done_before_a_resume_do_not_count_into_the_rate() -> None:
    clock, (console, _) = Clock(), log_console()
    with Progress(console, clock) as progress:
        stage = progress.stage("generate", total=1000, unit="samples", done=900)
        assert stage.rate() is None
        assert stage.seconds_left() is None
        clock.now_s += 10
        stage.advance(20)
        assert stage.rate() == pytest.approx(2)
        assert stage.seconds_left() == pytest.approx(40)
        assert stage.describe() == "920/1,000 samples  2.00/s  0:40 left"


def test_rate_follows_the_last_minutes_of_a_long_run() -> None:
    clock, (console, _) = Clock(), log_console()
    with Progress(console, clock) as progress:
        stage = progress.stage("generate", total=100_000, unit="samples")
        for _ in range(1000):
            clock.now_s += 1
            stage.advance(10)
        for _ in range(400):
            clock.now_s += 1
            stage.advance(1)
        assert stage.rate() == pytest.approx(1, rel=0.05)
        assert stage.seconds_left() == pytest.approx(100_000 - 10_400, rel=0.05)


def test_a_stall_lowers_the_rate() -> None:
    clock, (console, _) = Clock(), log_console()
    with Progress(console, clock) as progress:
        stage = progress.stage("generate", total=100, unit="samples")
        clock.now_s += 10
        stage.advance(50)
        clock.now_s += 40
        assert stage.rate() == pytest.approx(1)


def test_a_finished_stage_tells_its_average_and_duration() -> None:
    clock, (console, stream) = Clock(), log_console()
    with Progress(console, clock) as progress:
        stage = progress.stage("generate", total=100, unit="samples", done=50)
        clock.now_s += 25
        stage.advance(50)
        stage.finish()
        clock.now_s += 100
    last = stream.getvalue().splitlines()[-1]
    assert last == "generate  100/100 samples  2.00/s  done in 0:25"


def test_a_stage_without_total_counts_up() -> None:
    clock, (console, _) = Clock(), log_console()
    with Progress(console, clock) as progress:
        stage = progress.stage("preflight", unit="checks")
        clock.now_s += 3
        stage.advance(6)
        assert stage.describe() == "6 checks  2.00/s  0:03 so far"


def test_an_exception_leaves_the_stage_marked_as_stopped() -> None:
    clock, (console, stream) = Clock(), log_console()

    def run() -> None:
        with Progress(console, clock) as progress:
            progress.stage("generate", total=10, unit="samples").advance(4)
            clock.now_s += 2
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        run()
    assert stream.getvalue().splitlines()[-1].endswith("stopped after 0:02")


def test_logs_get_few_whole_lines_without_control_characters() -> None:
    clock, (console, stream) = Clock(), log_console()
    with Progress(console, clock) as progress:
        stage = progress.stage("generate\x1b[2J", total=36_000, unit="samples")
        for _ in range(3600):
            clock.now_s += 1
            stage.advance(10)
    text = stream.getvalue()
    assert not set(text) & {"\r", "\x1b"}
    lines = text.splitlines()
    # One at the start, 5, 15, 35 and 75 s, then one a minute, one at the end.
    assert len(lines) == 5 + (3600 - 75) // 60 + 1
    assert lines[0].endswith("0/36,000 samples  0:00 so far")
    assert lines[-1].endswith("36,000/36,000 samples  10.0/s  done in 1:00:00")


def test_a_terminal_is_redrawn_in_place() -> None:
    stream = io.StringIO()
    clock = Clock()
    console = Console(file=stream, force_terminal=True, width=80, legacy_windows=False)
    with Progress(console, clock) as progress:
        stage = progress.stage("generate", total=10, unit="samples")
        for _ in range(10):
            clock.now_s += 1
            stage.advance(1)
    text = stream.getvalue()
    assert "10/10 samples" in text
    assert "done in 0:10" in text
    # The final drawing, and at most the refreshes between: not one line per call.
    assert text.count("\n") <= 3


def test_no_count_is_lost_between_threads() -> None:
    console, _ = log_console()
    with Progress(console) as progress:
        stage = progress.stage("generate", total=8000, unit="samples")

        def work() -> None:
            for _ in range(1000):
                stage.advance()

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert stage.done == 8000


class TestSteps:
    def test_a_step_that_takes_a_moment_leaves_no_line_in_a_log(self) -> None:
        clock, (console, stream) = Clock(), log_console()
        with Progress(console, clock) as progress, progress.step("check the job"):
            clock.now_s += 1
        assert stream.getvalue() == ""

    def test_a_longer_one_is_named_while_it_lasts_and_when_it_ends(self) -> None:
        clock, (console, stream) = Clock(), log_console()
        with Progress(console, clock) as progress:
            with progress.step("start Ray"):
                clock.now_s += 6
                wait_for(stream, "start Ray  0:06 so far\n")
                clock.now_s += 4
            assert stream.getvalue().splitlines()[-1] == "start Ray  done in 0:10"

    def test_a_step_that_fails_is_not_done(self) -> None:
        clock, (console, stream) = Clock(), log_console()

        def fail() -> None:
            with Progress(console, clock) as progress, progress.step("start Ray"):
                clock.now_s += 6
                wait_for(stream, "so far\n")
                raise RuntimeError("lost")

        with pytest.raises(RuntimeError, match="lost"):
            fail()
        assert stream.getvalue().splitlines()[-1] == "start Ray  stopped after 0:06"

    def test_a_terminal_shows_it_at_once(self) -> None:
        stream = io.StringIO()
        console = Console(file=stream, force_terminal=True, width=80, legacy_windows=False)
        with Progress(console, Clock()) as progress, progress.step("start Ray"):
            wait_for(stream, "start Ray")


def test_a_log_is_not_silent_while_nobody_counts() -> None:
    clock, (console, stream) = Clock(), log_console()
    with Progress(console, clock) as progress:
        progress.stage("generate", total=10, unit="samples")
        clock.now_s += 6
        wait_for(stream, "generate  0/10 samples  0:06 so far\n")


def test_a_count_may_be_told_as_a_whole() -> None:
    clock, (console, _) = Clock(), log_console()
    with Progress(console, clock) as progress:
        stage = progress.stage("generate", total=10, unit="samples", done=2)
        clock.now_s += 1
        stage.reach(5)
        stage.reach(4)
        assert stage.done == 5
        assert stage.rate() == pytest.approx(3)


def wait_for(stream: io.StringIO, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in stream.getvalue():
        assert time.monotonic() < deadline, stream.getvalue()
        time.sleep(0.02)
