"""Turn what ``benchmarks.heads.sampling`` measured into rows, with what is still to be measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from benchmarks.heads.changes import Change
from benchmarks.heads.counting import Machine
from benchmarks.heads.procedures import Measurement, Settings
from benchmarks.records import Row
from rdm_batch.heads.arithmetic import Precision
from rdm_batch.specs.presets import PRESETS

# Speed over the published procedure in float32 that is asked for, by device, preset and the
# arithmetics it may be reached in.
NEEDED: dict[str, dict[str, tuple[tuple[Precision, ...], float]]] = {
    "cpu": {
        "rarm-imagenet-256": (("float32", "bfloat16"), 60.0),
        "rarm-imagenet-256, batch 1": (("float32", "bfloat16"), 20.0),
        "rdm-imagenet-256": (("float32",), 1.5),
        "knn-discrete-256": (("float32", "bfloat16"), 4.0),
    },
    "cuda": {"rarm-imagenet-256": (("bfloat16",), 100.0), "rdm-imagenet-256": (("bfloat16",), 6.0)},
}
_NEEDED_AT: dict[str, int] = {"knn-discrete-256": 25}
"""Steps at which it is asked for, where it is not with those of the published procedure."""
_ON_CUDA = {
    "rarm-imagenet-256": "batch 64, CUDA graphs",
    "rdm-imagenet-256": "bfloat16, channels_last, CUDA graphs; half the peak of products",
}
_DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def part_name(preset: str, device: str, small: bool, batch: int | None = None) -> str:
    """Name what is measured together; shrunk networks never take the place of whole ones.

    Nor does a batch take the place of another of which something is asked.
    """
    own = f"{preset}, batch {batch}"
    name = own if own in NEEDED[device] and not small else preset
    return f"{name}, {_DEVICES[device]}{', shrunk' if small else ''}"


def procedure_rows(
    part: str,
    measurements: Sequence[Measurement],
    machines: Mapping[Precision, Machine],
    settings: Settings,
) -> list[Row]:
    """Give speeds, the published procedure's first: it is the baseline of the others."""

    def images_per_s(found: Measurement) -> float:
        return settings.batch / (found.sample_s + found.decode_s)

    preset, _, size = part.partition(f", {_DEVICES[settings.device]}")
    arithmetics, factor = NEEDED[settings.device].get(preset, ((), 0.0))
    rows, first = [], measurements[0]
    published_s = first.work.unhidden_s(machines[first.precision])
    several = any(found.num_steps != first.num_steps for found in measurements)
    for found in measurements:
        machine, speed = machines[found.precision], images_per_s(found)
        own = found is not first
        asked = own and "shrunk" not in size and found.precision in arithmetics
        asked = asked and found.num_steps == _NEEDED_AT.get(preset, first.num_steps)
        name = f"{found.procedure}, {found.precision}"
        rows.append(
            Row(
                name=f"{name}, {found.num_steps} steps" if several else name,
                value=speed,
                unit="images/s",
                higher_is_better=True,
                baseline=images_per_s(first) if own else None,
                floor=1 / found.work.floor_s(machine),
                needed_ratio=factor if asked else None,
                details={
                    "predicted ratio": (
                        published_s / found.work.unhidden_s(machine) if own else None
                    ),
                    "ms/step or token": 1e3 * found.sample_s / found.num_steps,
                    "share of decoding": found.decode_s * speed / settings.batch,
                    "GFLOP/image": found.work.flops / 1e9,
                    "GB/image": found.work.num_bytes / 1e9,
                    "weights GB/image": found.work.weight_bytes / 1e9,
                    "share of peak": found.work.flops * speed / machine.flops_per_s,
                    "peak MB": found.peak_memory_bytes / 2**20,
                },
            )
        )
    return rows


def change_rows(changes: Sequence[Change]) -> list[Row]:
    """Give the time of an evaluation after every change; its baseline is the one before."""
    earlier = [None, *(before.ms for before, _ in pairwise(changes))]
    return [
        Row(
            name=change.change,
            value=change.ms,
            unit="ms",
            baseline=before,
            details={
                "GFLOP": change.gflop,
                "GB": change.gbyte,
                "predicted ratio": change.predicted,
            },
        )
        for change, before in zip(changes, earlier, strict=True)
    ]


def error_rows(errors: Mapping[str, float]) -> list[Row]:
    """Give errors of the decoder relative to its largest output."""
    return [Row(name=name, value=value) for name, value in errors.items()]


def open_rows(measured: Iterable[str]) -> list[Row]:
    """Name what is not measured yet, and what is asked of it."""
    rows, known = [], set(measured)
    for device, label in _DEVICES.items():
        for name in [*PRESETS, *(one for one in NEEDED[device] if one not in PRESETS)]:
            if f"{name}, {label}" not in known:
                _, factor = NEEDED[device].get(name, ((), None))
                how = _ON_CUDA.get(name) if device == "cuda" else None
                details = {"how": how, "state": "open: not measured"}
                rows.append(Row(name=f"{name}, {label}", needed_ratio=factor, details=details))
    return rows
