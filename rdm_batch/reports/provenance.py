"""What a run was made by: command, versions, commit, machine."""

from __future__ import annotations

import os
import platform
import re
import shlex
import subprocess
import sys
import time
from datetime import datetime
from importlib import metadata
from pathlib import Path

import rdm_batch
from rdm_batch.reports.gpus import visible_gpus
from rdm_batch.reports.run_report import Machine, Provenance, RayNode

# What moves numbers, or speeds.
_DISTRIBUTIONS = (
    "numpy",
    "open_clip_torch",
    "pyarrow",
    "pydantic",
    "ray",
    "s3fs",
    "scann",
    "torch",
    "torch-fidelity",
)


def collect_provenance(
    started: datetime,
    ended: datetime,
    command: str | None = None,
    ray_nodes: tuple[RayNode, ...] = (),
) -> Provenance:
    """Describe the process that calls, the machine it runs on and the software it uses.

    Args:
        started: When the run started, with a time zone.
        ended: When it ended, with a time zone.
        command: How to run it again; None means the command line of this process.
        ray_nodes: The nodes of the cluster.
    """
    return Provenance(
        command=command_line() if command is None else command,
        software=software_versions(),
        machine=describe_machine(),
        started=started,
        ended=ended,
        git_commit=git_commit(),
        ray_nodes=ray_nodes,
    )


def command_line() -> str:
    """Write the command of this process as a shell would take it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["python", "-m", module.name] if module is not None else [Path(sys.argv[0]).name]
    return shlex.join([*program, *sys.argv[1:]])


def software_versions() -> dict[str, str]:
    """Map Python, this package and the distributions that matter to their versions."""
    versions = {"python": platform.python_version(), "rdm_batch": rdm_batch.__version__}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> str | None:
    """Name the commit this package was run from, ``-dirty`` with local changes.

    None when the package is installed rather than checked out.
    """
    root = Path(rdm_batch.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        answer = subprocess.run(
            [*command, "--exclude=*"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def describe_machine() -> Machine:
    """Describe this machine; cores, memory and GPUs are those this process may use."""
    return Machine(
        cpu_model=_cpu_model(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_bytes=_memory_bytes(),
        gpus=visible_gpus(),
        platform=platform.platform(),
    )


def process_age_s() -> float:
    """Measure the seconds since this process was started, imports included."""
    # Field 22, counted after the name, which stands in parentheses and may hold anything.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else platform.machine()


def _memory_bytes() -> int:
    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return installed if text == "max" else min(installed, int(text))
