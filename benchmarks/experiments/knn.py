"""Measure whether KNN-Diffusion's heads of the shapes world do what the method promises.

    python -m benchmarks.experiments.knn --json benchmarks/results/knn.json --pictures docs/pictures

Inputs: both heads as shipped (``--weights FOLDER`` takes others of the same names), encoders,
database and reference. The part ``gap`` needs the twins without neighbors besides, which do not
ship: ``rdm-batch train`` makes them from ``knn_continuous_twin.yaml`` and
``knn_discrete_twin.yaml``, and their weights belong into ``--weights``. The judge of
``benchmarks.experiments.world`` says what pictures show. Every share stands with its standard
error, every FID with that over its samples. Rows are kept one by one, so that a run that was
stopped leaves what it has measured; ``--parts`` and ``--heads`` measure the rest.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from benchmarks.assemble import BATCH, draw, shipped_head
from benchmarks.experiments.cases import Case, World, query_claims
from benchmarks.experiments.judge import Judge, accuracy, kept_judge, train_judge
from benchmarks.experiments.likeness import Scorer
from benchmarks.experiments.world import world_head
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from benchmarks.timing import once
from rdm_batch.heads.head import Head
from rdm_batch.specs.sampling import DdimSampling, MaskReplaceSampling, SamplingSpec
from rdm_batch.training.pictures import save_grid

BACKBONES = ("continuous", "discrete")
PARTS = ("claims", "gap", "k", "fid", "steps", "speed")
GAP_ENCODER = "package://shapes/clip-gap.safetensors"
NUM_NEIGHBORS = 10
K_CURVE = (1, 5, 10, 20, 50)
STEPS = {"continuous": 20, "discrete": 25}
FID_SCALES = (1.0, 2.0)
CODE_STEPS = (100, 50, 25, 10)
_ROUNDS = 3
_PICTURED = 48
# By case: the attribute that has to be right, and how often, of both backbones.
NEEDED = {
    "text": ("shape and color", 0.95, 0.9),
    "class": ("shape", 0.95, 0.9),
    "held-out pairs": ("shape and color", 0.9, 0.8),
    "dotted database": ("style", 0.95, 0.9),
    "dotted database, text": ("style", 0.95, 0.9),
}
LEAST_GAIN = 0.1
"""Of neighbors over the twin, where texts lie apart from pictures."""
MOST_FID = 1.5
"""Of the better of RDM and RARM."""
MOST_FID_IN_TEN = 1.3
"""Of that in a hundred steps."""


class Experiment:
    """Measure heads one after another.

    Args:
        args: What was asked for.
        recorder: Takes what is found.
        judge: Says what pictures show; None trains one when it is needed.
    """

    def __init__(self, args: argparse.Namespace, recorder: Recorder, judge: Judge | None) -> None:
        self.args = args
        self.recorder = recorder
        self._judge = judge
        self.world = World()

    @cached_property
    def judge(self) -> Judge:
        """Says what pictures show."""
        file = self.args.judge
        return self._judge or (train_judge() if file is None else kept_judge(file))

    @cached_property
    def scorer(self) -> Scorer:
        """Scores in the features of the world's encoder."""
        return Scorer(self.world.encoder)

    @cached_property
    def gap_world(self) -> World:
        """The encoder whose texts lie apart from its pictures."""
        return World(GAP_ENCODER)

    @cached_property
    def cases(self) -> dict[str, Case]:
        """Every way of conditioning that the method promises to follow."""
        return query_claims(self.world, self.args.samples, NUM_NEIGHBORS + 1)

    def head(
        self, backbone: str, twin: bool = False, scale: float | None = None, steps: int = 0
    ) -> Head:
        """Build a head as it is measured, with another guidance or number of steps if asked."""
        name = f"knn_{backbone}{'_twin' if twin else ''}"
        weights = self.args.weights
        file = name if weights is None else weights / f"{name}.safetensors"
        return shipped_head(file, self.sampling(backbone, scale, steps))

    def sampling(self, backbone: str, scale: float | None = None, steps: int = 0) -> SamplingSpec:
        """Give the sampler that a backbone is measured with."""
        scale = self.args.guidance if scale is None else scale
        steps = steps or STEPS[backbone]
        if backbone == "continuous":
            return DdimSampling(
                sampler="ddim", num_steps=steps, guidance_scale=scale, num_samples=1
            )
        return MaskReplaceSampling(
            sampler="mask_replace",
            num_steps=steps,
            guidance_scale=scale,
            num_samples=1,
            truncation=self.args.truncation,
            purity=self.args.purity,
            # There is nothing to limit where nothing is guided: samplers refuse it.
            plausibility=self.args.plausibility if scale > 1 else 0.0,
        )

    def add(self, part: str, head: str, row: Row) -> None:
        """Keep and print a row."""
        settings = {
            "samples": self.args.samples,
            "neighbors": NUM_NEIGHBORS,
            "guidance": self.args.guidance,
            "steps": ", ".join(f"{steps} {name}" for name, steps in STEPS.items()),
            "truncation": self.args.truncation,
            "purity": self.args.purity,
            "plausibility": self.args.plausibility,
        }
        name = f"{part}, {head}" if head else part
        self.recorder.add(name, [row], {"part": part, "head": head, **settings})

    def claims(self, backbone: str) -> None:
        """Judge every way of conditioning."""
        head = self.head(backbone)
        for name, case in self.cases.items():
            images = draw(head, case.context)
            found: Details = accuracy(self.judge, images, case.wanted)
            self.add("claims", backbone, claim_row(backbone, name, found, self.args.samples))
            if self.args.pictures is not None:
                file = f"knn-{backbone}-{name.replace(' ', '-').replace(',', '')}.png"
                save_grid(images[:_PICTURED], self.args.pictures / file)

    def gap(self, backbone: str) -> None:
        """Set the twin, given a text alone, beside the head with the text's neighbors."""
        for label, world in (("gap", self.gap_world), ("shipped", self.world)):
            alone = world.texts(self.args.samples, "query", k_nn=1)
            twin = self._following(self.head(backbone, twin=True), alone)
            bare = self._following(self.head(backbone), alone)
            both = world.texts(self.args.samples, "query_and_neighbors", k_nn=NUM_NEIGHBORS + 1)
            following = self._following(self.head(backbone), both)
            n = self.args.samples
            for name, share in (
                ("twin, text alone", twin),
                ("head, text alone", bare),
                ("head, text and neighbors", following),
            ):
                details: Details = {"encoder": label, "error": share_error(share, n)}
                row = Row(
                    name=f"{label}: {name}", value=share, unit="right shape and color",
                    higher_is_better=True, details=details,
                )  # fmt: skip
                self.add("gap", backbone, row)
            error = math.hypot(share_error(twin, n), share_error(following, n))
            gain = Row(
                name=f"{label}: gain of neighbors over the twin",
                value=following - twin,
                unit="right shape and color",
                higher_is_better=True,
                needed=LEAST_GAIN if label == "gap" else None,
                details={"encoder": label, "error": error},
            )
            self.add("gap", backbone, gain)

    def _following(self, head: Head, case: Case) -> float:
        return accuracy(self.judge, draw(head, case.context), case.wanted)["shape and color"]

    def k(self, backbone: str) -> None:
        """Vary the number of neighbors given."""
        head, samples = self.head(backbone), self.args.samples
        for k in K_CURVE:
            case = self.gap_world.texts(samples, "query_and_neighbors", k_nn=k + 1)
            share = self._following(head, case)
            images = draw(head, self.world.unconditional(samples, k_nn=k + 1).context)
            found: Details = {"k": k, "followed": share, "error": share_error(share, samples)}
            self.add("k", backbone, Row(name=f"k {k}", details={**found, **self.scorer(images)}))

    def fid(self) -> None:
        """Score unconditional samples beside those of RDM and RARM."""
        few = self.world.unconditional(self.args.samples).context
        for scale in FID_SCALES:
            better = math.inf
            for kind in ("rdm", "rarm"):
                found: Details = self.scorer(draw(world_head(kind, scale), few))
                better = min(better, float(found["fid"] or 0.0))
                self.add("fid", "", fid_row(f"{kind}, guidance {scale:g}", found, None))
            for backbone in self.args.heads:
                images = draw(self.head(backbone, scale=scale), self.cases["unconditional"].context)
                name = f"knn {backbone}, guidance {scale:g}"
                self.add("fid", "", fid_row(name, self.scorer(images), MOST_FID * better))

    def steps(self) -> None:
        """Set the codes of the discrete head in fewer and fewer steps."""
        most = None
        for steps in CODE_STEPS:
            head = self.head("discrete", steps=steps)
            found: Details = self.scorer(draw(head, self.cases["unconditional"].context))
            needed = None if most is None or steps != CODE_STEPS[-1] else MOST_FID_IN_TEN * most
            self.add("steps", "discrete", fid_row(f"{steps} steps", found, needed))
            most = most or float(found["fid"] or 0.0)

    def speed(self) -> None:
        """Time a batch of every head in turn, several times; the shortest counts."""
        few = self.world.unconditional(BATCH).context
        many = self.world.unconditional(BATCH, k_nn=NUM_NEIGHBORS + 1).context
        heads = dict(self._timed(few, many))
        times: dict[str, list[float]] = {name: [] for name in heads}
        for _ in range(_ROUNDS):
            for name, (head, context) in heads.items():
                seconds, _images = once(lambda head=head, context=context: draw(head, context))
                times[name].append(seconds)
        for name, taken in times.items():
            row = Row(
                name=name, value=BATCH / min(taken), unit="images/s", higher_is_better=True,
                details={"slowest": BATCH / max(taken)},
            )  # fmt: skip
            self.add("speed", "", row)

    def _timed(
        self, few: np.ndarray, many: np.ndarray
    ) -> Iterator[tuple[str, tuple[Head, np.ndarray]]]:
        for kind in ("rdm", "rarm"):
            yield kind, (world_head(kind, self.args.guidance), few)
        for backbone in self.args.heads:
            for steps in (STEPS[backbone],) if backbone == "continuous" else CODE_STEPS:
                name = f"knn {backbone}, {steps} steps"
                yield name, (self.head(backbone, steps=steps), many)


