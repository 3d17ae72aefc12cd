"""Compare samplers by the scores of what they draw, in the shapes world.

    python -m benchmarks.heads.samplers --guidance-scale 1 \\
        --json benchmarks/results/samplers.json

Inputs: the shipped heads, database and reference of the shapes world. All sets have the same
pseudo-queries, neighbors and noise, so sets of a head differ by the sampler alone. Baseline of
the ratios: the first set of the same head. That set again with another seed says how far apart
equals lie: smaller differences are none. Times are the process's CPU time, which other work on
the machine disturbs least. Beside each FID stands its difference from that of the head's first set,
with the standard error of that difference (``metrics.pairing``): sets share queries and noise.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

import rdm_batch
from benchmarks.assemble import K_NN, SHAPES_DATABASE, Source
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.files import written_aside
from rdm_batch.heads.arithmetic import Precision
from rdm_batch.inputs.extractors import load_extractor
from rdm_batch.metrics.compute import Findings, compute_scores
from rdm_batch.metrics.features import FeatureExtractor, FeatureSet
from rdm_batch.metrics.pairing import Influences, paired_error
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.specs.job import ExtractorSpec, JobSpec
from rdm_batch.specs.sampling import (
    AutoguidanceSpec,
    AutoregressiveSampling,
    DdimSampling,
    DpmSolverSampling,
    PlmsSampling,
    SamplingSpec,
)
from rdm_batch.specs.scores import Score
from rdm_batch.storage.object_store import local_path

_SCORES = ("fid", "precision", "recall")
_COLUMNS = (
    "bytes from first: mean absolute difference of bytes from the head's first set.",
    "fid - first: by how much the FID is above that of the head's first set, with the standard "
    "error of this difference between sets that share samples.",
)
BASELINE = "the first set of the same head in CPU time, in the same run"
_EARLIER = "Some sets were drawn by an earlier run that was ended, with their times."
_PICTURED = 14
_KINDS = {"ddim": DdimSampling, "plms": PlmsSampling, "dpm_solver_pp": DpmSolverSampling}


# The first batch loads the head and is not timed.
_BATCH = 32


@dataclass(frozen=True)
class Case:
    """One way of drawing a set.

    Attributes:
        sampler: Its name in a job.
        num_steps: Of a diffusion sampler; None for the autoregressive one.
        arithmetic: Of the networks.
        eta: Of DDIM.
        top_p: Of the autoregressive sampler; None keeps all codes.
        seed: Of queries and noise.
        guidance_scale: In place of the benchmark's.
        guidance_interval: Of a diffusion sampler; None guides all steps.
        reuse_deep_features: Of a diffusion sampler.
        weaker: Shipped head and scale of autoguidance, in place of guidance.
    """

    sampler: str
    num_steps: int | None = None
    arithmetic: Precision = "float32"
    eta: float = 0.0
    top_p: float | None = None
    seed: int = 0
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    reuse_deep_features: int = 1
    weaker: tuple[str, float] | None = None

    @property
    def head(self) -> str:
        """Name of the shipped head that is drawn from."""
        return "rarm" if self.sampler == "autoregressive" else "rdm"

    def sampling(self, guidance_scale: float) -> SamplingSpec:
        """Give the sampling part of a job that draws this way."""
        if self.sampler == "autoregressive":
            return AutoregressiveSampling(
                sampler="autoregressive",
                num_samples=1,
                guidance_scale=guidance_scale,
                top_p=self.top_p,
            )
        extra: dict[str, Any] = {"eta": self.eta} if self.sampler == "ddim" else {}
        if self.weaker is not None:
            name, scale = self.weaker
            extra["autoguidance"] = AutoguidanceSpec(checkpoint=shipped(name), scale=scale)
        return _KINDS[self.sampler](
            sampler=self.sampler,
            num_samples=1,
            num_steps=self.num_steps,
            guidance_scale=1.0 if self.weaker else self.guidance_scale or guidance_scale,
            guidance_interval=self.guidance_interval,
            reuse_deep_features=self.reuse_deep_features,
            **extra,
        )

    def describe(self) -> str:
        """Say what is set, beside the arithmetic."""
        parts = [f"{self.num_steps} steps"] if self.num_steps else []
        parts += [f"eta {self.eta:g}"] if self.eta else []
        parts += [f"top_p {self.top_p:g}"] if self.top_p else []
        parts += [f"guidance {self.guidance_scale:g}"] if self.guidance_scale else []
        if self.guidance_interval:
            low, high = self.guidance_interval
            parts.append(f"guided from {low:g} to {high:g}")
        if self.reuse_deep_features > 1:
            parts.append(f"deep features every {self.reuse_deep_features}")
        if self.weaker:
            parts.append(f"away from {self.weaker[0]} by {self.weaker[1]:g}")
        parts += [f"seed {self.seed}"] if self.seed else []
        return ", ".join([self.sampler, *parts])


CASES = (
    Case("ddim", 20),
    Case("ddim", 20, seed=1),
    Case("ddim", 20, eta=1.0),
    Case("ddim", 100),
    Case("ddim", 10),
    Case("ddim", 5),
    Case("plms", 20),
    Case("plms", 10),
    Case("plms", 5),
    Case("dpm_solver_pp", 20),
    Case("dpm_solver_pp", 10),
    Case("dpm_solver_pp", 5),
    Case("autoregressive"),
    Case("autoregressive", top_p=0.9),
)


@dataclass(frozen=True)
class DrawnSet:
    """Hold a set and what it took.

    Attributes:
        images: Its samples, in order.
        seconds: CPU seconds of an image, once the head was loaded.
        earlier: Whether an earlier run drew it.
    """

    images: UInt8[np.ndarray, "sample height width 3"]
    seconds: float
    earlier: bool = False


def shipped(head: str) -> str:
    """Name the weights of a shipped head."""
    return f"package://shapes/{head}.safetensors"


def draw_context(source: Source, num_samples: int, seed: int) -> np.ndarray:
    """Look up the neighbors of every sample's pseudo-query."""
    found = source.inputs(source.unconditional(), num_samples, seed)
    return found.conditioning.context.astype(np.float32)


