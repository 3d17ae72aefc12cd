"""Measure whether edits by a text change what is asked for and nothing else.

    python -m benchmarks.experiments.edits --head runs/knn_edit/weights.safetensors \
        --json benchmarks/results/edits.json --pictures docs/pictures

Inputs: a head that ``rdm-batch train knn_edit`` made, the KNN-Diffusion head over latents that
ships, encoder and database. Each picture of ``held_out`` is asked for with another color, another
style or another shape in turn, by the text that names all three ("a dotted red star"). The judge of
``benchmarks.experiments.world`` says what the edit shows: whether it has what was asked for, and
whether every other attribute (size, position and background too) is what it was. Compared with
drawing the text anew, and with SDEdit at three strengths by the same head. All see the same texts,
neighbors and noise. Every share stands with its standard error, of the pictures.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.assemble import BATCH, shipped_networks
from benchmarks.experiments.cases import Facts, World
from benchmarks.experiments.judge import NAMES, Judge, kept_judge, train_judge
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.datasets.shapes import COLORS, SHAPES, STYLES, ShapesSource, describe
from rdm_batch.generation.modes.queried import ContextOf, Turn
from rdm_batch.generation.modes.text import TextConditioner
from rdm_batch.heads.build import build_head_around
from rdm_batch.heads.rdm import RdmHead
from rdm_batch.metrics.edits import outside_distances
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.edits import EditSpec, SdeditSpec, TrainedEditSpec
from rdm_batch.specs.sampling import DdimSampling
from rdm_batch.training.pictures import save_grid

ASKED = {"color": tuple(COLORS), "style": STYLES, "shape": SHAPES}
"""What is asked for in turn, and its values."""
NEEDED = {"color": 0.8, "style": 0.8, "shape": 0.6}
STRENGTHS = (0.3, 0.5, 0.7)
SHIPPED = "package://shapes/knn_continuous.safetensors"
NUM_NEIGHBORS = 10
_SAID = 6  # number of the caption "a dotted red star"
_PICTURED = 16


@dataclass(frozen=True)
class Asked:
    """Hold the edits that are asked for.

    Attributes:
        sources: Pictures.
        kinds: Which attribute of each is to change.
        wanted: What each edit should show, all attributes of it.
        texts: The instructions.
    """

    sources: np.ndarray
    kinds: list[str]
    wanted: Facts
    texts: tuple[str, ...]


def ask(count: int) -> Asked:
    """Ask for another value of one attribute of every picture."""
    source = ShapesSource("held_out", count)
    random = np.random.default_rng(0)
    images, kinds, wanted = [], [], []
    for number in range(count):
        item = source[number]
        kind = list(ASKED)[number % len(ASKED)]
        others = [value for value in ASKED[kind] if value != item.attributes[kind]]
        images.append(item.image)
        kinds.append(kind)
        wanted.append({**item.attributes, kind: others[int(random.integers(len(others)))]})
    texts = tuple(describe(facts, _SAID) for facts in wanted)
    return Asked(np.stack(images), kinds, wanted, texts)


def edit(
    checkpoint: str | Path, way: EditSpec | None, guidance: float, steps: int, context: np.ndarray,
    sources: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Edit pictures, or with no way to edit draw from their contexts anew."""
    sampling = DdimSampling(sampler="ddim", num_steps=steps, guidance_scale=guidance, num_samples=1)
    head = build_head_around(shipped_networks(checkpoint), sampling, edit=way)
    assert isinstance(head, RdmHead)
    parts = []
    for start in range(0, len(context), BATCH):
        part, given = context[start : start + BATCH], sources[start : start + BATCH]
        noise = SampleNoise(0, np.arange(start, start + len(part)))
        begun = head.start(part, noise) if way is None else head.start_edit(part, given, noise)
        parts.append(begun.collect())
    return np.concatenate(parts)


