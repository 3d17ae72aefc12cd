"""Feed inputs to readers in a process that may die; the campaign watches and replaces it.

Run as ``python -m tests.fuzz.child FOLDER PACKAGE SEED TARGET=SECONDS@FIRST ...``. Before every
call the input lies in FOLDER, and its number and time in a file that the campaign maps as well.
"""

from __future__ import annotations

import json
import mmap
import re
import resource
import struct
import sys
import time
import traceback
import warnings
from contextlib import suppress
from pathlib import Path

from tests.fuzz.mutate import Mutator
from tests.fuzz.target import Target, all_targets

STATE = struct.Struct("<qqd")
"""Index of the target, number of the input, and when its call began; 0.0 between calls."""
STATE_NAME, RESULTS_NAME = "state", "results.jsonl"
_MIB = 1 << 20
_SETTLE_BYTES = 256 * _MIB


def main() -> None:
    """Run every target for its time."""
    folder, package, seed = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    warnings.simplefilter("ignore")
    targets = all_targets(package)
    with (
        (folder / STATE_NAME).open("r+b") as file,
        mmap.mmap(file.fileno(), STATE.size) as state,
        (folder / RESULTS_NAME).open("a") as results,
    ):
        for index, request in enumerate(sys.argv[4:]):
            name, _, rest = request.partition("=")
            seconds, _, first = rest.partition("@")
            _Run(targets[name], index, folder, seed, state, results).go(float(seconds), int(first))


class _Run:
    def __init__(self, target: Target, index: int, folder: Path, seed: int, state, results) -> None:
        self._target, self._index, self._state, self._results = target, index, state, results
        self._path = folder / target.file_name
        self._mutator = Mutator(target, seed)
        target.wrap(self._mutator.make(0))  # what it imports is not on the clock
        self._answers: set[str] = set()
        self._outcomes = {"read": 0, "refused": 0, "findings": 0}
        self._slowest, self._slowest_number, self._peak = 0.0, -1, 0

    def go(self, seconds: float, first: int) -> None:
        """Call the reader with one input after another until the time is over."""
        end = time.monotonic() + seconds
        number, reported = first, time.monotonic()
        while time.monotonic() < end:
            self._one(number)
            number += 1
            if time.monotonic() - reported > 1:
                self._report(number, done=False)
                reported = time.monotonic()
        self._report(number, done=True)

    def _one(self, number: int) -> None:
        data = self._mutator.make(number)
        try:
            self._path.write_bytes(self._target.wrap(data))
        except Exception:
            return  # what wraps an input may refuse it: it is part of the harness
        before = _resident()
        _reset_peak()
        _limit_memory(self._target.megabytes)
        began = time.monotonic()
        self._state[:] = STATE.pack(self._index, number, began)
        answer = "read"
        try:
            self._target.read(self._path)
            self._outcomes["read"] += 1
        except self._target.allowed as error:
            self._outcomes["refused"] += 1
            answer = re.sub(r"[\d,.]+", "0", str(error).replace(str(self._path), ""))[:160]
        except BaseException as error:
            self._finding(number, f"{type(error).__name__}", traceback.format_exc(limit=-6))
            answer = _place(error)
        took = time.monotonic() - began
        self._state[:] = STATE.pack(self._index, number, 0.0)
        peak = max(0, _peak() - before)
        if peak > self._target.megabytes * _MIB:
            self._finding(number, "memory", f"{peak / _MIB:,.0f} MiB")
        if took > self._slowest:
            self._slowest, self._slowest_number = took, number
            self._path.with_name(f"{self._target.name}.slowest").write_bytes(
                self._path.read_bytes()
            )
        self._peak = max(self._peak, peak)
        if answer not in self._answers and len(self._answers) < 5_000:
            self._answers.add(answer)
            self._mutator.keep(data)

    def _finding(self, number: int, kind: str, details: str) -> None:
        self._outcomes["findings"] += 1
        saved = self._path.with_name(f"{self._target.name}.{kind}.{number}")
        saved.write_bytes(self._path.read_bytes())
        self._write(
            {"target": self._target.name, "kind": kind, "number": number, "details": details,
             "input": str(saved)}
        )  # fmt: skip

    def _report(self, number: int, done: bool) -> None:
        self._write(
            {
                "target": self._target.name,
                "next": number,
                "done": done,
                **self._outcomes,
                "answers": len(self._answers),
                "slowest_seconds": round(self._slowest, 4),
                "peak_megabytes": round(self._peak / _MIB, 1),
            }
        )

    def _write(self, line: object) -> None:
        self._results.write(json.dumps(line) + "\n")
        self._results.flush()


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__} {frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def _resident() -> int:
    return _status("VmRSS:")


def _peak() -> int:
    return _status("VmHWM:")


def _reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _limit_memory(megabytes: int) -> None:
    """Let an allocation fail that would put the machine at risk; less is measured, not stopped."""
    room = _status("VmSize:") + 2 * megabytes * _MIB + _SETTLE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