def _job(case: Case, num_samples: int, guidance_scale: float) -> JobSpec:
    """Describe the set of a case as a job."""
    return rdm_batch.load_job(
        {
            "name": "samplers",
            "model": {
                "head": case.head,
                "checkpoint": shipped(case.head),
                "precision": case.arithmetic,
            },
            "database": {"uri": SHAPES_DATABASE},
            "conditioning": {"mode": "unconditional", "k_nn": K_NN},
            "sampling": case.sampling(guidance_scale).model_dump()
            | {"num_samples": num_samples, "seed": case.seed, "batch_size": _BATCH},
            "output": {"uri": "not-written", "shard_size": _BATCH},
        }
    )


def draw_images(
    case: Case, num_samples: int, guidance_scale: float, keep: Path | None = None
) -> DrawnSet:
    """Draw a set as a job does, or take what an earlier run drew and kept.

    Args:
        case: What to draw.
        num_samples: Of the set.
        guidance_scale: Where the case has none of its own.
        keep: Folder of sets that are drawn already, by their jobs; None keeps none.
    """
    job = _job(case, num_samples, guidance_scale)
    if keep is None:
        return _draw(job)
    # Neither makes another set: where nothing is written to, which depends on the folder this runs
    # in, and a field that a later release adds and the job does not state.
    stated = job.model_dump_json(exclude_defaults=True, exclude={"output"})
    name = hashlib.sha256(stated.encode()).hexdigest()[:16]
    path = keep / f"{name}.npz"
    if path.exists():
        with np.load(path) as kept:
            return DrawnSet(kept["images"], float(kept["seconds"]), earlier=True)
    drawn = _draw(job)
    with written_aside(path) as aside, aside.open("wb") as file:
        np.savez(file, images=drawn.images, seconds=drawn.seconds)
    return drawn


def _draw(job: JobSpec) -> DrawnSet:
    batches = rdm_batch.generate(job)
    parts = [next(batches).images]
    begin = time.process_time()
    parts += [batch.images for batch in batches]
    seconds = time.process_time() - begin
    return DrawnSet(np.concatenate(parts), seconds / (job.sampling.num_samples - _BATCH))