def found_rows(judge: Judge, asked: Asked, images: np.ndarray, name: str) -> list[Row]:
    """Give for each attribute the share of edits that have it and keep the rest."""
    seen = judge.attributes(images)
    outside = outside_distances(images, asked.sources)
    rows = []
    for kind in ASKED:
        here = [number for number, other in enumerate(asked.kinds) if other == kind]
        right = np.array([seen[at][kind] == asked.wanted[at][kind] for at in here])
        same = {
            other: np.array([seen[at][other] == asked.wanted[at][other] for at in here])
            for other in NAMES
            if other != kind
        }
        kept = np.logical_and.reduce(list(same.values()))
        both = float((right & kept).mean())
        details: Details = {
            "error": share_error(both, len(here)),
            "asked right": float(right.mean()),
            "all others kept": float(kept.mean()),
            **{f"{other} kept": float(values.mean()) for other, values in same.items()},
            "pixel distance outside": float(outside[here].mean()),
            "edits": len(here),
        }
        rows.append(
            Row(
                name=f"{kind}: {name}",
                value=both,
                unit="asked right and all others kept",
                higher_is_better=True,
                needed=NEEDED[kind] if "trained" in name else None,
                details=details,
            )
        )
    return rows


def share_error(share: float, count: int) -> float:
    """Give the binomial standard error of a share."""
    return float(np.sqrt(share * (1 - share) / count))


def measure(args: argparse.Namespace, recorder: Recorder, judge: Judge) -> None:
    """Measure every way of editing, and keep the rows of each at once."""
    asked, world = ask(args.samples), World()
    conditioner = TextConditioner(
        asked.texts,
        world.encoder.encode_texts(list(asked.texts)),
        Turn(len(asked.texts)),
        ContextOf(NUM_NEIGHBORS + 1, "query_and_neighbors"),
    )
    context = world.source.inputs(conditioner, args.samples).conditioning.context
    settings: Details = {"pictures": args.samples, "steps": args.steps}
    for guidance in args.guidance:
        ways: dict[str, tuple[str | Path, EditSpec | None]] = {
            "trained": (args.head, TrainedEditSpec(method="trained")),
            "drawn anew": (SHIPPED, None),
        }
        for strength in STRENGTHS:
            noised = SdeditSpec(method="sdedit", strength=strength)
            ways[f"SDEdit {strength:g}"] = (SHIPPED, noised)
        for name, (checkpoint, way) in ways.items():
            images = edit(checkpoint, way, guidance, args.steps, context, asked.sources)
            part = f"{name}, guidance {guidance:g}"
            found = found_rows(judge, asked, images, part)
            recorder.add(part, found, {"guidance": guidance, **settings})
            if args.pictures is not None:
                pairs = np.concatenate([asked.sources[:_PICTURED], images[:_PICTURED]])
                file = f"edits-{name.replace(' ', '-').lower()}-{guidance:g}.png"
                save_grid(pairs, args.pictures / file)


def main(argv: list[str] | None = None, judge: Judge | None = None) -> None:
    """Measure a head beside the other ways; None trains the judge, or reads it from a file."""
    parser = parser_of(__doc__)
    parser.add_argument("--head", type=Path, required=True, help="weights of `train knn_edit`")
    parser.add_argument("--samples", type=int, default=1_024, help="pictures")
    parser.add_argument("--steps", type=int, default=20, help="DDIM steps of all of the process")
    parser.add_argument("--guidance", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--judge", type=Path, help="file of the judge, made if there is none")
    parser.add_argument("--pictures", type=Path, help="folder for grids, sources above edits")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    recorder = Recorder(
        "experiments.edits",
        "Edits of the shapes world's pictures by a text",
        "Pictures that no training set and no database holds, each asked for with another color, "
        "style or shape. A judge that knows neither the encoder nor any head says what edits show.",
        args.json,
    )
    if judge is None:
        judge = train_judge() if args.judge is None else kept_judge(args.judge)
    measure(args, recorder, judge)


if __name__ == "__main__":
    run(main)
