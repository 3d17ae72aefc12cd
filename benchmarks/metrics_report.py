"""Write what ``benchmarks/metrics.py`` measured as Markdown."""

from __future__ import annotations

from typing import Any

from benchmarks.metrics_tasks import DIM


def render(report: dict[str, Any]) -> str:
    """Write the figures beside their targets."""
    return "\n".join([*_head(report), *_table(report), "", *_notes(report)]) + "\n"


def _head(report: dict[str, Any]) -> list[str]:
    machine = report["machine"]
    return [
        "# Features and scores",
        "",
        "Written by `python -m benchmarks.metrics`.",
        "",
        f"{machine['processor']}, {machine['cpus']} CPUs, no accelerator (load average "
        f"{machine['load_average']:.1f} at the start), {machine['threads']} threads, torch "
        f"{machine['torch']}, torch-fidelity {machine['torch_fidelity']}. Matrix products: "
        f"{report['product_gmac_s']:.0f} G multiply-adds/s in float32, "
        f"{report['product_double_gmac_s']:.0f} in float64. Features of width {DIM:,}, random but "
        "shaped like Inception's; Inception with random weights.",
        "",
        "| what | torch-fidelity | here | ratio | target |",
        "|---|---|---|---|---|",
    ]


def _table(report: dict[str, Any]) -> list[str]:
    sizes, rows = report["sizes"], []
    if "features" in report:
        count = sizes["images"]
        theirs, ours = _seconds(report["features"])
        rows.append(
            f"| Inception features of {count} PNG files of {sizes['image_size']} pixels, decoding "
            f"included, images/s | {count / theirs:.2f} | {count / ours:.2f} "
            f"| {theirs / ours:.2f} | 1.2 or more |"
        )
    million = 3 * sizes["pairs"] ** 2 / 1e6
    theirs, ours = _seconds(report["pairs"])
    rows.append(
        f"| precision and recall, {sizes['pairs']:,} x {sizes['pairs']:,}, ms per million pairs "
        f"| {theirs / million * 1e3:.1f} | {ours / million * 1e3:.1f} | {theirs / ours:.2f} "
        "| 1 or more |"
    )
    memory = [report["pairs"][who]["peak_bytes"] / 1e9 for who in ("torch-fidelity", "ours")]
    rows.append(f"| the same, peak memory, GB | {memory[0]:.2f} | {memory[1]:.2f} | | |")
    theirs, ours = _seconds(report["fid"])
    rows.append(
        f"| FID of {sizes['samples']:,} features a side, s | {theirs:.2f} | {ours:.2f} "
        f"| {theirs / ours:.2f} | 6 s |"
    )
    if "large" in report:
        large = report["large"]
        rows.append(
            f"| precision and recall, {large['count']:,} x {large['count']:,}, peak memory, GB "
            f"| | {large['peak_bytes'] / 1e9:.2f} | | 2 GB |"
        )
    for reference, seconds in report["command"].items():
        rows.append(
            f"| `rdm-batch evaluate`, {sizes['samples']:,} samples whose features are kept against "
            f"{reference}, all scores with uncertainties, start to end, s | | {seconds:.1f} | "
            "| 30 s |"
        )
    return rows


def _notes(report: dict[str, Any]) -> list[str]:
    seconds, floor = report["pairs"]["ours"]["seconds"], _floor_s(report["sizes"]["pairs"], report)
    lines = [
        f"- Precision and recall take {seconds:.2f} s. Floor: {floor:.2f} s of multiply-adds (two "
        f"symmetric distance matrices and one full); gap {seconds / floor:.2f}. What is above it: "
        "every distance is compared with its radius, and what float32 cannot decide is computed "
        "again in float64. A pair is one entry of the three distance matrices.",
    ]
    if "large" in report:
        large, floor = report["large"], _floor_s(report["large"]["count"], report)
        features = 2 * large["count"] * DIM * 4 / 1e9
        lines.append(
            f"- At {large['count']:,} x {large['count']:,}: {large['seconds']:.0f} s, floor "
            f"{floor:.0f} s; {features:.2f} GB of the peak are the features of both sides. "
            "torch-fidelity would hold the distances: "
            f"{large['count'] ** 2 * 4 / 1e9:.0f} GB a matrix."
        )
    speeds = {
        int(actors): found["images"] / found["seconds"]
        for actors, found in report["workers"].items()
    }
    if speeds:
        listed = ", ".join(
            f"{speed:.2f} images/s with {actors} ({speed / actors:.2f} each)"
            for actors, speed in speeds.items()
        )
        lines.append(f"- Extraction by Ray actors of one thread each: {listed}.")
    each = ", ".join(f"{name} {s:.1f}" for name, s in report["scores"]["per_score"].items())
    lines.append(
        f"- The scores from memory, one by one: {report['scores']['seconds']:.1f} s ({each}). The "
        "command adds its start, reading the features, and moments of the reference where it is "
        "images. Kernel distance: 300 products of 1,000 x 1,000 in float64, two thirds of them "
        f"symmetric, are {_kernel_floor_s(report):.1f} s at the measured speed."
    )
    return lines


def _seconds(measured: dict[str, Any]) -> tuple[float, float]:
    return measured["torch-fidelity"]["seconds"], measured["ours"]["seconds"]


def _floor_s(count: int, report: dict[str, Any]) -> float:
    return 2 * count**2 * DIM / (report["product_gmac_s"] * 1e9)


def _kernel_floor_s(report: dict[str, Any]) -> float:
    size = min(1000, report["sizes"]["samples"])
    return 100 * 2 * size**2 * DIM / (report["product_double_gmac_s"] * 1e9)
