"""Measure the heads against the published procedure, in one process and without Ray.

    python -m benchmarks.heads.sampling --precisions float32 bfloat16 \\
        --presets rarm-imagenet-256 --json benchmarks/results/heads.json

Inputs: none; weights are random, for speed does not depend on them. Baseline of the ratios: the
published procedure in float32 (``published_procedure``), timed in the same run.

First the work of an image is counted and turned into the shortest time this machine could take:
the longer of the operations at the measured rate of products and reading the weights once an
evaluation at the measured rate of memory: on a CPU of reading 0.8 GB, more than caches hold, on a
GPU of copies. Then both procedures are timed, then every change
between them (see ``changes``). A solver step costs the same whichever it is, so a few are timed;
the published procedure's cost of a token grows with its position, so it is timed at five
positions and summed by the trapezoid rule, and the rule is tried on a network that is drawn from
in full. Heads that may need fewer steps than the procedure are billed those as well. ``--parts``
measures some of it, where time is short; ``--small`` shrinks the networks, to try the benchmark
itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, fields, replace
from typing import Any

import torch

from benchmarks.heads.changes import check_integration, measure_changes
from benchmarks.heads.code_procedures import measure_codes
from benchmarks.heads.counting import READ_BYTES, Machine, measure_machine
from benchmarks.heads.decoding import decoder_errors
from benchmarks.heads.procedures import Settings, measure
from benchmarks.heads.rows import change_rows, error_rows, open_rows, part_name, procedure_rows
from benchmarks.heads.shrunk import small
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Row
from rdm_batch.heads.arithmetic import Precision, torch_dtype
from rdm_batch.specs.families import Architecture, KnnDiscreteArchitecture, RarmArchitecture
from rdm_batch.specs.presets import PRESETS

_PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
_CHANGES = (
    "Each change on top of the one above it, which is its baseline: one evaluation for the batch "
    "(a step, or the token halfway), both guidance branches, float32."
)
_PARTS = ("speed", "changes", "decoder", "rule")
_PREDICTED = "Predicted ratios: by the work counted, at the rates measured before."
_MIDDLE = "A step in the middle of the process was timed, and stands for all."
_OWN_SETTINGS: dict[str, dict[str, Any]] = {
    # A query and ten neighbors, as published.
    "knn_continuous": {"k_nn": 11, "fewer_steps": (20,)},
    "knn_discrete": {"k_nn": 11, "timed_steps": 1, "fewer_steps": (50, 25, 10)},
}
_RULE = "Baseline: the trapezoid rule over five lengths. A ratio near 1 says that it holds."


def measure_preset(
    part: str,
    architecture: Architecture,
    settings: Settings,
    machines: dict[Precision, Machine],
    recorder: Recorder,
    parts: Collection[str] = _PARTS,
) -> None:
    """Measure and record what is asked for about one preset."""
    memory = "read" if settings.device == "cpu" else "copied"
    rates = {
        f"{precision} peak": f"{machine.flops_per_s / 1e9:.0f} GFLOP/s, "
        f"{machine.bytes_per_s / 1e9:.0f} GB/s {memory}"
        for precision, machine in machines.items()
    }
    settings = replace(settings, **_OWN_SETTINGS.get(architecture.kind, {}))
    described: dict[str, Any] = asdict(settings) | {"precisions": list(settings.precisions)}
    if fewer := list(described.pop("fewer_steps")):
        described["fewer_steps"] = fewer
    if settings.device == "cuda":
        described["gpu"] = torch.cuda.get_device_name()
    described |= {"threads": torch.get_num_threads()} | rates
    if "speed" in parts:
        if isinstance(architecture, KnnDiscreteArchitecture):
            measured, notes = measure_codes(architecture, settings), [_PREDICTED, _MIDDLE]
        else:
            measured, notes = measure(architecture, settings), [_PREDICTED]
        recorder.add(part, procedure_rows(part, measured, machines, settings), described, notes)
    if "changes" in parts:
        found = measure_changes(architecture, settings, machines["float32"])
        recorder.add(f"{part}: changes", change_rows(found), described, [_CHANGES])
    if "decoder" in parts:
        recorder.add(
            f"{part}: errors of the decoder",
            error_rows(decoder_errors(architecture, settings.device)),
            notes=["With random weights, against float32, relative to the largest output."],
        )
    if "rule" in parts and isinstance(architecture, RarmArchitecture):
        tried = check_integration(architecture, settings)
        row = Row(
            name="published, one block, every token of one sample",
            value=tried["complete_s"],
            unit="s",
            baseline=tried["estimated_s"],
        )
        recorder.add(f"{part}: the rule tried", [row], described, [_RULE])


def main(argv: list[str] | None = None) -> None:
    """Measure the presets asked for."""
    parser = parser_of(__doc__)
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--precisions", nargs="+", choices=_PRECISIONS, default=["float32"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--num-steps", type=int, default=100, help="steps an image is billed")
    parser.add_argument("--timed-steps", type=int, default=2, help="steps that are timed")
    parser.add_argument("--repeats", type=int, default=2, help="timings, of which the best counts")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS))
    parser.add_argument("--small", action="store_true", help="shrink the networks")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    recorder = Recorder(
        "heads.sampling",
        "The heads beside the published procedure",
        "One process, random weights, decoding included. Floor: the longer of the counted "
        "operations at the measured rate of products and reading the weights once an evaluation "
        "at the measured rate of memory: of reading 0.8 GB where a part says so, else of copies, "
        "which caches help. Of convolutions "
        "the plain ones' operations are counted; those that are filtered take half as many.",
        args.json,
        "the published procedure in float32, in the same run",
    )
    given = {field.name for field in fields(Settings)} & vars(args).keys()
    settings = Settings(**{name: getattr(args, name) for name in given})
    size = 8192 if args.device == "cuda" else 1024
    read = 2**22 if args.small else READ_BYTES
    machines = {
        one: measure_machine(args.device, torch_dtype(one), size, read_bytes=read)
        for one in _PRECISIONS
    }
    for preset in args.presets:
        architecture = small(PRESETS[preset]) if args.small else PRESETS[preset]
        part = part_name(preset, args.device, args.small, args.batch)
        measure_preset(part, architecture, settings, machines, recorder, args.parts)
    recorder.add("Asked for and not measured here", open_rows(recorder.parts))


if __name__ == "__main__":
    run(main)
