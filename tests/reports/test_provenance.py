from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import rdm_batch
from rdm_batch.reports import provenance
from rdm_batch.reports.run_report import RayNode


def test_provenance_names_versions_machine_and_cluster() -> None:
    now = datetime.now(UTC)
    node = RayNode(name="node-0", num_cpus=2)
    found = provenance.collect_provenance(now, now, command="run it", ray_nodes=(node,))
    assert found.command == "run it"
    assert found.software["rdm_batch"] == rdm_batch.__version__
    assert found.software["torch"].count(".") >= 2
    assert found.machine.num_cores >= 1
    assert found.machine.memory_bytes > 2**28
    assert found.machine.cpu_model
    assert found.ray_nodes == (node,)


def test_commit_is_that_of_the_checkout_and_shows_local_changes() -> None:
    root = Path(rdm_batch.__file__).parent.parent
    head = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    expected = (
        {head.stdout.strip(), f"{head.stdout.strip()}-dirty"} if not head.returncode else {None}
    )
    assert provenance.git_commit() in expected


def test_command_line_of_a_module_can_be_pasted(tmp_path: Path) -> None:
    (tmp_path / "job_runner.py").write_text(
        "from rdm_batch.reports.provenance import command_line; print(command_line())"
    )
    root = Path(rdm_batch.__file__).parent.parent
    answer = subprocess.run(
        [sys.executable, "-m", "job_runner", "my job.yaml", "--set", "a=1"],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": f"{tmp_path}:{root}"},
    )
    assert answer.stdout == "python -m job_runner 'my job.yaml' --set a=1\n"


def test_process_age_counts_from_the_start_of_the_process() -> None:
    root = Path(rdm_batch.__file__).parent.parent
    script = (
        "import time; time.sleep(0.5); from rdm_batch.reports.provenance import process_age_s; "
        "print(process_age_s())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(root)},
    )
    assert 0.5 <= float(answer.stdout) < 60
