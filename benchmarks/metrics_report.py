"""Write what ``benchmarks/metrics.py`` measured as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.metrics_tasks import DIM

Part = dict[str, Any]


def render(report: dict[str, Any]) -> str:
    """Write the figures beside their targets; parts that were not measured are left out."""
    machine, parts = report["machine"], report["parts"]
    lines = [
        "# Features and scores",
        "",
        "Written by `python -m benchmarks.metrics`.",
        "",
        f"{machine['processor']}, {machine['cpus']} CPUs, no accelerator, {machine['threads']} "
        f"threads, torch {machine['torch']}, torch-fidelity {machine['torch_fidelity']}. Features "
        f"of width {DIM:,}, random but shaped like Inception's; Inception with random weights.",
        "",
        "| what | torch-fidelity | here | ratio | target |",
        "|---|---|---|---|---|",
    ]
    for name, part in parts.items():
        lines += _ROWS[name](part)
    lines.append("")
    for name, part in parts.items():
        lines += _NOTES[name](part)
    return "\n".join([*lines, _speeds(parts)]) + "\n"


def _feature_rows(part: Part) -> Iterator[str]:
    count, (theirs, ours) = part["images"], _seconds(part)
    yield (
        f"| Inception features of {count} PNG files of {part['image_size']} pixels, decoding "
        f"included, images/s | {count / theirs:.2f} | {count / ours:.2f} | {theirs / ours:.2f} "
        f"| {_target(theirs / ours >= 1.2, '1.2 or more')} |"
    )


def _worker_rows(part: Part) -> Iterator[str]:
    for actors, found in part["actors"].items():
        speed = found["images"] / found["seconds"]
        yield (
            f"| the same by {actors} Ray actor{'s' if int(actors) > 1 else ''} of one thread, "
            f"images/s | | {speed:.2f} | {speed / int(actors):.2f} each | |"
        )


def _pair_rows(part: Part) -> Iterator[str]:
    (theirs, ours), size = _seconds(part), f"{part['count']:,} x {part['count']:,}"
    million = 3 * part["count"] ** 2 / 1e6
    yield (
        f"| precision and recall, {size}, ms per million pairs | {theirs / million * 1e3:.1f} "
        f"| {ours / million * 1e3:.1f} | {theirs / ours:.2f} "
        f"| {_target(theirs / ours >= 1, '1 or more')} |"
    )
    memory = [part[who]["peak_bytes"] / 1e9 for who in ("torch-fidelity", "ours")]
    yield f"| the same, peak memory, GB | {memory[0]:.2f} | {memory[1]:.2f} | | |"


def _large_rows(part: Part) -> Iterator[str]:
    count, gigabytes = part["count"], part["ours"]["peak_bytes"] / 1e9
    yield (
        f"| precision and recall, {count:,} x {count:,}, peak memory, GB | | {gigabytes:.2f} | "
        f"| {_target(gigabytes <= 2, '2 or less')} |"
    )


def _fid_rows(part: Part) -> Iterator[str]:
    theirs, ours = _seconds(part)
    yield (
        f"| FID of {part['count']:,} features a side, s | {theirs:.2f} | {ours:.2f} "
        f"| {theirs / ours:.2f} | {_target(ours <= 6, '6 or less')} |"
    )


def _command_rows(part: Part) -> Iterator[str]:
    for reference, seconds in part["seconds"].items():
        yield (
            f"| `rdm-batch evaluate`, {part['count']:,} samples whose features are kept against "
            f"{reference}, all scores with uncertainties, start to end, s | | {seconds:.1f} | "
            f"| {_target(seconds <= 30, '30 or less')} |"
        )


def _feature_notes(part: Part) -> Iterator[str]:
    ours, floor = part["ours"]["seconds"], part["floor"]["seconds"]
    yield (
        f"- Features take {ours:.2f} s. Floor: {floor:.2f} s of the network alone, on as many "
        f"images of its own size in memory, 32 at a time; gap {ours / floor:.2f}. The extraction "
        "takes 128 at a time, which hides what decoding and resizing cost."
    )


def _fid_notes(part: Part) -> Iterator[str]:
    ours, floor = part["ours"]["seconds"], part["floor"]["seconds"]
    yield (
        f"- FID: floor {floor:.2f} s for two covariances, one eigenvalue problem with vectors, two "
        f"products and one eigenvalue problem without, all in float64; gap {ours / floor:.2f}."
    )


def _worker_notes(part: Part) -> Iterator[str]:
    each = ", ".join(
        f"{1e3 * int(actors) * found['seconds'] / found['images']:.0f} ms with {actors}"
        for actors, found in part["actors"].items()
    )
    yield f"- Time of an actor per image, its start left out: {each}."


def _pair_notes(part: Part) -> Iterator[str]:
    seconds, floor = part["ours"]["seconds"], _floor_s(part)
    yield (
        f"- Precision and recall of {part['count']:,} x {part['count']:,} take {seconds:.2f} s. "
        f"Floor: {floor:.2f} s of multiply-adds (two symmetric distance matrices and one full); "
        f"gap {seconds / floor:.2f}. What is above it: every distance is compared with its radius, "
        "and what float32 cannot decide is computed again in float64. A pair is one entry of the "
        "three distance matrices."
    )


def _large_notes(part: Part) -> Iterator[str]:
    count, floor = part["count"], _floor_s(part)
    yield (
        f"- At {count:,} x {count:,}: {part['ours']['seconds']:.0f} s, floor {floor:.0f} s, gap "
        f"{part['ours']['seconds'] / floor:.2f}; {2 * count * DIM * 4 / 1e9:.2f} GB of the peak "
        "are the features of both sides. torch-fidelity would hold the distances: "
        f"{count**2 * 4 / 1e9:.0f} GB a matrix."
    )


def _score_notes(part: Part) -> Iterator[str]:
    each = ", ".join(f"{name} {s:.1f}" for name, s in part["per_score"].items())
    size = min(1000, part["count"])
    kernel = 100 * 2 * size**2 * DIM / (part["product_double_gmac_s"] * 1e9)
    yield (
        f"- The scores of {part['count']:,} samples from memory, one by one: "
        f"{part['seconds']:.1f} s ({each}). The command adds its start, reading the features, and "
        f"moments of the reference where it is images. Kernel distance: 300 products of {size:,} x "
        f"{size:,} in float64, two thirds of them symmetric, are {kernel:.1f} s at the measured "
        "speed."
    )


def _speeds(parts: dict[str, Part]) -> str:
    """Name the conditions of each part: what its floor is computed from."""
    each = ", ".join(
        f"{name} {part['product_gmac_s']:.0f} / {part['product_double_gmac_s']:.0f} (load "
        f"{part['load_average']:.1f})"
        for name, part in parts.items()
    )
    return f"- G multiply-adds/s of float32 / float64 matrix products before each part: {each}."


def _target(met: bool, target: str) -> str:
    return target if met else f"{target}: **missed**"


def _seconds(measured: Part) -> tuple[float, float]:
    return measured["torch-fidelity"]["seconds"], measured["ours"]["seconds"]


def _floor_s(part: Part) -> float:
    return 2 * part["count"] ** 2 * DIM / (part["product_gmac_s"] * 1e9)


def _nothing(part: Part) -> Iterator[str]:
    return iter(())


_ROWS = {
    "features": _feature_rows,
    "workers": _worker_rows,
    "pairs": _pair_rows,
    "large": _large_rows,
    "fid": _fid_rows,
    "scores": _nothing,
    "command": _command_rows,
}
_NOTES = {
    "features": _feature_notes,
    "workers": _worker_notes,
    "pairs": _pair_notes,
    "large": _large_notes,
    "fid": _fid_notes,
    "scores": _score_notes,
    "command": _nothing,
}