def measure_cases(
    cases: Iterable[Case],
    args: argparse.Namespace,
    recorder: Recorder,
    more: Callable[[Case, float], Details] | None = None,
) -> None:
    """Draw, score and record one case after the other; all are compared with a head's first.

    Args:
        cases: What to draw.
        args: See ``parse``.
        recorder: Keeps every case as soon as it is measured.
        more: Gives further details of a case, from its CPU seconds an image.
    """
    num_samples, guidance_scale = args.samples, args.guidance_scale
    extractor = load_extractor(ExtractorSpec(name="shapes-clip"))
    reference = ReferenceStatistics.load(local_path("package://shapes/reference.npz"))
    sets: dict[Case, DrawnSet] = {}
    first: dict[str, tuple[DrawnSet, float, Influences]] = {}
    notes = list(_COLUMNS)
    for case in cases:
        drawn = sets[case] = draw_images(case, num_samples, guidance_scale, args.keep)
        # Samples of another seed are other samples.
        ids = np.arange(num_samples) + case.seed * num_samples
        scores, influences = _judged(drawn.images, ids, extractor, reference)
        of_first = first.setdefault(case.head, (drawn, scores["fid"].value, influences))
        first_set, first_fid, first_influences = of_first
        is_first = drawn is first_set
        difference = np.abs(drawn.images.astype(int) - first_set.images).mean()
        row = Row(
            name=f"{case.describe()}, {case.arithmetic}",
            value=1e3 * drawn.seconds,
            unit="CPU ms/image",
            baseline=None if is_first else 1e3 * first_set.seconds,
            details={name: score.value for name, score in scores.items()}
            | {
                "fid +-": scores["fid"].uncertainty,
                "fid - first": None if is_first else scores["fid"].value - first_fid,
                "fid - first +-": None if is_first else paired_error(first_influences, influences),
                "bytes from first": float(difference),
            }
            | (more(case, drawn.seconds) if more else {}),
        )
        settings = {"samples": num_samples, "guidance_scale": guidance_scale, "k_nn": K_NN}
        if drawn.earlier and _EARLIER not in notes:
            notes.append(_EARLIER)
        recorder.add("sets", [row], settings, notes)
        if args.picture is not None:
            save_picture(sets, args.picture)


def save_picture(sets: Mapping[Case, DrawnSet], path: Path) -> None:
    """Show the first samples of every case in a row, but of other seeds, whose are others.

    Args:
        sets: What was drawn.
        path: PNG file to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {case: drawn.images[:_PICTURED] for case, drawn in sets.items() if case.seed == 0}
    height = next(iter(shown.values())).shape[1]
    grid = np.concatenate([np.concatenate(list(images), axis=1) for images in shown.values()])
    figure = Figure(figsize=(9, 0.05 + 0.375 * len(shown)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.imshow(grid, interpolation="nearest")
    names = [case.describe() for case in shown]
    axes.set_yticks([height * (row + 0.5) for row in range(len(shown))], names, fontsize=7)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_frame_on(False)
    with written_aside(path) as aside:
        figure.savefig(aside, dpi=80, format="png", bbox_inches="tight")


def _judged(
    images: np.ndarray, ids: np.ndarray, extractor: FeatureExtractor, reference: ReferenceStatistics
) -> tuple[dict[str, Score], Influences]:
    """Score a set; give also what each sample does to its FID."""
    layers = [extractor.extract(part) for part in np.array_split(images, 32)]
    features = FeatureSet(
        extractor.description,
        ids,
        {name: np.concatenate([part[name] for part in layers]) for name in layers[0]},
        "benchmark",
    )
    findings = Findings(influences={})
    scores = compute_scores(features, reference, _SCORES, findings=findings)
    assert findings.influences is not None
    return dict(zip(_SCORES, scores, strict=True)), findings.influences["fid"]


def parse(
    document: str | None, argv: list[str] | None, guidance_scale: float = 1.5
) -> argparse.Namespace:
    """Read the options of a benchmark that draws sets, and keep to one thread.

    Args:
        document: Docstring of the benchmark.
        argv: Its arguments; None takes those of the process.
        guidance_scale: Where none is given.

    Returns:
        ``samples``, ``guidance_scale``, ``keep``, ``picture`` and those of every benchmark.
    """
    parser = parser_of(document)
    parser.add_argument("--samples", type=int, default=1024, help="at least 64")
    parser.add_argument("--guidance-scale", type=float, default=guidance_scale)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="of drawn sets: a run that was ended goes on"
    )
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="show the first samples of every case here"
    )
    torch.set_num_threads(1)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, cases: Iterable[Case] = CASES) -> None:
    """Draw and score every case."""
    args = parse(__doc__, argv)
    recorder = Recorder(
        "heads.samplers",
        "Samplers in the shapes world",
        "Sets of the shipped heads on one CPU thread, scored by the shipped extractor and "
        "reference. The second row differs from the first by the seed alone.",
        args.json,
        BASELINE,
    )
    measure_cases(cases, args, recorder)


if __name__ == "__main__":
    run(main)
