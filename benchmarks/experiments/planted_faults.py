"""Plant faults in the program, and see which gate of a nightly suite tells them.

    python -m benchmarks.experiments.planted_faults --json benchmarks/results/planted_faults.json

Two jobs of the embedded world, an RDM and a RARM, are run once, accepted, and run again with one
fault at a time: what a careless change of the code might do, while the job files say the same as
before. Gate 0 has to catch every one, and to name the stage the fault lies in: the first that
differs. Gate 2 is asked as well, as if there were no gate 0; a fault that moves no score by more
than its delta is none of its business, and with few samples it is often undecided.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import yaml
from PIL import Image

from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from rdm_batch.datasets import fit
from rdm_batch.formats.safetensors_file import write_tensors
from rdm_batch.formats.weights_file import open_weights
from rdm_batch.heads import network_head, rarm
from rdm_batch.models import checkpoint
from rdm_batch.regression.accept import accept
from rdm_batch.regression.baseline import load_baseline
from rdm_batch.regression.history import History, new_run_id
from rdm_batch.regression.nightly import run_suite
from rdm_batch.regression.records import Run, Verdict
from rdm_batch.regression.suite import Suite, check_jobs, load_suite
from rdm_batch.reports.progress import Progress
from rdm_batch.retrieval import composite
from rdm_batch.retrieval.merge import Neighbors
from rdm_batch.sampling import samplers
from rdm_batch.storage.object_store import local_path

RDM, RARM = "rdm", "rarm"
WEIGHTS = "package://shapes/rdm.safetensors"
DELTAS = {"fid": 0.1, "precision": 0.05}
_TOKENS = 1000
"""One in so many is wrong."""


@dataclass(frozen=True)
class Fault:
    """A fault, as a replacement of something in the program.

    Args:
        name: What it is.
        job: The job that goes through it.
        stage: How the first stage that must differ begins.
        owner: What holds the name that is replaced.
        attribute: The name.
        replacement: Makes what stands there instead, from what stood there.
    """

    name: str
    job: str
    stage: str
    owner: Any
    attribute: str
    replacement: Callable[[Any], Any]


def _reordered(neighbors: Neighbors, order: np.ndarray) -> Neighbors:
    return Neighbors(
        np.take_along_axis(neighbors.ids, order, axis=1),
        np.take_along_axis(neighbors.scores, order, axis=1),
        np.take_along_axis(neighbors.embeddings, order[:, :, None], axis=1),
    )


def _dropping(merge: Any) -> Any:
    """Lose the second neighbor of the first query of every call.

    The first is the query itself, which is put back where a search has missed it.
    """

    def merged(parts: Sequence[Neighbors], k: int) -> Neighbors:
        found = merge(parts, k + 1)
        order = np.tile(np.arange(k), (len(found.ids), 1))
        order[0, 1:] += 1
        return _reordered(found, order)

    return merged


def _unsorted(merge: Any) -> Any:
    """Give the right rows in the order of their ids."""

    def merged(parts: Sequence[Neighbors], k: int) -> Neighbors:
        found = merge(parts, k)
        return _reordered(found, np.argsort(found.ids, axis=1))

    return merged


def _wrong_tokens(draw: Any) -> Any:
    """Take the next code instead, for about one token in ``_TOKENS``."""

    def drawn(probabilities: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = draw(probabilities, uniform)
        wrong = (uniform * 1e9).long() % _TOKENS == 0
        return torch.where(wrong, (tokens + 1) % probabilities.shape[1], tokens)

    return drawn


FAULTS = (
    Fault(
        "guidance 2 % off",
        RDM,
        "images",
        network_head,
        "guide",
        lambda guide: lambda branches, scale: guide(branches, 1.02 * scale),
    ),
    Fault("one neighbor dropped", RDM, "neighbors", composite, "merge_top_k", _dropping),
    Fault(
        "eta 0.01",
        RDM,
        "images",
        samplers,
        "DdimSolver",
        lambda solver: lambda schedule, steps, eta, rule: solver(schedule, steps, 0.01, rule),
    ),
    Fault(
        "EMA and raw weights swapped",
        RDM,
        "images",
        checkpoint,
        "names_in_file",
        lambda names: lambda file, architecture, weights: names(file, architecture, "raw"),
    ),
    Fault(
        "resize filter changed",
        RDM,
        "features",
        fit,
        "_FILTERS",
        lambda filters: filters | {"bicubic": Image.Resampling.BILINEAR},
    ),
    Fault("one wrong token in a thousand", RARM, "images", rarm, "draw", _wrong_tokens),
    Fault(
        "bf16 instead of fp32",
        RDM,
        "images",
        network_head,
        "torch_dtype",
        lambda _: lambda precision: torch.bfloat16,
    ),
    Fault("an unsorted merge", RDM, "neighbors", composite, "merge_top_k", _unsorted),
)


def write_suite(folder: Path, samples: int, steps: int) -> Suite:
    """Write a suite of both jobs below a folder, and weights with two copies for the RDM."""
    weights = folder / "both.safetensors"
    _write_both_copies(Path(local_path(WEIGHTS)), weights)
    shared: dict[str, Any] = {
        "database": {"uri": "package://shapes/database"},
        "conditioning": {"mode": "unconditional", "k_nn": 4, "top_m": 0.5},
        "evaluation": {
            "reference": "shapes:held_out:512",
            "scores": list(DELTAS),
            "extractor": {"name": "shapes-clip"},
            # Pictures of the world need none: here they get one, so that there is a filter.
            "resize": {"size": 24, "filter": "bicubic"},
        },
        "output": {"uri": str(folder / "unused"), "shard_size": 32},
    }
    counts = {"num_samples": samples, "batch_size": 32, "seed": 0, "guidance_scale": 2.0}
    jobs: dict[str, dict[str, Any]] = {
        RDM: {
            "model": {"head": "rdm", "checkpoint": str(weights)},
            "sampling": {"sampler": "ddim", "num_steps": steps, "eta": 0.0, **counts},
        },
        RARM: {
            "model": {"head": "rarm", "checkpoint": "package://shapes/rarm.safetensors"},
            "sampling": {"sampler": "autoregressive", **counts},
        },
    }
    for name, job in jobs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({"name": name} | shared | job))
        suite = {
            "kind": "suite",
            "name": "faults",
            "baseline": "baseline.yaml",
            "output": str(folder / "out"),
            "jobs": [
                {
                    "name": name,
                    "job": f"{name}.yaml",
                    "canary": samples,
                    "gates": {"paired": {"primary": "fid", "delta": DELTAS}},
                }
                for name in jobs
            ],
        }
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump(suite))
    return load_suite(path)


def make_run(suite: Suite, history: History, jobs: Sequence[str], progress: Progress) -> Run:
    """Run some jobs of the suite as a night of their own."""
    chosen = tuple(job for job in suite.jobs if job.name in jobs)
    part = Suite(suite.path, suite.spec, chosen)
    baseline = load_baseline(suite.baseline, suite.spec.name)

    run_id = new_run_id(datetime.now(UTC))
    checked = check_jobs(part, run_id)
    return run_suite(part, checked, run_id, history, baseline, "none", progress)


def plant(
    folder: Path, faults: Sequence[Fault], samples: int, steps: int, progress: Progress
) -> dict[str, tuple[Verdict, ...]]:
    """Accept a sound night, then run one night for each fault.

    Args:
        folder: Where everything goes.
        faults: What to plant.
        samples: Of each job; all are in the canary.
        steps: Of the solver.
        progress: Shows the stages.

    Returns:
        The verdicts of every fault, by its name; of the sound program under ``""``.
    """
    suite, history = write_suite(folder, samples, steps), History(str(folder / "history"))
    jobs = sorted({fault.job for fault in faults})
    make_run(suite, history, jobs, progress)
    accept(suite, history, "latest", "before any fault", jobs)
    found = {"": make_run(suite, history, jobs, progress).verdicts}
    for fault in faults:
        with ExitStack() as stack:
            before = getattr(fault.owner, fault.attribute)
            planted = mock.patch.object(fault.owner, fault.attribute, fault.replacement(before))
            stack.enter_context(planted)
            found[fault.name] = make_run(suite, history, [fault.job], progress).verdicts
    return found


def identity_of(verdicts: Sequence[Verdict]) -> Verdict:
    """Give what gate 0 said."""
    return next(verdict for verdict in verdicts if verdict.gate == "identity")


def names_stage(fault: Fault, verdicts: Sequence[Verdict]) -> bool:
    """Tell whether gate 0 caught a fault in the stage it lies in."""
    said = identity_of(verdicts)
    return said.outcome == "fail" and said.reason.startswith(fault.stage)


def _row(fault: Fault, verdicts: Sequence[Verdict]) -> Row:
    paired = {v.figure: v for v in verdicts if v.gate == "paired"}
    return Row(
        name=fault.name,
        details={
            "caught by gate 0": names_stage(fault, verdicts),
            "gate 0 said": identity_of(verdicts).reason,
            **{
                f"gate 2, {name}": f"{said.outcome} ({said.details.get('difference', 0):+.3f} ± "
                f"{said.details.get('error', 0):.3f})"
                for name, said in paired.items()
            },
        },
    )


def _asked(name: str, value: float, needed: float) -> Row:
    return Row(name=name, value=value, needed=needed, higher_is_better=True)


def _write_both_copies(source: Path, target: Path) -> None:
    """Write weights as published files have them: an average, and the last step beside it."""
    file = open_weights(source)
    tensors = {name: file.read(name) for name in file.entries}
    generator = torch.Generator().manual_seed(0)
    averages = {}
    for name, tensor in list(tensors.items()):
        if name.startswith("model."):
            averages["model_ema." + name.removeprefix("model.").replace(".", "")] = tensor
            noise = torch.randn(tensor.shape, generator=generator)
            tensors[name] = tensor + 0.002 * tensor.float().std(correction=0) * noise
    write_tensors(target, dict(file.metadata), tensors | averages)


def recorder_of(path: Path | None) -> Recorder:
    """Open the record that this module and ``tier2`` write parts of."""
    return Recorder(
        "benchmarks.experiments.planted_faults",
        "Planted faults",
        "Faults planted in the program, one at a time, and what the gates of a nightly suite say. "
        f"Asked for, before anything was run: gate 0 catches all {len(FAULTS)}, each in the stage "
        "it lies in, and passes the program without a fault; gate 2 without it does not pass what "
        "moves a score by its delta in 99 of 100 nights.",
        path,
    )


def main() -> None:
    """Plant every fault and record what was said."""
    parser = parser_of(__doc__)
    parser.add_argument("--samples", type=int, default=128, help="of each job (default: 128)")
    parser.add_argument("--steps", type=int, default=20, help="of the solver (default: 20)")
    parser.add_argument("--only", nargs="+", metavar="FAULT", help="some of the faults")
    args = parser.parse_args()
    faults = [fault for fault in FAULTS if args.only is None or fault.name in args.only]
    recorder = recorder_of(args.json)
    with tempfile.TemporaryDirectory() as folder, Progress() as progress:
        found = plant(Path(folder), faults, args.samples, args.steps, progress)
    sound = all(verdict.outcome == "pass" for verdict in found[""])
    caught = sum(names_stage(fault, found[fault.name]) for fault in faults)
    recorder.add(
        "faults",
        [
            _asked("without a fault every gate passes", float(sound), 1.0),
            _asked("faults caught by gate 0, by name", float(caught), float(len(faults))),
            *(_row(fault, found[fault.name]) for fault in faults),
        ],
        {"samples": args.samples, "steps": args.steps},
    )


if __name__ == "__main__":
    run(main)
