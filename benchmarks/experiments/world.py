"""Measure whether the shipped heads of the shapes world do what the method promises.

    python -m benchmarks.experiments.world --json benchmarks/results/world.json \\
        --pictures docs/pictures

Inputs: the shipped heads, encoder, database and reference. A judge is trained first, a classifier
of rendered pixels (see ``judge``); its own accuracy on unseen renderings is the first line. It
judges every way of conditioning. Then follow the trade of quality against diversity by top-m and
guidance, how near samples come to what they were made from, and the same head without neighbors.
No ratios; what a claim needs stands beside it. ``benchmarks.experiments.curves`` draws the file.
"""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.assemble import K_NN, draw, shipped_head, shipped_networks
from benchmarks.experiments.cases import Case, World, claims
from benchmarks.experiments.judge import Judge, accuracy, judge_accuracy, train_judge
from benchmarks.experiments.likeness import Scorer, measure_copying
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.heads.head import Head
from rdm_batch.specs.sampling import AutoregressiveSampling, DdimSampling, SamplingSpec
from rdm_batch.training.pictures import save_grid

NUM_STEPS = 20
GUIDANCE = 2.0
TOP_M = (1.0, 0.1, 0.01)
SCALES = (1.0, 1.5, 2.0, 3.0, 5.0)
PARTS = ("claims", "sweeps", "parametric")
PARAMETRIC = {"rdm": "ldm", "rarm": "ar"}
_PICTURED = 48
# By case: the attribute that has to be right, and how often, of RDM and of RARM.
NEEDED = {
    "class": ("shape", 0.95, 0.85),
    "text, direct": ("shape and color", 0.85, 0.7),
    "text + neighbors": ("shape and color", 0.85, 0.7),
    "neighbors of text": ("shape and color", 0.85, 0.7),
    "held-out pairs": ("shape and color", 0.8, 0.6),
    "dotted database": ("style", 0.9, 0.8),
}


def world_head(kind: str | Path, guidance_scale: float) -> Head:
    """Build a shipped head by its kind, or one from its file, with this world's usual sampler."""
    sampling: SamplingSpec
    if shipped_networks(kind).architecture.kind == "rdm":
        sampling = DdimSampling(
            sampler="ddim", num_steps=NUM_STEPS, guidance_scale=guidance_scale, num_samples=1
        )
    else:
        sampling = AutoregressiveSampling(
            sampler="autoregressive", guidance_scale=guidance_scale, num_samples=1
        )
    return shipped_head(kind, sampling)


class Experiment:
    """Judge and score the heads one after another.

    Args:
        samples: Pictures of every case.
        recorder: Takes what is found.
        judge: Says what pictures show.
        pictures: Folder for grids of samples; None makes none.
    """

    def __init__(
        self, samples: int, recorder: Recorder, judge: Judge, pictures: Path | None
    ) -> None:
        self.samples = samples
        self.pictures = pictures
        self.recorder = recorder
        self.judge = judge
        self.world = World()
        self.scorer = Scorer(self.world.encoder)
        self.cases: dict[str, Case] = claims(self.world, samples)

    def add(self, part: str, head: str, row: Row, **settings: float) -> None:
        """Keep and print a result."""
        settings |= {"samples": self.samples, "k_nn": K_NN, "num_steps": NUM_STEPS}
        name = f"{part}, {head}" if head else part
        self.recorder.add(name, [row], {"part": part, "head": head, **settings})

    def claims(self, kind: str, head: Head) -> None:
        """Judge every way of conditioning."""
        for name, case in self.cases.items():
            images = draw(head, case.context)
            found = accuracy(self.judge, images, case.wanted)
            self.add("claims", kind, claim_row(kind, name, found), guidance=GUIDANCE)
            if self.pictures is not None:
                file = f"{kind}-{name.replace(' ', '-').replace(',', '').replace('+', 'and')}.png"
                save_grid(images[:_PICTURED], self.pictures / file)
            if name == "unconditional":
                assert case.neighbor_ids is not None
                for one in measure_copying(self.world, images, case.neighbor_ids):
                    row = Row(name=str(one["case"]), details=one)
                    self.add("copying", kind, row, guidance=GUIDANCE)

    def parametric(self, kind: str) -> None:
        """Score a head and its twin without neighbors, without guidance."""
        for name in (kind, PARAMETRIC[kind]):
            images = draw(world_head(name, 1.0), self.cases["unconditional"].context)
            self.add("parametric", name, Row(name=name, details=self.scorer(images)), guidance=1.0)

    def sweeps(self, kind: str) -> None:
        """Vary top-m, then guidance, of unconditional samples."""
        for top_m in TOP_M:
            case = self.world.unconditional(self.samples, top_m)
            found: Details = self.scorer(draw(world_head(kind, GUIDANCE), case.context))
            row = Row(name=f"top_m {top_m:g}", details={"top_m": top_m, **found})
            self.add("top_m", kind, row, guidance=GUIDANCE)
        case = self.cases["unconditional"]
        for scale in SCALES:
            images = draw(world_head(kind, scale), case.context)
            followed = accuracy(self.judge, images, case.wanted)["shape and color"]
            found = {"guidance": scale, **self.scorer(images), "shape and color": followed}
            self.add("guidance", kind, Row(name=f"guidance {scale:g}", details=found))


def claim_row(kind: str, case: str, found: Details) -> Row:
    """Set what was found of a way of conditioning beside what is asked, where something is."""
    attribute, *needed = NEEDED.get(case, ("", 0.0, 0.0))
    if not attribute:
        return Row(name=case, details={"case": case, **found})
    return Row(
        name=case,
        value=found[attribute],
        unit=f"right {attribute}",
        higher_is_better=True,
        needed=dict(zip(PARAMETRIC, needed, strict=True))[kind],
        details={"case": case, **found},
    )


def main(argv: list[str] | None = None, judge: Judge | None = None) -> None:
    """Measure the heads and parts asked for; None trains the judge."""
    parser = parser_of(__doc__)
    parser.add_argument("--samples", type=int, default=1_024, help="pictures of every case")
    parser.add_argument("--heads", nargs="+", default=["rdm", "rarm"], choices=["rdm", "rarm"])
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--pictures", type=Path, help="folder for grids of samples")
    parser.add_argument("--checkpoint", help="another head of the kind named, for the claims")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    recorder = Recorder(
        "experiments.world",
        "The shapes world, measured",
        "What the shipped heads follow, says a judge that knows neither the encoder nor any head; "
        "scores are in the features of the world's encoder.",
        args.json,
    )
    judge = judge or train_judge()
    experiment = Experiment(args.samples, recorder, judge, args.pictures)
    alone: Details = {"case": "renderings", **judge_accuracy(judge)}
    experiment.add("judge", "", Row(name="renderings", details=alone))
    for kind in args.heads:
        if "claims" in args.parts:
            experiment.claims(kind, world_head(args.checkpoint or kind, GUIDANCE))
        if "sweeps" in args.parts:
            experiment.sweeps(kind)
        if "parametric" in args.parts:
            experiment.parametric(kind)


if __name__ == "__main__":
    run(main)
