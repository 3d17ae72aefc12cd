from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rdm_batch.errors import ClusterError, SampleSetError
from rdm_batch.storage.drawn_shard import DrawnShard
from rdm_batch.storage.encoders import Encoders
from rdm_batch.storage.manifest import Measured, SampleSetHeader, epoch_s
from rdm_batch.storage.sample_set import SampleSet
from tests.storage.sets import image_of, make_header, write_set

HEADER = make_header()


def _drawn(shard: int, header: SampleSetHeader = HEADER) -> DrawnShard:
    """Give what ``make_rows`` encodes."""
    rows = header.rows_of(shard)
    indices = np.asarray(rows, dtype=np.int64)
    columns: dict[str, Any] = {
        "sample_indices": indices,
        "seed": header.seed,
        "query_ids": indices * 7,
        "neighbor_ids": np.stack([indices, indices + 1], axis=1),
        "neighbor_scores": np.full((len(rows), 2), 0.5, np.float32),
        "sampler": "ddim",
        "num_steps": 5,
        "eta": 0.0,
        "guidance_scale": 1.0,
    }
    measured = Measured(
        run="run", head="head-0", device="cuda", intervals={"model": (epoch_s() - 1, epoch_s())}
    )
    return DrawnShard(shard, np.stack([image_of(row) for row in rows]), columns, measured)


@pytest.fixture
def encoders(tmp_path: Path) -> Iterator[Encoders]:
    encoders = Encoders(str(tmp_path / "out"), HEADER, 2)
    yield encoders
    encoders.close()


def _pids(encoders: Encoders) -> list[int]:
    return [process._program.pid for process in encoders._all]


def _gone(pid: int) -> bool:
    for _ in range(500):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        # One that ended is there until its parent asks for its status; whoever inherits it does.
        if Path(f"/proc/{pid}/stat").read_text().split(") ")[1].startswith("Z"):
            return True
        time.sleep(0.02)
    return False


def test_other_processes_store_the_same_bytes(encoders: Encoders, tmp_path: Path) -> None:
    with ThreadPoolExecutor(3) as threads:
        entries = list(threads.map(encoders.commit, map(_drawn, range(3))))
    stored = SampleSet.open(str(tmp_path / "out"), allow_partial=True)
    assert stored.entries() == entries
    assert stored.finish() == write_set(str(tmp_path / "here"), HEADER).success()
    for entry in entries:
        assert entry.measured is not None
        begun, encoded, written = (
            entry.measured.intervals[name] for name in ("model", "encode", "write")
        )
        # Clocks of different processes agree about the time.
        assert begun[1] <= encoded[0] + 1e-2 <= encoded[1] + 2e-2
        assert encoded[1] <= written[0] <= written[1]


def test_what_goes_wrong_with_a_shard_is_raised_as_if_it_were_stored_here(
    encoders: Encoders, tmp_path: Path
) -> None:
    wrong = _drawn(0, make_header(shard_size=9))
    here = SampleSet.create_or_resume(str(tmp_path / "out"), HEADER)
    messages = []
    for commit in (wrong.commit, encoders.commit):
        with pytest.raises(SampleSetError) as caught:
            commit(here if commit == wrong.commit else wrong)  # type: ignore[operator]
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    # Its process goes on.
    assert encoders.commit(_drawn(0)).shard == 0


def test_a_shard_whose_process_is_killed_goes_to_a_new_one(
    encoders: Encoders, tmp_path: Path
) -> None:
    before = _pids(encoders)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    for shard in range(3):
        encoders.commit(_drawn(shard))
    assert not set(before) & set(_pids(encoders))
    expected = write_set(str(tmp_path / "here"), HEADER).success()
    assert SampleSet.open(str(tmp_path / "out"), allow_partial=True).finish() == expected


def test_a_shard_that_kills_every_process_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    encoders = Encoders(str(tmp_path / "out"), HEADER, 1)
    with pytest.raises(ClusterError, match="shard 1: its encoder's process died 3 times, last"):
        encoders.commit(_drawn(1))
    encoders.close()


def test_processes_end_with_whoever_forgets_or_closes_them(tmp_path: Path) -> None:
    encoders = Encoders(str(tmp_path / "out"), HEADER, 2)
    pids = _pids(encoders)
    encoders.commit(_drawn(0))
    del encoders
    assert all(map(_gone, pids))
    closed = Encoders(str(tmp_path / "out"), HEADER, 1)
    closed.close()
    with pytest.raises(ClusterError, match="was closed before it was stored"):
        closed.commit(_drawn(1))
    assert all(map(_gone, _pids(closed)))


_KILLED = """
import sys, time
from rdm_batch.storage.encoders import Encoders
from tests.storage.test_encoders import HEADER, _drawn, _pids
encoders = Encoders(sys.argv[1], HEADER, 2)
encoders.commit(_drawn(0))
print(*_pids(encoders), flush=True)
time.sleep(60)
"""


def test_a_killed_head_leaves_no_process_behind(tmp_path: Path) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert killed.stdout is not None
    with killed.stdout:
        pids = [int(pid) for pid in killed.stdout.readline().split()]
    assert len(pids) == 2
    killed.kill()
    killed.wait()
    assert all(map(_gone, pids))
