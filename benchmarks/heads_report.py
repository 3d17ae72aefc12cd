"""Lay the figures of ``benchmarks.heads`` out as a page, with what is still to be measured."""

from __future__ import annotations

from typing import Any

from rdm_batch.specs.presets import PRESETS

# Speed over the published procedure in float32 that is asked for, by device, preset and the
# arithmetic it may be reached in.
NEEDED: dict[str, dict[str, tuple[str, float]]] = {
    "cpu": {"rarm-imagenet-256": ("float32", 20.0), "rdm-imagenet-256": ("float32", 1.3)},
    "cuda": {"rarm-imagenet-256": ("bfloat16", 100.0), "rdm-imagenet-256": ("bfloat16", 6.0)},
}
_OPEN_ON_CUDA = {
    "rarm-imagenet-256": "batch 64, CUDA graphs",
    "rdm-imagenet-256": "bfloat16, channels_last, CUDA graphs; half the peak of products",
}
_DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def as_markdown(record: dict[str, Any]) -> str:
    """Turn the JSON record of one or more runs into a page."""
    lines = ["# The heads beside the published procedure", ""]
    lines += [
        "`python -m benchmarks.heads`; one process, random weights. Floor: the longer of the",
        "counted operations at the measured rate of products and reading the weights once an",
        "evaluation at the measured rate of copies, which caches help: a floor all the same.",
        "Decoding is included everywhere.",
    ]
    for device, presets in record.items():
        for preset, found in presets.items():
            lines += _preset(device, preset, found)
    return "\n".join([*lines, *_open(record)]) + "\n"


def _preset(device: str, preset: str, found: dict[str, Any]) -> list[str]:
    settings, rows = found["settings"], found["rows"]
    unit = "token" if preset.startswith("rarm") else "step"
    rates = "; ".join(
        f"{precision} {machine['flops_per_s'] / 1e9:.0f} GFLOP/s, "
        f"{machine['bytes_per_s'] / 1e9:.0f} GB/s"
        for precision, machine in found["machine"].items()
    )
    lines = [
        "",
        f"## {preset}, {_DEVICES[device]}{', shrunk' if found['small'] else ''}",
        "",
        f"{found['device']}, {found['threads']} threads, torch {found['torch']}, batch "
        f"{settings['batch']}, guidance {settings['guidance_scale']:g}, {settings['k_nn']} "
        f"neighbors. Best measured: {rates}.",
        _billing(unit, settings, found),
        "",
        f"| procedure | arithmetic | images/s | x published | ms/{unit} | decoding | TFLOP/image "
        "| GB/image | weights GB/image | floor s/image | of floor | of peak | peak MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['procedure']} | {row['precision']} | {row['images_per_s']:.4f} "
        f"| {row['speedup']:.2f} | {row['ms_per_step']:.1f} | {row['decode_share']:.1%} "
        f"| {row['gflop'] / 1e3:.3f} | {row['gbyte']:.1f} | {row['weight_gbyte']:.1f} "
        f"| {row['floor_s']:.2f} | {row['of_floor']:.0%} | {row['of_peak']:.0%} "
        f"| {row['peak_mb']:.0f} |"
        for row in rows
    ]
    if preset in NEEDED[device] and not found["small"]:
        precision, factor = NEEDED[device][preset]
        reached = max(row["speedup"] for row in rows[1:] if row["precision"] == precision)
        verdict = "reached" if reached >= factor else "missed"
        lines += ["", f"Needed: {factor:g} x in {precision}. Measured: {reached:.2f} x, {verdict}."]
    lines += _changes(unit, found["changes"])
    errors = found["decoder_errors"]
    lines += [
        "",
        "Decoder with random weights against float32, relative to the largest output: "
        f"channels_last {errors['channels_last_max']:.1e} at most; bfloat16 "
        f"{errors['bfloat16_max']:.1e} at most, {errors['bfloat16_mean']:.1e} on average.",
    ]
    return lines


def _billing(unit: str, settings: dict[str, Any], found: dict[str, Any]) -> str:
    if unit == "step":
        return f"{settings['timed_steps']} step(s) timed, {settings['num_steps']} billed."
    whole = found["integration"]
    return (
        "Here every token is timed; the published procedure at five lengths, summed by the "
        f"trapezoid rule. The rule, tried on one block and one sample: {whole['estimated_s']:.1f} "
        f"s where all tokens took {whole['complete_s']:.1f} s."
    )


def _changes(unit: str, changes: list[dict[str, Any]]) -> list[str]:
    lines = [
        "",
        f"One change on top of the other; one {unit} of the batch, both guidance branches, "
        "float32:",
        "",
        "| change | GFLOP | GB | ms | predicted gain | measured gain |",
        "|---|---|---|---|---|---|",
    ]
    for change in changes:
        predicted = f"{change['predicted']:.2f}" if change["predicted"] else ""
        measured = f"{change['measured']:.2f}" if change is not changes[0] else ""
        lines.append(
            f"| {change['change']} | {change['gflop']:.1f} | {change['gbyte']:.2f} "
            f"| {change['ms']:.1f} | {predicted} | {measured} |"
        )
    return lines


def _open(record: dict[str, Any]) -> list[str]:
    """Name what is asked for and not measured yet."""
    lines = ["", "## Open", ""]
    rows = [
        f"| {preset} | {_DEVICES[device]} | {_needed(device, preset)} | open: not measured |"
        for device in _DEVICES
        for preset in PRESETS
        if preset not in record.get(device, {})
    ]
    if not rows:
        return []
    return [*lines, "| preset | device | needed | measured |", "|---|---|---|---|", *rows]


def _needed(device: str, preset: str) -> str:
    if preset not in NEEDED[device]:
        return ""
    details = f" ({_OPEN_ON_CUDA[preset]})" if device == "cuda" else ""
    return f"{NEEDED[device][preset][1]:g} x{details}"