def share_error(share: float, count: int) -> float:
    """Compute the standard error of a share: sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1 - share) / count)


def claim_row(backbone: str, case: str, found: Details, samples: int) -> Row:
    """Set what was found of a way of conditioning beside what is asked, where something is."""
    attribute, *needed = NEEDED.get(case, ("shape and color", None, None))
    share = float(found[attribute] or 0.0)
    return Row(
        name=case,
        value=share,
        unit=f"right {attribute}",
        higher_is_better=True,
        needed=dict(zip(BACKBONES, needed, strict=True))[backbone],
        details={"case": case, "error": share_error(share, samples), **found},
    )


def fid_row(name: str, found: Details, needed: float | None) -> Row:
    """Set an FID beside the most that is asked of it."""
    value = float(found["fid"] or 0.0)
    return Row(name=name, value=value, unit="FID", needed=needed, details=found)


def main(argv: list[str] | None = None, judge: Judge | None = None) -> None:
    """Measure the heads and parts asked for; None trains the judge."""
    parser = parser_of(__doc__)
    parser.add_argument("--samples", type=int, default=1_024, help="pictures of every case")
    parser.add_argument("--heads", nargs="+", default=BACKBONES, choices=BACKBONES)
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--weights", type=Path, help="folder of knn_*.safetensors; None: shipped")
    parser.add_argument("--judge", type=Path, help="file of the judge, made if there is none")
    parser.add_argument("--pictures", type=Path, help="folder for grids of samples")
    parser.add_argument("--guidance", type=float, default=2.0)
    parser.add_argument("--truncation", type=float, default=0.86, help="of the discrete head")
    parser.add_argument("--purity", type=float, help="of the discrete head")
    parser.add_argument("--plausibility", type=float, default=0.0, help="of the discrete head")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    recorder = Recorder(
        "experiments.knn",
        "KNN-Diffusion in the shapes world",
        "A query and its neighbors, each in a role of its own, with both backbones. A judge that "
        "knows neither the encoder nor any head says what pictures show; scores are in the "
        "features of the world's encoder.",
        args.json,
    )
    experiment = Experiment(args, recorder, judge)
    for part in args.parts:
        measure = getattr(experiment, part)
        if part in ("claims", "gap", "k"):
            for backbone in args.heads:
                measure(backbone)
        elif part != "steps" or "discrete" in args.heads:
            measure()


if __name__ == "__main__":
    run(main)
