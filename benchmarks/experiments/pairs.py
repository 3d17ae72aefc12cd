"""Measure how many samples pairing saves a comparison, where a sampler or a precision is changed.

    python -m benchmarks.experiments.pairs --seeds 0 1 2 --work FOLDER \
        --json benchmarks/results/nights.json

Sets of the embedded world's RDM: the base is 20 steps of DDIM in float32, and each other set
changes one thing. Sets of one seed share their noise, so a difference of scores has a paired error,
from what every sample does to either score; without pairs the errors of both sets add in
quadrature. What a test needs goes with the variance: with pairs, so many times fewer samples. The
needed numbers are for passing the equivalence test with 90 % power when nothing differs, at a
margin of 2 % of the score.
Sets in FOLDER are taken as they are, so that seeds can be added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.experiments.repeats import recorder_of
from benchmarks.recorder import parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.regression.statistics.power import samples_to_pass
from rdm_batch.reports.progress import Progress
from rdm_batch.reports.sweep_report import SweepReport
from rdm_batch.sweeps.sweep import run_sweep

SCORES = ("fid", "kid", "precision", "recall")
MARGIN = 0.02
NEEDED = 5.0
"""Times fewer samples, asked of FID for changes of sampler and of precision."""
ASKED = ("dpm_solver_pp", "plms", "bfloat16")
BASE = "ddim"
BASE_FIELDS: dict[str, Any] = {
    "sampling.sampler": "ddim",
    "sampling.num_steps": 20,
    "model.precision": "float32",
}
CHANGES: dict[str, dict[str, Any]] = {
    "dpm_solver_pp": {"sampling.sampler": "dpm_solver_pp"},
    "plms": {"sampling.sampler": "plms"},
    "19 steps": {"sampling.num_steps": 19},
    "bfloat16": {"model.precision": "bfloat16"},
}


def document(samples: int, seed: int, out: Path) -> dict[str, Any]:
    """Describe the sweep of one seed."""
    cells = [
        {"name": name.replace(" ", "-"), **BASE_FIELDS, **changed}
        for name, changed in {BASE: {}, **CHANGES}.items()
    ]
    return {
        "name": f"pairs-{seed}",
        "model": {"head": "rdm", "checkpoint": "package://shapes/rdm.safetensors"},
        "database": {"uri": "package://shapes/database"},
        "conditioning": {"mode": "unconditional", "k_nn": 4, "top_m": 0.5},
        "sampling": {
            "sampler": "ddim",
            "num_steps": 20,
            "guidance_scale": 2.0,
            "num_samples": samples,
            "batch_size": 32,
            "seed": seed,
        },
        "sweep": {"list": cells, "score": "fid"},
        "output": {"uri": str(out), "shard_size": 32},
        "evaluation": {
            "reference": "package://shapes/reference.npz",
            "scores": list(SCORES),
            "extractor": {"name": "shapes-clip"},
        },
    }


def compare(samples: int, seed: int, work: Path) -> SweepReport:
    """Make the sets of one seed and compare them."""
    job = work / f"pairs-{seed}.yaml"
    job.write_text(yaml.safe_dump(document(samples, seed, work / f"seed-{seed}")))
    with Progress() as progress:
        return run_sweep(job, (), "none", progress)[0]


def rows_of(reports: Sequence[SweepReport], change: str) -> list[Row]:
    """Give what pairing saves each score for one change, over the seeds."""
    rows = []
    for wanted in SCORES:
        gains, pairs, alone, found, errors = [], [], [], [], []
        for report in reports:
            cells = {cell.name: cell for cell in report.cells}
            cell, base = cells[change.replace(" ", "-")], cells[report.base]
            difference = cell.differences[wanted]
            first, second = base.score(wanted), cell.score(wanted)
            assert first is not None
            assert second is not None
            if difference.gain is None or difference.error is None or not difference.paired:
                continue
            margin = MARGIN * abs(first.value)
            root = math.sqrt(cell.judged)
            gains.append(difference.gain)
            pairs.append(samples_to_pass(difference.error * root, margin))
            unpaired = math.hypot(first.uncertainty or 0.0, second.uncertainty or 0.0)
            alone.append(samples_to_pass(unpaired * root, margin))
            found.append(difference.value)
            errors.append(difference.error)
        if not gains:
            continue
        mean = math.exp(sum(map(math.log, gains)) / len(gains))
        asked = NEEDED if wanted == "fid" and change in ASKED else None
        details: Details = {
            "least of the seeds": min(gains),
            "most": max(gains),
            "seeds": len(gains),
            "samples with pairs": _middle(pairs),
            "samples without": _middle(alone),
            "mean difference": sum(found) / len(found),
            "its predicted error": math.sqrt(np.mean(np.square(errors))),
        }
        if len(found) > 1:
            details["spread over the seeds"] = float(np.std(found, ddof=1))
        rows.append(
            Row(
                name=f"{change}, {wanted}",
                value=mean,
                unit="times fewer samples",
                higher_is_better=True,
                needed=asked,
                details=details,
            )
        )
    return rows


def _middle(counts: Sequence[int | None]) -> int | None:
    known = sorted(count for count in counts if count is not None)
    return known[len(known) // 2] if known else None


def main(argv: list[str] | None = None) -> None:
    """Compare the sets of every seed."""
    parser = parser_of(__doc__)
    parser.add_argument("--samples", type=int, default=1_024)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--work", type=Path, required=True, metavar="FOLDER")
    args = parser.parse_args(argv)
    args.work.mkdir(parents=True, exist_ok=True)
    recorder = recorder_of(args.json)
    reports = [compare(args.samples, seed, args.work) for seed in args.seeds]
    rows = [row for change in CHANGES for row in rows_of(reports, change)]
    settings = {"samples": args.samples, "seeds": args.seeds, "margin": MARGIN}
    recorder.add("paired against unpaired", rows, settings)


if __name__ == "__main__":
    run(main)
