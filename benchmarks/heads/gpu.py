"""Measure the heads on one GPU in at most eight minutes, each figure beside its prediction.

    python -m benchmarks.heads.gpu --json benchmarks/results/gpu.json

Needs what ``make test-gpu`` needs: PyTorch, pydantic, jaxtyping and numpy; a compiler and the
headers of Python for compiled rows. Inputs: none; weights, latents and contexts are random, and
nothing is zero, for products of zeros take less power. Baseline of the ratios: the published
procedure (``published_procedure``), eager, in IEEE float32, in the same run. Predictions are for
one H200 and were written before anything was measured (``gpu_trials``).

Rows come in the order of what they tell; every one is kept as soon as it is measured. A row that
the time left is too short for is skipped, and says so; ``--only`` measures some of them in another
run, beside what the file has. A row that fails is kept with its reason, and the others go on.
``--device cpu --smallest`` tries the benchmark itself, without compiled rows.
"""

from __future__ import annotations

import time

import torch

from benchmarks.heads.counting import copy_rate, matmul_rate
from benchmarks.heads.gpu_measure import Bench
from benchmarks.heads.gpu_trials import GUIDANCE, STEPS, Trial, trials
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.backends import multiplying
from rdm_batch.errors import RdmBatchError
from rdm_batch.heads.arithmetic import torch_dtype
from rdm_batch.specs.precisions import PRECISIONS, Precision
from rdm_batch.specs.presets import PRESETS

_DEFAULT_PRESETS = ("rdm-imagenet-256", "rarm-imagenet-256")
# Those whose steps, or tokens, it knows how to time.
_TIMED = [name for name, preset in PRESETS.items() if preset.kind != "knn_discrete"]
# What an H200 is expected to reach in large products, and in copies: the first and the last were
# measured by others, those between scale the data sheet by as much.
_PEAKS: dict[Precision, tuple[float, float]] = {
    "bfloat16": (769, 798),
    "float16": (769, 798),
    "tf32": (350, 420),
    "float32": (45, 62),
}
_COPIES = (4100.0, 4400.0)


def measure_peaks(device: str, smallest: bool, recorder: Recorder) -> dict[Precision, float]:
    """Measure and record the rates of products and of copies.

    Returns:
        Operations a second by precision.
    """
    size = 128 if smallest else 8192
    peaks: dict[Precision, float] = {}
    for precision, predicted in _PEAKS.items():
        tf32 = PRECISIONS[precision].tf32
        if tf32 and device == "cpu":
            continue
        with multiplying(tf32):
            peaks[precision] = matmul_rate(device, torch_dtype(precision), size)
        row = Row(
            name=f"matrix product, {precision}",
            value=peaks[precision] / 1e12,
            unit="TFLOP/s",
            higher_is_better=True,
            details={"size": size, **_predicted(predicted)},
        )
        recorder.add(_part("machine", smallest), [row])
    rate = copy_rate(device, size) / 1e9
    row = Row(
        name="copy of random bytes, read and written",
        value=rate,
        unit="GB/s",
        higher_is_better=True,
        details=_predicted(_COPIES),
    )
    recorder.add(_part("machine", smallest), [row])
    return peaks


def measure_trial(
    trial: Trial, bench: Bench, peaks: dict[Precision, float], baseline: float | None
) -> Row:
    """Measure a trial; one that fails gives a row with the reason."""
    details: Details = _predicted(trial.predicted)
    begin = time.perf_counter()
    try:
        speed, found = bench.images_per_s(trial)
    except Exception as error:  # whatever it is: the other rows are worth having
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return Row(name=trial.name, details=details | {"state": f"failed: {reason[0][:200]}"})
    done = found.get("TFLOP/s")
    if isinstance(done, float):
        found["share of peak"] = done * 1e12 / peaks[trial.precision]
    return Row(
        name=trial.name,
        value=speed,
        unit="images/s",
        higher_is_better=True,
        baseline=baseline if trial.what == "generate" else None,
        details=details | found | {"took s": time.perf_counter() - begin},
    )


def _part(name: str, smallest: bool) -> str:
    """Name a part of the file; shrunk networks never take the place of whole ones."""
    return f"{name}, shrunk" if smallest else name


def _predicted(bounds: tuple[float, float] | None) -> Details:
    return {} if bounds is None else {"predicted from": bounds[0], "predicted to": bounds[1]}


def _require(device: str) -> None:
    if device == "cuda" and not torch.cuda.is_available():
        raise RdmBatchError(
            "--device cuda",
            f"PyTorch {torch.__version__} finds no GPU it can use",
            action="run this on a machine with one, or try the benchmark with --device cpu "
            "--smallest",
        )


def main(argv: list[str] | None = None) -> None:
    """Measure what fits into the time there is."""
    begin = time.perf_counter()
    parser = parser_of(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--smallest", action="store_true", help="shrink networks and batches")
    parser.add_argument("--presets", nargs="+", choices=_TIMED, default=_DEFAULT_PRESETS)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it")
    parser.add_argument("--only", metavar="WORDS", help="rows whose name holds these words")
    args = parser.parse_args(argv)
    _require(args.device)
    recorder = Recorder(
        "heads.gpu",
        "The heads on one GPU",
        "One process, random weights, guidance 2, 4 neighbors; decoding is included but in rows "
        f"of the UNet alone, which bill {STEPS} of its steps. Predictions are for one H200.",
        args.json,
        "the published procedure, eager, in IEEE float32, in the same run",
    )
    peaks = measure_peaks(args.device, args.smallest, recorder)
    bench = Bench(args.device, args.smallest)
    baselines: dict[str, float] = {}
    described = {"device": args.device, "guidance_scale": GUIDANCE, "smallest": args.smallest}
    for trial in trials(list(args.presets)):
        if args.only and args.only not in trial.name and trial.what != "published":
            continue
        part = f"{trial.preset}, {args.only}" if args.only else trial.preset
        part = _part(part, args.smallest)
        left = 60 * args.minutes - (time.perf_counter() - begin)
        on_cpu = args.device == "cpu" and (trial.how != "eager" or trial.precision == "tf32")
        if on_cpu or (trial.seconds > left and not args.smallest):
            reason = "is for GPUs" if on_cpu else f"{left:.0f} s left of {trial.seconds:.0f} needed"
            details = _predicted(trial.predicted) | {"state": f"skipped: {reason}"}
            row = Row(name=trial.name, details=details)
        else:
            row = measure_trial(trial, bench, peaks, baselines.get(trial.preset))
        if trial.what == "published" and row.value:
            baselines[trial.preset] = row.value
        recorder.add(part, [row], described)


if __name__ == "__main__":
    run(main)
