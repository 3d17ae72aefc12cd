"""Watch processes that feed inputs to readers: a death or a hang is a finding, with its input."""

from __future__ import annotations

import json
import mmap
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.child import RESULTS_NAME, STATE, STATE_NAME
from tests.fuzz.target import TARGETS, Target

_POLL_SECONDS = 0.05
_START_SECONDS = 600.0
_DEATH_SECONDS = 0.5


@dataclass
class Finding:
    """Name one kind of failure of a target.

    Attributes:
        target: Which.
        kind: An exception's name, ``memory``, ``hang`` or the signal that ended the process.
        details: Where and what.
        input: The first input that did it.
        count: How many inputs did.
    """

    target: str
    kind: str
    details: str
    input: str
    count: int = 1


@dataclass
class Report:
    """Sum up a campaign.

    Attributes:
        targets: By name: inputs, how they were answered, slowest call, largest memory.
        findings: One per kind and place.
    """

    targets: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Count a finding with those of its kind."""
        last = finding.details.strip().splitlines()
        for known in self.findings:
            place = known.details.strip().splitlines()
            if (known.target, known.kind) == (finding.target, finding.kind) and (
                place[-3:-1] == last[-3:-1]
            ):
                known.count += 1
                return
        self.findings.append(finding)

    def describe(self) -> str:
        """Put the report into a table and a list."""
        lines = [
            f"{'target':<22}{'inputs':>10}{'a second':>10}{'read':>9}{'refused':>9}"
            f"{'slowest s':>11}{'peak MB':>9}{'findings':>10}"
        ]
        for name, row in self.targets.items():
            found = sum(finding.count for finding in self.findings if finding.target == name)
            rate = row["inputs"] / max(row["seconds"], 1e-9)
            lines.append(
                f"{name:<22}{row['inputs']:>10,}{rate:>10,.0f}{row['read']:>9,}"
                f"{row['refused']:>9,}{row['slowest_seconds']:>11.2f}"
                f"{row['peak_megabytes']:>9.0f}{found:>10,}"
            )
        for finding in self.findings:
            lines.append(f"\n{finding.target}: {finding.kind}, {finding.count:,} times")
            lines.append(f"  input: {finding.input}")
            lines += [f"  {line}" for line in finding.details.splitlines()[-8:]]
        return "\n".join(lines)


def run_campaign(
    targets: Sequence[Target],
    seconds: float,
    out: Path,
    seed: int = 0,
    first: int = 0,
    package: str = TARGETS,
) -> Report:
    """Feed inputs to some readers, one target after another, in a process of their own.

    Args:
        targets: The readers.
        seconds: For each.
        out: Folder for the inputs that made something fail.
        seed: Of the inputs.
        first: Number of the first input of each.
        package: Where the readers' records are.
    """
    out.mkdir(parents=True, exist_ok=True)
    report = Report()
    left = {target.name: (seconds, first) for target in targets}
    by_name = {target.name: target for target in targets}
    while left:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
            _run_child(Path(name), by_name, left, [package, str(seed)], report, out)
    for row in report.targets.values():
        row["inputs"] = row["read"] + row["refused"] + row["findings"]
    return report


def _run_child(
    folder: Path,
    targets: dict[str, Target],
    left: dict[str, tuple[float, int]],
    settings: list[str],
    report: Report,
    out: Path,
) -> None:
    """Run one process until it is done, dies or hangs; take what it did off ``left``."""
    (folder / STATE_NAME).write_bytes(bytes(STATE.size))
    (folder / RESULTS_NAME).touch()
    order = list(left)
    requests = [f"{name}={seconds}@{first}" for name, (seconds, first) in left.items()]
    command = [sys.executable, "-m", "tests.fuzz.child", str(folder), *settings, *requests]
    began = time.monotonic()
    with (folder / "output").open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output)
        hung = _watch(child, folder, [targets[name] for name in order])
    with (folder / STATE_NAME).open("rb") as file:
        index, number, called = STATE.unpack(file.read(STATE.size))
    _collect(folder, left, report, out, time.monotonic() - began)
    if child.returncode == 0 and not hung:
        left.clear()
        return
    name = order[index]
    if called or hung:
        kind = "hang" if hung else _death(child.returncode)
        saved = _save(folder / targets[name].file_name, out, f"{name}.{kind}.{number}")
        tail = (folder / "output").read_text(errors="replace")[-2_000:]
        details = f"after {time.monotonic() - called:.1f} s" if hung else tail or kind
        report.add(Finding(name, kind, details, str(saved)))
        row = report.targets.setdefault(name, _empty_row())
        row["findings"] += 1
    else:
        text = (folder / "output").read_text(errors="replace")[-2_000:]
        raise RuntimeError(f"the process of the campaign ended by itself:\n{text}")
    for done in order[:index]:
        left.pop(done, None)
    seconds, _ = left[name]
    row = report.targets[name]
    # A reader that dies at once has its time used up all the same, in so many deaths.
    seconds -= max(row["seconds"] - row["counted"], _DEATH_SECONDS)
    row["counted"] = row["seconds"]
    if seconds > 0.5:
        left[name] = (seconds, number + 1)
    else:
        left.pop(name)


def _watch(child: subprocess.Popen[bytes], folder: Path, order: list[Target]) -> bool:
    """Wait for the end of a process; end it when one call takes too long, and say so."""
    started, begun = time.monotonic(), False
    current, waited_before = (0, 0, 0.0), 0.0
    with (
        (folder / STATE_NAME).open("rb") as file,
        mmap.mmap(file.fileno(), STATE.size, prot=mmap.PROT_READ) as state,
    ):
        while child.poll() is None:
            time.sleep(_POLL_SECONDS)
            index, number, called = STATE.unpack(state[:])
            waited = _waited_for_a_core(child.pid)
            if (index, number, called) != current:
                current, waited_before = (index, number, called), waited
            # What others kept it waiting is not the reader's.
            took = time.monotonic() - called - (waited - waited_before)
            if called and took > order[index].seconds:
                child.kill()
                child.wait()
                return True
            # Before each target there is a moment without a number: only the first is the start.
            begun = begun or bool(index or number or called)
            if not begun and time.monotonic() - started > _START_SECONDS:
                child.kill()
                child.wait()
                raise RuntimeError("the process of the campaign did not start")
    return False


def _waited_for_a_core(process_id: int) -> float:
    """Give the seconds in which a process could have run and others did."""
    try:
        _, nanoseconds, _ = Path(f"/proc/{process_id}/schedstat").read_text().split()
    except (OSError, ValueError):  # it has ended, or the kernel keeps no account
        return 0.0
    return int(nanoseconds) / 1e9


def _collect(
    folder: Path,
    left: dict[str, tuple[float, int]],
    report: Report,
    out: Path,
    wall: float,
) -> None:
    last: dict[str, dict[str, Any]] = {}
    for line in (folder / RESULTS_NAME).read_text().splitlines():
        result = json.loads(line)
        if "kind" in result:
            saved = Path(result["input"])
            name, kind = result["target"], result["kind"]
            known = len(report.findings)
            report.add(Finding(name, kind, result["details"], str(out / saved.name)))
            if len(report.findings) > known:
                _save(saved, out, saved.name)
        else:
            last[result["target"]] = result
    for name, result in last.items():
        row = report.targets.setdefault(name, _empty_row())
        for key in ("read", "refused", "findings"):
            row[key] += result[key]
        row["answers"] = max(row["answers"], result["answers"])
        row["peak_megabytes"] = max(row["peak_megabytes"], result["peak_megabytes"])
        if result["slowest_seconds"] > row["slowest_seconds"]:
            row["slowest_seconds"] = result["slowest_seconds"]
            if result["slowest_seconds"] > 1 and (folder / f"{name}.slowest").exists():
                _save(folder / f"{name}.slowest", out, f"{name}.slowest")
        row["seconds"] += left[name][0] if result["done"] else min(wall, left[name][0])


def _empty_row() -> dict[str, Any]:
    return {
        **dict.fromkeys(("read", "refused", "findings", "answers", "inputs"), 0),
        **dict.fromkeys(("seconds", "counted", "slowest_seconds", "peak_megabytes"), 0.0),
    }


def _save(path: Path, out: Path, name: str) -> Path:
    saved = out / name
    shutil.copyfile(path, saved)
    return saved


def _death(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit {code}"
