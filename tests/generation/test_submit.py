"""The README's own order in a fresh home: a run here, a cluster with a token, a submitted job."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rdm_batch.reports.saved import load_run
from tests.docs.documents import command_lines, read_document
from tests.ray_kit import ROOT

pytestmark = pytest.mark.slow

START_LIMIT_S = 120
PROGRAM = Path(sys.executable).parent
FEW = ("--set", "sampling.num_samples=32", "--set", "sampling.num_steps=2")
PLANTED = "0123456789abcdef" * 4

_JOIN = """
import sys
from rdm_batch.cluster.connect import connected
from rdm_batch.errors import ClusterError
try:
    with connected(sys.argv[1]) as cluster:
        print(f"joined {cluster.resources.num_nodes} node")
except ClusterError as error:
    sys.exit(f"error: {error}")
"""


@dataclass(frozen=True)
class Shell:
    """A shell of somebody who has never used Ray: what is set in it, and its home."""

    home: Path
    environment: dict[str, str]

    def run(self, command: str, limit_s: float = 280) -> subprocess.CompletedProcess[str]:
        """Run a line in this shell."""
        return subprocess.run(
            ["bash", "-c", command],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )


@dataclass(frozen=True)
class Head:
    """A running head: the settings of a shell that talks to it, and where it listens."""

    settings: str
    submit: str
    address: str
    dashboard: str
    folder: Path


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    home = tmp_path_factory.mktemp("home")
    environment = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
    environment |= {
        "HOME": str(home),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{PROGRAM}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    return Shell(home, environment)


@pytest.fixture(scope="module")
def head(shell: Shell) -> Iterator[Head]:
    """The commands under "On a cluster", the head with ports of its own."""
    # The README's first commands come before: whatever they leave behind, the rest must work.
    _run_here(shell)
    blocks = [block for _, block in read_document(ROOT / "README.md").blocks]
    block = next(block for block in blocks if "\nray start --head" in block)
    *settings, start, submit = (re.split(r"\s+#\s", line)[0] for line in command_lines(block))
    assert start == "ray start --head"
    before = "; ".join(settings)
    port, dashboard_port = _free_port(), _free_port()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        own = [
            *("--block", "--num-cpus=2", "--num-gpus=0", "--include-dashboard=true"),
            *("--node-ip-address=127.0.0.1", f"--port={port}", f"--temp-dir={name}"),
            *("--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"),
            f"--object-store-memory={200 * 2**20}",
            # The agent that runs jobs has a fixed port, which other clusters here may hold.
            f"--dashboard-agent-listen-port={_free_port()}",
            f"--ray-client-server-port={_free_port()}",
        ]
        with subprocess.Popen(
            ["bash", "-c", f"{before}; exec {start} {' '.join(own)}"],
            env=shell.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                _wait_until_open(dashboard_port, process)
                yield Head(
                    before,
                    submit,
                    f"127.0.0.1:{port}",
                    f"http://127.0.0.1:{dashboard_port}",
                    Path(name),
                )
            finally:
                process.terminate()
                process.wait(timeout=60)


def _run_here(shell: Shell) -> None:
    """Run the quickstart on a Ray of its own, with a token that can be looked for."""
    code = f"import secrets, sys; secrets.token_hex = lambda _: '{PLANTED}'; "
    code += "from rdm_batch.run import main; sys.exit(main(sys.argv[1:]))"
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as name:
        out = shell.home / "quickstart"
        job = f'{PROGRAM}/python -c "{code}" jobs/quickstart.yaml'
        done = shell.run(
            f"RAY_TMPDIR={name} {job} --address local --set output.uri={out} "
            f"--set evaluation=null {' '.join(FEW)}"
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert PLANTED not in done.stdout + done.stderr
        assert list(Path(name).glob("**/raylet.out"))
        for folder in (Path(name), shell.home):
            assert not list(_files_with(PLANTED, folder))
    assert not (shell.home / ".ray").exists()


def _files_with(text: str, folder: Path) -> Iterator[Path]:
    for file in folder.rglob("*"):
        if file.is_file() and not file.is_symlink() and text.encode() in file.read_bytes():
            yield file


def test_a_submitted_quickstart_leaves_its_result_below_the_home_folder(
    head: Head, shell: Shell
) -> None:
    submit = head.submit.replace("submit ", f"submit --address {head.dashboard} ")
    done = _submit(shell, f"{head.settings}; {submit} {' '.join(FEW)}")
    assert done.returncode == 0, done.stdout + done.stderr
    out = shell.home / "out" / "quickstart"
    assert str(out) in done.stdout
    report = load_run(str(out)).report
    assert report.sample_set.rows == 32
    assert len(report.provenance.ray_nodes) == 1
    shutil.rmtree(out)


def test_the_token_is_for_its_owner_alone_and_in_no_file_but_its_own(
    head: Head, shell: Shell
) -> None:
    token = shell.home / ".ray" / "auth_token"
    assert token.stat().st_mode & 0o077 == 0
    assert len(token.read_text()) >= 32
    for folder in (shell.home, head.folder):
        assert set(_files_with(token.read_text(), folder)) <= {token}


def test_a_shell_with_the_token_joins(head: Head, shell: Shell) -> None:
    done = shell.run(f"{head.settings}; python -c '{_JOIN}' {head.address}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "joined 1 node\n"


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("true", "asks for a token, and none was given"),
        (
            "export RAY_AUTH_MODE=token RAY_AUTH_TOKEN=planted-and-wrong",
            "asks for a token, and the token of this process is not its own",
        ),
    ],
)
def test_a_shell_without_it_is_told_so(head: Head, shell: Shell, setting: str, reason: str) -> None:
    done = shell.run(f"{setting}; python -c '{_JOIN}' {head.address}", limit_s=30)
    assert done.returncode == 1
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: Ray at {head.address}: {reason}")
    assert "export RAY_AUTH_MODE=token" in line
    assert "planted" not in line


def _submit(shell: Shell, command: str) -> subprocess.CompletedProcess[str]:
    # The dashboard answers some seconds before the agent that runs jobs is there.
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        done = shell.run(command)
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
