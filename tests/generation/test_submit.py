"""The quickstart, submitted to a running cluster as the README says."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rdm_batch.reports.saved import load_run
from tests.ray_kit import ROOT

pytestmark = pytest.mark.slow

START_LIMIT_S = 120
PROGRAM = Path(sys.executable).parent


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray head of its own, started by the command line; gives the address of its dashboard."""
    home = tmp_path_factory.mktemp("home")
    port, dashboard_port = _free_port(), _free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        command = [
            *(str(PROGRAM / "ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={name}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"),
            *("--include-dashboard=true", f"--object-store-memory={200 * 2**20}"),
            # The agent that runs jobs has a fixed port, which other clusters here may hold.
            f"--dashboard-agent-listen-port={_free_port()}",
            f"--ray-client-server-port={_free_port()}",
        ]
        environment = {
            **os.environ,
            "RDM_BATCH_OUTPUT_ROOT": str(home),
            "PATH": f"{PROGRAM}{os.pathsep}{os.environ['PATH']}",
        }
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                _wait_until_open(dashboard_port, process)
                yield f"http://127.0.0.1:{dashboard_port}"
            finally:
                process.terminate()
                process.wait(timeout=60)


def test_a_submitted_quickstart_leaves_its_result_below_the_output_root(
    dashboard: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    few = ["--set", "sampling.num_samples=32", "--set", "sampling.num_steps=2"]
    command = [
        *(str(PROGRAM / "ray"), "job", "submit", "--address", dashboard, "--working-dir", "."),
        *("--", "python", "-m", "rdm_batch.run", "jobs/quickstart.yaml", *few),
    ]
    done = _submit(command)
    assert done.returncode == 0, done.stdout + done.stderr
    out = next(tmp_path_factory.getbasetemp().glob("home*")) / "out" / "quickstart"
    assert str(out) in done.stdout
    report = load_run(str(out)).report
    assert report.sample_set.rows == 32
    assert len(report.provenance.ray_nodes) == 1
    shutil.rmtree(out)


def _submit(command: list[str]) -> subprocess.CompletedProcess[str]:
    # The dashboard answers some seconds before the agent that runs jobs is there.
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
        )
        waiting = done.returncode != 0 and "No available agent" in done.stdout + done.stderr
        if not waiting or time.monotonic() > deadline:
            return done
        time.sleep(2)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
        return port


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, "ray start ended"
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    pytest.fail(f"no dashboard within {START_LIMIT_S} s")
