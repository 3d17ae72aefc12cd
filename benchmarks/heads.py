"""Measure the heads against the published procedure, in one process and without Ray.

    python -m benchmarks.heads --presets rarm-imagenet-256 --json benchmarks/results/heads.json

Weights are random: speed does not depend on them. First the work of an image is counted and
turned into the shortest time this machine could take, then both procedures are timed in the
same run, then every change between them (see ``heads_changes``). A solver step costs the same
whichever it is, so a few are timed; the published procedure's cost of a token grows with its
position, so it is timed at five positions and summed by the trapezoid rule, and the rule is
tried on a network that is drawn from in full. `--small` shrinks the networks, to try the
script itself. What is already in the JSON file and not measured now stays there; a page of the
same name beside it (`.md`) shows all of it.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.counting import Machine, measure_machine
from benchmarks.heads_changes import check_integration, measure_changes
from benchmarks.heads_report import as_markdown
from benchmarks.measure_heads import Measurement, Settings, decoder_errors, measure
from rdm_batch.heads.precision import Precision, torch_dtype
from rdm_batch.specs.families import Architecture, RarmArchitecture
from rdm_batch.specs.presets import PRESETS

_COLUMNS = (
    ("preset", "{:<18}"),
    ("procedure", "{:<13}"),
    ("precision", "{:<9}"),
    ("ms_per_step", "{:>12.2f}"),
    ("decode_share", "{:>13.1%}"),
    ("images_per_s", "{:>13.4f}"),
    ("gflop", "{:>10.1f}"),
    ("gbyte", "{:>8.1f}"),
    ("floor_s", "{:>8.3f}"),
    ("of_floor", "{:>9.1%}"),
    ("of_peak", "{:>8.1%}"),
    ("peak_mb", "{:>9.0f}"),
    ("speedup", "{:>8.2f}"),
)


def small(architecture: Architecture) -> Architecture:
    """Shrink an architecture to about a thousandth of its work, keeping its structure."""
    sizes = {"channels": 32}
    if architecture.autoencoder.kind == "vq":
        sizes["codebook_size"] = 64
    autoencoder = architecture.autoencoder.model_copy(update=sizes)
    if isinstance(architecture, RarmArchitecture):
        transformer = architecture.transformer.model_copy(
            update={
                "depth": 2,
                "num_heads": 2,
                "vocabulary_in": 66,
                "vocabulary_out": 64,
                "num_positions": 16,
            }
        )
        return architecture.model_copy(
            update={"transformer": transformer, "autoencoder": autoencoder, "start_token": 65}
        )
    unet = architecture.unet.model_copy(update={"model_channels": 32})
    return architecture.model_copy(
        update={"unet": unet, "autoencoder": autoencoder, "latent_size": 8}
    )


def tabulate(
    preset: str,
    measurements: list[Measurement],
    machines: dict[Precision, Machine],
    settings: Settings,
) -> list[dict[str, Any]]:
    """Turn the measurements of a preset, the published procedure's first, into rows."""
    rows = []
    slowest_s = measurements[0].sample_s + measurements[0].decode_s
    for found in measurements:
        machine = machines[found.precision]
        batch_s = found.sample_s + found.decode_s
        image_s = batch_s / settings.batch
        floor_s = found.work.floor_s(machine)
        rows.append(
            {
                "preset": preset,
                "procedure": found.procedure,
                "precision": found.precision,
                "batch": settings.batch,
                "ms_per_step": 1e3 * found.sample_s / found.num_steps,
                "decode_share": found.decode_s / batch_s,
                "images_per_s": 1 / image_s,
                "gflop": found.work.flops / 1e9,
                "gbyte": found.work.num_bytes / 1e9,
                "weight_gbyte": found.work.weight_bytes / 1e9,
                "floor_s": floor_s,
                "of_floor": floor_s / image_s,
                "of_peak": found.work.flops / image_s / machine.flops_per_s,
                "peak_mb": found.peak_memory_bytes / 2**20,
                "speedup": slowest_s / batch_s,
            }
        )
    return rows


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print one line a measurement; GFLOP, GB and floor are per image."""
    widths = [len(form.format(0 if form[2] != "<" else "")) for _, form in _COLUMNS]
    print(" ".join(f"{name:>{width}}" for (name, _), width in zip(_COLUMNS, widths, strict=True)))
    for row in rows:
        print(" ".join(form.format(row[name]) for name, form in _COLUMNS))


def measure_preset(
    preset: str,
    architecture: Architecture,
    settings: Settings,
    machines: dict[Precision, Machine],
) -> dict[str, Any]:
    """Measure and print everything about one preset."""
    rows = tabulate(preset, measure(architecture, settings), machines, settings)
    print_table(rows)
    found: dict[str, Any] = {"rows": rows}
    found["changes"] = [
        asdict(change) for change in measure_changes(architecture, settings, machines["float32"])
    ]
    for row in found["changes"]:
        predicted = f"{row['predicted']:.2f}" if row["predicted"] else "-"
        print(
            f"{preset}: {row['change']}: {row['gflop']:.1f} GFLOP, {row['gbyte']:.2f} GB, "
            f"{row['ms']:.1f} ms; gain {row['measured']:.2f} (predicted {predicted})"
        )
    found["decoder_errors"] = decoder_errors(architecture, settings.device)
    print(f"{preset}: decoder against float32: {found['decoder_errors']}")
    if isinstance(architecture, RarmArchitecture):
        found["integration"] = check_integration(architecture, settings)
        print(f"{preset}: published, one block, all tokens: {found['integration']}", flush=True)
    return found


def main(argv: list[str] | None = None) -> None:
    """Measure the presets asked for, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", choices=list(PRESETS), default=list(PRESETS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--precisions", nargs="+", choices=["float32", "bfloat16"], default=["float32"]
    )
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--guidance-scale", type=float, default=2.0)
    parser.add_argument("--num-steps", type=int, default=100, help="steps an image is billed")
    parser.add_argument("--timed-steps", type=int, default=2, help="steps that are timed")
    parser.add_argument("--repeats", type=int, default=2, help="timings, of which the best counts")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's)")
    parser.add_argument("--small", action="store_true", help="shrink the networks")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write the figures here, and a page"
    )
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    settings = Settings(
        device=args.device,
        precisions=tuple(args.precisions),
        compile=args.compile,
        batch=args.batch,
        guidance_scale=args.guidance_scale,
        num_steps=args.num_steps,
        timed_steps=args.timed_steps,
        repeats=args.repeats,
    )
    size = 8192 if args.device == "cuda" else 1024
    precisions: tuple[Precision, ...] = ("float32", "bfloat16")
    machines = {
        precision: measure_machine(args.device, torch_dtype(precision), size)
        for precision in precisions
    }
    for precision, machine in machines.items():
        print(
            f"{args.device} {precision}: products {machine.flops_per_s / 1e9:.0f} GFLOP/s, "
            f"copies {machine.bytes_per_s / 1e9:.1f} GB/s"
        )
    record: dict[str, Any] = {}
    if args.json and args.json.exists():
        record = json.loads(args.json.read_text())
    for preset in args.presets:
        architecture = small(PRESETS[preset]) if args.small else PRESETS[preset]
        found = measure_preset(preset, architecture, settings, machines)
        record.setdefault(args.device, {})[preset] = {
            "small": args.small,
            "device": torch.cuda.get_device_name() if args.device == "cuda" else platform.machine(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "settings": asdict(settings),
            "machine": {precision: asdict(machine) for precision, machine in machines.items()},
        } | found
        if args.json:
            args.json.write_text(json.dumps(record, indent=2) + "\n")
            args.json.with_suffix(".md").write_text(as_markdown(record))


if __name__ == "__main__":
    main()
