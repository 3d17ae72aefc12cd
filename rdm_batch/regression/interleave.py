"""Run a job with two checkouts of this program in turn, on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rdm_batch.errors import RegressionError
from rdm_batch.regression import searches
from rdm_batch.regression.searches import TimedSearches
from rdm_batch.regression.statistics.ratios import in_turn
from rdm_batch.regression.usage import measure_usage
from rdm_batch.reports.run_report import RunReport, load_report
from rdm_batch.reports.saved import REPORT_KEY

_FIND = "import rdm_batch; print(rdm_batch.__file__)"
_LAST_LINES = 5
_ROOT = Path(__file__).parents[2]
Measured = TypeVar("Measured")


@dataclass(frozen=True)
class TimedRun:
    """Hold one run of a job.

    Args:
        report: What it says itself.
        peak_memory_bytes: As ``Usage`` has it.
        cpu_s: As ``Usage`` has it.
    """

    report: RunReport
    peak_memory_bytes: int
    cpu_s: float


def check_checkout(checkout: Path) -> None:
    """Make sure that a folder holds a checkout that this Python runs, and not another one.

    Raises:
        RegressionError: It holds none, or it cannot be imported.
    """
    command = [sys.executable, "-P", "-c", _FIND]
    answer = subprocess.run(
        command, env=_environment(checkout), capture_output=True, text=True, check=False
    )
    found = answer.stdout.strip()
    if answer.returncode or not Path(found).is_relative_to(checkout.resolve()):
        reason = _last_lines(answer.stderr) if answer.returncode else f"Python finds {found}"
        raise RegressionError(
            str(checkout),
            f"is no checkout that can be run ({reason})",
            "a folder with rdm_batch/ that the installed packages fit",
            "make one: git worktree add FOLDER COMMIT",
        )


def run_in_turn(
    baseline: Path,
    candidate: Path,
    measure: Callable[[Path, Path], Measured],
    looks: Sequence[int],
    decided: Callable[[Sequence[Measured], Sequence[Measured]], bool],
    done: Callable[[], None] = lambda: None,
) -> tuple[list[Measured], list[Measured]]:
    """Measure something with both, A B B A ..., after once with each that is not counted.

    Both run on the packages of this Python. After the pairs that ``looks`` names it is asked
    whether they decide; then, or after the last look, there are no more.

    Args:
        baseline: Checkout A.
        candidate: Checkout B.
        measure: Measures with a checkout; may write into the folder it is given, which is new.
        looks: Numbers of pairs, by ``looks_of``.
        decided: Says whether what was measured with both decides.
        done: Called after every run.

    Returns:
        What was measured with the baseline and with the candidate, pair by pair.

    Raises:
        RegressionError: A checkout is none, or a run fails.
    """
    sides = {"A": baseline.resolve(), "B": candidate.resolve()}
    for checkout in sides.values():
        check_checkout(checkout)
    runs: dict[str, list[Measured]] = {"A": [], "B": []}
    with tempfile.TemporaryDirectory(prefix="rdm_batch-in-turn-") as work:
        for number, side in enumerate(["A", "B", *in_turn(looks[-1])]):
            output = Path(work) / f"{number}"
            found = measure(sides[side], output)
            shutil.rmtree(output, ignore_errors=True)
            if number >= len(sides):
                runs[side].append(found)
            done()
            pairs = len(runs["A"])
            if pairs == len(runs["B"]) and pairs in looks and decided(runs["A"], runs["B"]):
                break
    return runs["A"], runs["B"]


def run_timed(
    checkout: Path,
    job: Path,
    output: Path,
    overrides: Sequence[str] = (),
    address: str = "none",
    scored: bool = False,
) -> TimedRun:
    """Run a job with a checkout of this program in a process of its own.

    Args:
        checkout: Folder with the program.
        job: Job file.
        output: New folder for its samples.
        overrides: As ``--set`` of a job takes them.
        address: Where it works. With ``none`` the memory is all that it takes; with Ray it is that
            of the driver.
        scored: Whether the set is judged as the job says: scores are no speed.

    Raises:
        RegressionError: The run fails.
    """
    command = [sys.executable, "-P", "-m", "rdm_batch.run", str(job.resolve())]
    command += ["--address", address]
    unscored = () if scored else ("evaluation=null",)
    for override in (*overrides, *unscored, f"output.uri={output}"):
        command += ["--set", override]
    with tempfile.TemporaryFile("w+") as said:
        usage = measure_usage(command, _environment(checkout), said)
        if usage.status:
            said.seek(0)
            found = f"ended with status {usage.status} ({_last_lines(said.read())})"
            raise RegressionError(f"{job} with {checkout}", found, "a finished run")
    report = load_report(output / REPORT_KEY)
    return TimedRun(report, usage.peak_memory_bytes, usage.cpu_s)


def run_searches(
    checkout: Path, job: Path, output: Path, overrides: Sequence[str], count: int
) -> TimedSearches:
    """Time the searches of a job with a checkout of this program, in a process of its own.

    Args:
        checkout: Folder with the program.
        job: Job file.
        output: Folder that does not exist, and will not after it.
        overrides: As ``--set`` of a job takes them.
        count: Searches that are timed.

    Raises:
        RegressionError: They cannot be timed: the job searches nothing, or the checkout is from
            before searches were timed alone.
    """
    module = Path(searches.__file__).relative_to(_ROOT)
    if not (checkout / module).is_file():
        # Where the package is installed as well, Python would run that one's.
        found = f"has no {module}: it is from before searches were timed alone"
        raise RegressionError(str(checkout), found, "a later commit")
    command = [sys.executable, "-P", "-m", searches.__name__, str(job.resolve()), str(count)]
    for override in (*overrides, "evaluation=null", f"output.uri={output}"):
        command += ["--set", override]
    answer = subprocess.run(
        command, env=_environment(checkout), capture_output=True, text=True, check=False
    )
    try:
        answer.check_returncode()
        return TimedSearches.model_validate_json(answer.stdout)
    except (subprocess.CalledProcessError, ValueError):
        said = _last_lines(answer.stderr or answer.stdout)
        found = f"ended with status {answer.returncode} ({said})"
        raise RegressionError(f"searches of {job} with {checkout}", found, "their times") from None


def _environment(checkout: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(checkout.resolve())}


def _last_lines(text: str) -> str:
    return " | ".join(text.strip().splitlines()[-_LAST_LINES:])
