"""Measure building a database: equal twice, peak memory beside the estimate, killed and resumed.

    python -m benchmarks.retrieval.builds --json FILE

Inputs: none; rows are made (``rows.py``) and given to ``rdm-batch database build --embeddings``, in
processes of their own. It is built twice without disturbance, and all files are compared byte by
byte (times excepted: they stand in the manifest, and in no digest). Then it is killed with SIGKILL
at moments spread evenly over the time of a build, each time run again until it is complete, and
compared with the first. The stage it was killed in is the last one it had said.

Needed: all files alike, and a peak below what ``--memory`` is held against. Predicted before
the first run: all alike, a peak of 80 % of the estimate, which rounds up.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from benchmarks.retrieval.rows import Rows
from rdm_batch.databases.room import build_bytes
from rdm_batch.errors import RdmBatchError
from rdm_batch.files import file_sha256
from rdm_batch.regression.memory import peak_resident
from rdm_batch.retrieval.database import MANIFEST_NAME

_POLL_S = 0.01
_OF_SCANN = re.compile(r"[IWEF]\d{4} ")


@dataclass(frozen=True)
class Ended:
    """How a run of the command ended.

    Attributes:
        seconds: How long it ran.
        peak_bytes: Most memory it held.
        stage: The last stage it had said.
        killed: Whether it was killed.
    """

    seconds: float
    peak_bytes: int
    stage: str
    killed: bool


def build(rows: Path, out: Path, shards: int, kill_after: float | None = None) -> Ended:
    """Run the command, and kill it after some seconds if it has not ended."""
    command = [sys.executable, "-m", "rdm_batch.cli", "database", "build"]
    command += ["--embeddings", str(rows), "--encoder", "made", "--shards", str(shards)]
    command += ["--index", "tree_soar", "--out", str(out)]
    begin, peak, killed = time.perf_counter(), 0, False
    with (
        tempfile.TemporaryFile("w+") as said,
        subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT) as process,
    ):
        while process.poll() is None:
            peak = max(peak, int(peak_resident(process.pid) or 0))
            if kill_after is not None and time.perf_counter() - begin > kill_after:
                process.send_signal(signal.SIGKILL)
                killed = True
                process.wait()
            time.sleep(_POLL_S)
        said.seek(0)
        lines = said.read().splitlines()
    seconds = time.perf_counter() - begin
    if process.returncode and not killed:
        found = "\n".join(lines[-5:])
        raise RdmBatchError("database build", f"ended with {process.returncode}: {found}")
    return Ended(seconds, peak, _stage_of(lines, out), killed and process.returncode != 0)


def _stage_of(lines: list[str], out: Path) -> str:
    """Name the stage that was said last, and the shards that were done."""
    # ScaNN's own lines begin with a letter and a number, and name no stage.
    said = [line.split("  ")[0] for line in lines if "  " in line and not _OF_SCANN.match(line)]
    done = len(list((out / ".build").glob("shard-*.json")))
    return f"{said[-1]}, {done} shards done" if said else "start"


def content_of(folder: Path) -> dict[str, str]:
    """Give the digest of every file, and of the manifest what it says of its content."""
    found = {
        str(path.relative_to(folder)): file_sha256(path)
        for path in folder.rglob("*")
        if path.is_file()
    }
    found[MANIFEST_NAME] = json.loads((folder / MANIFEST_NAME).read_text())["digest"]
    return found


def num_equal(found: dict[str, str], expected: dict[str, str]) -> int:
    """Count files that are equal; one that is missing or too many is not."""
    return sum(found.get(name) == expected.get(name) for name in found.keys() | expected.keys())


def main(argv: list[str] | None = None) -> None:
    """Build, build again, kill and resume."""
    parser = parser_of(__doc__)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--kills", type=int, default=10, help="moments")
    args = parser.parse_args(argv)
    recorder = Recorder(
        "retrieval.builds",
        "Building a database, twice and killed",
        f"{args.rows:,} rows of width {args.dim} in {args.shards} partitioned shards, by "
        "`rdm-batch database build --embeddings`.",
        args.json,
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = folder / "rows.npy"
        np.save(rows, Rows("manifold", args.rows, args.dim).draw(args.rows, 1).astype(np.float16))
        whole = build(rows, folder / "whole", args.shards)
        again = build(rows, folder / "again", args.shards)
        expected = content_of(folder / "whole")
        estimate = build_bytes(args.shards, args.rows, args.dim, "float16", 1)
        found = [
            Row(
                name="files that two builds make alike",
                value=float(num_equal(content_of(folder / "again"), expected)),
                higher_is_better=True,
                needed=float(len(expected)),
                details={"build s": whole.seconds},
            ),
            Row(
                name="peak memory, of what --memory needs",
                value=max(whole.peak_bytes, again.peak_bytes) / 1e9,
                unit="GB",
                needed=estimate / 1e9,
            ),
        ]
        stages: Counter[str] = Counter()
        alike = []
        for number in range(args.kills):
            out = folder / f"killed-{number}"
            ended = build(rows, out, args.shards, whole.seconds * (number + 1) / (args.kills + 1))
            if ended.killed:
                stages[ended.stage] += 1
            build(rows, out, args.shards)
            alike.append(num_equal(content_of(out), expected))
        found.append(
            Row(
                name=f"files alike after {sum(stages.values())} kills, each resumed, at least",
                value=float(min(alike)),
                higher_is_better=True,
                needed=float(len(expected)),
                details={f"killed in: {stage}": count for stage, count in stages.items()},
            )
        )
    recorder.add(f"{args.rows:,} rows", found, {"dim": args.dim, "shards": args.shards})


if __name__ == "__main__":
    run(main)
