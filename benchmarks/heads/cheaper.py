"""Measure what cheaper sampling saves, and what it costs in FID, in the shapes world.

    python -m benchmarks.heads.cheaper --json benchmarks/results/cheaper_sampling.json \\
        --keep runs/cheaper --picture docs/pictures/cheaper-sampling.png

Inputs: the shipped heads, database and reference of the shapes world. All sets have the same
pseudo-queries, neighbors and noise. Baseline: DDIM of 100 steps at guidance 2, in the same run;
the rows with another seed say how far apart equals lie, and the error of a difference from the
baseline is that of sets which share their samples. Predicted ratio: the baseline's operations
by those of the case, decoding included, counted before anything is drawn. Times are the process's
CPU time on one thread; on a busy machine only their ratios mean something. Every row is kept as
soon as it is measured, and with ``--keep`` every set: a run that was ended goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.assemble import K_NN, shipped_networks
from benchmarks.heads.samplers import Case, measure_cases, parse
from benchmarks.recorder import Recorder, run
from benchmarks.records import Details
from rdm_batch.heads.work import flops_per_sample

_MIDDLE = (0.3, 5.0)
BASELINE = Case("ddim", 100)
CASES = (
    BASELINE,
    Case("ddim", 100, seed=1),
    Case("dpm_solver_pp", 20),
    Case("dpm_solver_pp", 20, guidance_interval=_MIDDLE),
    Case("dpm_solver_pp", 20, reuse_deep_features=2),
    Case("dpm_solver_pp", 20, guidance_interval=_MIDDLE, reuse_deep_features=2),
    Case("dpm_solver_pp", 20, seed=1),
    Case("dpm_solver_pp", 20, weaker=("ldm", 1.5)),
    Case("dpm_solver_pp", 20, weaker=("ldm", 2.0)),
    Case("dpm_solver_pp", 20, weaker=("ldm", 2.0), guidance_interval=_MIDDLE),
    Case("dpm_solver_pp", 20, reuse_deep_features=3),
    Case("dpm_solver_pp", 20, guidance_interval=_MIDDLE, reuse_deep_features=3),
    Case("dpm_solver_pp", 15, guidance_interval=_MIDDLE),
    Case("dpm_solver_pp", 10),
    Case("dpm_solver_pp", 10, guidance_interval=_MIDDLE),
    Case("dpm_solver_pp", 10, reuse_deep_features=2),
    Case("dpm_solver_pp", 10, guidance_interval=_MIDDLE, reuse_deep_features=2),
    Case("ddim", 100, guidance_interval=_MIDDLE),
    Case("ddim", 100, reuse_deep_features=5),
    Case("ddim", 100, guidance_interval=_MIDDLE, reuse_deep_features=5),
    Case("ddim", 20),
    Case("dpm_solver_pp", 20, guidance_scale=1.0),
)


def operations(case: Case, guidance_scale: float) -> float:
    """Count the floating-point operations of an image: sampling and decoding."""
    weaker = shipped_networks(case.weaker[0]).architecture if case.weaker else None
    own = shipped_networks(case.head).architecture
    return flops_per_sample(own, case.sampling(guidance_scale), K_NN, weaker)


def main(argv: list[str] | None = None, cases: Iterable[Case] = CASES) -> None:
    """Draw and score every case; the first is the baseline."""
    args = parse(__doc__, argv, guidance_scale=2.0)
    cases = tuple(cases)
    counted = {case: operations(case, args.guidance_scale) for case in cases}
    recorder = Recorder(
        "heads.cheaper",
        "Cheaper sampling in the shapes world",
        "Sets of the shipped diffusion head on one CPU thread, scored by the shipped extractor "
        "and reference. Predicted ratio: the operations of the baseline by those of the case, "
        "decoding included.",
        args.json,
        f"{cases[0].describe()}, guidance {args.guidance_scale:g}, in the same run",
    )

    def more(case: Case, seconds: float) -> Details:
        flops = counted[case]
        return {
            "GFLOP/image": flops / 1e9,
            "GFLOP/CPU s": flops / seconds / 1e9,
            "predicted ratio": counted[cases[0]] / flops,
        }

    measure_cases(cases, args, recorder, more)


if __name__ == "__main__":
    run(main)
