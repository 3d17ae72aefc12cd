"""What a sweep saves over its jobs one by one.

    python -m benchmarks.pipeline.sweeps --json benchmarks/results/sweeps.json

Inputs: the shipped head and database. The same cells, of few samples and steps, are made twice: by
one process for each, and as one sweep. The baseline is the jobs one by one. The floor of a cell is
its time in the model, as its own entries have it: what is above is start-up, looking up neighbors,
scoring and reports. Expected: start-up is paid once instead of once for each cell, and scores and
pages are made as often as before. Both write into temporary folders; the bytes of all cells are
compared.

``--figure FOLDER`` keeps the scores of a finished sweep instead, such as that of
``jobs/fig_guidance.yaml``: a row for each cell, with its difference to the base and the error of it
by pairs.
"""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from benchmarks.timing import once
from rdm_batch.errors import RdmBatchError
from rdm_batch.reports.sweep_report import load_sweep_report
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.sweeps.cells import load_sweep

ROOT = Path(__file__).parents[2]
SCALES = (1.0, 1.5, 2.0)
"""Guidance scales of the cells, the first of them the base's."""


def document(samples: int, out: Path) -> dict[str, Any]:
    """Describe the sweep: quickstart's job over a few guidance scales."""
    job: dict[str, Any] = yaml.safe_load((ROOT / "jobs" / "quickstart.yaml").read_text())
    job["sampling"] |= {"num_samples": samples, "num_steps": 4, "guidance_scale": SCALES[0]}
    job["output"]["uri"] = str(out)
    job["evaluation"]["scores"] = ["fid", "precision", "recall"]
    return job | {"sweep": {"lines": {"sampling.guidance_scale": list(SCALES)}}}


def _seconds(job: dict[str, Any], path: Path, address: str) -> float:
    path.write_text(yaml.safe_dump(job))
    command = [sys.executable, "-m", "rdm_batch.run", str(path), "--address", address]
    quiet = subprocess.DEVNULL
    return once(lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=quiet, stderr=quiet))[
        0
    ]


def measure(samples: int, address: str, work: Path) -> list[Row]:
    """Make the cells one by one and as a sweep, and compare time and bytes."""
    swept = document(samples, work / "sweep")
    cells = load_sweep(swept).cells
    singles = 0.0
    for cell in cells:
        single = copy.deepcopy(swept)
        del single["sweep"]
        single["sampling"]["guidance_scale"] = cell.job.sampling.guidance_scale
        single["output"]["uri"] = str(work / cell.name)
        singles += _seconds(single, work / "job.yaml", address)
    together = _seconds(swept, work / "sweep.yaml", address)
    model_s = 0.0
    for cell in cells:
        one, other = (SampleSet.open(uri) for uri in (str(work / cell.name), cell.job.output.uri))
        if one.require_complete().digest != other.require_complete().digest:
            raise RdmBatchError(cell.name, "has other bytes in the sweep", "equal bytes")
        for entry in other.entries():
            start, end = (0.0, 0.0) if entry.measured is None else entry.measured.intervals["model"]
            model_s += end - start
    return [
        Row(name=f"{len(cells)} jobs one by one", value=singles, unit="s", floor=model_s),
        Row(
            name="as one sweep",
            value=together,
            unit="s",
            baseline=singles,
            floor=model_s,
        ),
    ]


def figure_rows(folder: Path) -> list[Row]:
    """Give the scores of a finished sweep, cell by cell."""
    path = folder / "sweep.json"
    report = load_sweep_report(path.read_bytes(), str(path))
    if not report.finished:
        raise RdmBatchError(str(path), "is not finished", "a finished sweep", "run it again")
    rows = []
    for cell in report.cells:
        details: Details = {}
        for score in cell.scores:
            details[score.id] = score.value
            change = cell.differences.get(score.id)
            if change is not None:
                details[f"{score.id} - base"] = change.value
                details[f"{score.id}: error"] = change.error
        rows.append(Row(name=cell.name, details=details))
    return rows


def main(argv: list[str] | None = None) -> None:
    """Measure where asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--samples", type=int, default=32, help="of each cell")
    parser.add_argument(
        "--address", nargs="+", choices=("none", "local"), default=("none", "local")
    )
    parser.add_argument("--figure", type=Path, metavar="FOLDER", help="output of a finished sweep")
    args = parser.parse_args(argv)
    recorder = Recorder(
        "pipeline.sweeps",
        "Sweeps",
        "The cells of a sweep, made one by one and together; equal bytes were checked.",
        args.json,
        baseline="jobs one by one",
    )
    if args.figure is not None:
        recorder.add(f"cells of {args.figure.name}", figure_rows(args.figure))
        return
    for address in args.address:
        with tempfile.TemporaryDirectory(prefix="rdm_batch-benchmark-") as name:
            rows = measure(args.samples, address, Path(name))
        recorder.add(f"--address {address}", rows, {"samples": args.samples, "num_steps": 4})


if __name__ == "__main__":
    run(main)
