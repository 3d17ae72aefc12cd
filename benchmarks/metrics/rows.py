"""Turn what ``benchmarks.metrics.scores`` measured into rows beside their floors, with notes."""

from __future__ import annotations

from typing import Any

from benchmarks.metrics.tasks import DIM
from benchmarks.records import Row

Found = dict[str, Any]
THEIRS = "torch-fidelity"


def feature_rows(found: Found) -> list[Row]:
    """Give images a second of Inception, decoding included; the floor is the network alone."""
    count = found["images"]
    return [
        Row(
            name=f"Inception features of {count} PNG files of {found['image_size']} pixels",
            value=count / found["ours"]["seconds"],
            unit="images/s",
            higher_is_better=True,
            baseline=count / found[THEIRS]["seconds"],
            floor=count / found["floor"]["seconds"],
            needed_ratio=1.2,
        )
    ]


def worker_rows(found: Found) -> list[Row]:
    """Give images a second by actors of one thread, their start left out."""
    rows = []
    for actors, one in found["actors"].items():
        speed = one["images"] / one["seconds"]
        details = {
            "each, images/s": speed / int(actors),
            "each, ms/image": 1e3 * int(actors) / speed,
        }
        rows.append(
            Row(
                name=f"Inception features, Ray actors of one thread: {actors}",
                value=speed,
                unit="images/s",
                higher_is_better=True,
                details=details,
            )
        )
    return rows


def pair_rows(found: Found) -> list[Row]:
    """Give seconds and memory of precision and recall; needed is measured by ``large``."""
    count = found["count"]
    theirs = found.get(THEIRS, {})
    size = f"precision and recall, {count:,} x {count:,}"
    return [
        Row(
            name=size,
            value=found["ours"]["seconds"],
            unit="s",
            baseline=theirs.get("seconds"),
            floor=2 * count**2 * DIM / (found["product_gmac_s"] * 1e9),
            needed_ratio=1.0 if theirs else None,
            details={"ms per million pairs": found["ours"]["seconds"] * 1e9 / (3 * count**2)},
        ),
        Row(
            name=f"{size}, peak memory",
            value=found["ours"]["peak_bytes"] / 1e9,
            unit="GB",
            baseline=theirs["peak_bytes"] / 1e9 if theirs else None,
            # The features of both sides.
            floor=2 * count * DIM * 4 / 1e9,
            needed=None if theirs else 2.0,
        ),
    ]


def fid_rows(found: Found) -> list[Row]:
    """Give seconds from features of both sides to the distance."""
    return [
        Row(
            name=f"FID of {found['count']:,} features a side",
            value=found["ours"]["seconds"],
            unit="s",
            baseline=found[THEIRS]["seconds"],
            floor=found["floor"]["seconds"],
            needed=6.0,
        )
    ]


def score_rows(found: Found) -> list[Row]:
    """Give seconds of the scores one by one, and of all."""
    rows = [Row(name=name, value=s, unit="s") for name, s in found["per_score"].items()]
    return [*rows, Row(name="all of these", value=found["seconds"], unit="s")]


def command_rows(found: Found) -> list[Row]:
    """Give seconds of the command from its start to its end."""
    return [
        Row(name=f"against {reference}", value=seconds, unit="s", needed=30.0)
        for reference, seconds in found["seconds"].items()
    ]


def score_notes(found: Found) -> list[str]:
    """Say what of the scores is the kernel distance's products."""
    size = min(1000, found["count"])
    kernel_s = 100 * 2 * size**2 * DIM / (found["product_double_gmac_s"] * 1e9)
    return [
        f"{found['count']:,} samples, from memory. Kernel distance: 300 products of {size:,} x "
        f"{size:,} in float64, two thirds of them symmetric, are {kernel_s:.1f} s at the measured "
        "speed of products."
    ]


def large_notes(found: Found) -> list[str]:
    """Say what matrices of distances would take."""
    return [
        f"torch-fidelity would hold {found['count'] ** 2 * 4 / 1e9:.3g} GB of distances a matrix."
    ]


def no_notes(found: Found) -> list[str]:
    """Add nothing."""
    return []


_PAIR_NOTE = (
    "Floor of the time: multiply-adds of two symmetric distance matrices and a full one. What is "
    "above it: every distance is compared with its radius, and what float32 cannot decide is "
    "computed again in float64. Floor of the memory: the features of both sides. A pair is one "
    "entry of the three matrices."
)
_FEATURE_NOTE = (
    "Floor: the network alone, on as many images of its own size in memory, 32 at a time. The "
    "extraction takes 128 at a time, which hides what decoding and resizing cost."
)
_FID_NOTE = (
    "Floor: two covariances, one eigenvalue problem with vectors, two products and one eigenvalue "
    "problem without, all in float64."
)
_COMMAND_NOTE = (
    "`rdm-batch evaluate` of samples whose features are kept, all scores of Inception features "
    "with uncertainties, from its start to its end."
)
# By part: its rows, and what is to be said of them.
ROWS = {
    "features": (feature_rows, lambda found: [_FEATURE_NOTE]),
    "workers": (worker_rows, no_notes),
    "pairs": (pair_rows, lambda found: [_PAIR_NOTE]),
    "fid": (fid_rows, lambda found: [_FID_NOTE]),
    "scores": (score_rows, score_notes),
    "command": (command_rows, lambda found: [_COMMAND_NOTE]),
    "large": (pair_rows, large_notes),
}
