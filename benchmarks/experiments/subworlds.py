"""Compare heads with and without neighbors as data get more complex, and vary k_train.

    python -m benchmarks.experiments.subworlds --out runs/subworlds \\
        --json benchmarks/results/subworlds.json

Inputs: none but what ships; everything is trained. Two nested parts of the shapes world get a
database of their own and four heads trained on their pictures by the training commands, with the
settings that ship: RDM and LDM, RARM and AR. The third, the whole world, is what ships;
``benchmarks.experiments.world`` scores it in the same way. Then RDM learns the whole world anew,
for fewer steps on fewer pictures, with other numbers of neighbors. No ratios: a head's baseline
is its twin without neighbors, in the next row. A part that is already in the folder is not done
again; an interrupted one is resumed. ``--quick`` learns next to nothing, to try the experiment
itself.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from benchmarks.assemble import K_NN, Source, draw
from benchmarks.experiments.cases import World
from benchmarks.experiments.judge import Judge, accuracy, train_judge
from benchmarks.experiments.likeness import Scorer
from benchmarks.experiments.world import world_head
from benchmarks.recorder import Recorder, parser_of, run
from benchmarks.records import Details, Row
from rdm_batch.inputs.images import open_images
from rdm_batch.retrieval.conditioning import ContextVariant
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.train import train

Settings = dict[str, Any]
# Scores look at three neighbors.
_LEAST_SCORED = 3
# Styles and shapes, nested like dogs, mammals and animals; every color, size and place.
SUBWORLDS = {
    "stars, filled": "filled:star",
    "3 shapes, 2 styles": "filled,outline:star,circle,cross",
}
PAIRS: tuple[tuple[str, str], ...] = (("rdm", "ldm"), ("rarm", "ar"))
K_TRAIN = (1, 2, 4, 8)
GUIDANCE = 2.0


@dataclass(frozen=True)
class Sizes:
    """How much is learned from, and for how long.

    Attributes:
        training: Pictures to train on.
        database: Pictures to retrieve from.
        reference: Pictures that scores compare with.
        optimization: Changes of the training that ships.
    """

    training: int
    database: int
    reference: int
    optimization: dict[str, float]


SHIPPED = Sizes(50_000, 8_192, 4_096, {})
# With these, a head follows texts well enough to tell numbers of neighbors apart.
SHORTER = Sizes(20_000, 4_096, 0, {"num_steps": 2_500, "ema_decay": 0.998})
QUICK = Sizes(512, 256, 128, {"num_steps": 4, "warmup_steps": 1, "batch_size": 4})


class Subworlds:
    """Train and score heads below one folder.

    Args:
        out: The folder.
        samples: Pictures of every head.
        recorder: Takes what is found.
        quick: Whether to learn next to nothing.
        judge: Says what pictures show; None trains one when it is needed.
    """

    def __init__(
        self, out: Path, samples: int, recorder: Recorder, quick: bool, judge: Judge | None
    ) -> None:
        self.out = out
        self.samples = samples
        self.recorder = recorder
        self.quick = quick
        self.world = World()
        self._judge = judge

    @cached_property
    def judge(self) -> Judge:
        """The judge of what a picture shows."""
        return self._judge or train_judge()

    def _sizes(self, usual: Sizes) -> Sizes:
        return QUICK if self.quick else usual

    def _add(self, names: Sequence[str | int], details: Details, sizes: Sizes) -> None:
        part, *which = names
        head = {"part": part, "quick": self.quick, "samples": self.samples}
        name = ", ".join(map(str, [*names, "quick"] if self.quick else names))
        row = Row(name=" ".join(map(str, which)), details=details)
        self.recorder.add(name, [row], head | asdict(sizes))

    def compare(self, name: str, kind: str) -> None:
        """Train a head on a part of the world; score its unconditional samples."""
        part, sizes = SUBWORLDS[name], self._sizes(SHIPPED)
        folder = self.out / name.replace(", ", "-").replace(" ", "-")
        database = _database(folder / "database", part, sizes)
        changes: Settings = {"images": f"shapes:train:{sizes.training}:{part}"}
        if kind in ("rdm", "rarm"):
            changes["database"] = str(database)
        weights = _train(kind, folder / kind, changes, sizes)
        source = Source(database)
        found = source.inputs(source.unconditional(), self.samples)
        images = draw(world_head(weights, 1.0), found.conditioning.context)
        pictures, _ = open_images(f"shapes:reference:{sizes.reference}:{part}")
        real = [pictures[index].image for index in range(len(pictures))]
        scorer = Scorer(self.world.encoder, self.world.encoder.encode_images(real))
        details: Details = {"world": name, "head": kind, **scorer(images)}
        # Other styles and shapes than this world has: such errors cost more FID in a small
        # world than in the whole one, which has them all.
        styles, shapes = (names.split(",") for names in part.split(":"))
        shown = self.judge.attributes(images)
        inside = np.array([fact["style"] in styles and fact["shape"] in shapes for fact in shown])
        details["outside"] = 1 - float(inside.mean())
        if inside.sum() > _LEAST_SCORED:
            details["fid inside"] = scorer(images[inside])["fid"]
        self._add(["complexity", name, kind], details, sizes)

    def follow_texts(self, k_train: int) -> None:
        """Train RDM with some number of neighbors; judge how it follows texts."""
        part, sizes = "all", self._sizes(SHORTER)
        changes: Settings = {
            "images": f"shapes:train:{sizes.training}:{part}",
            "database": str(_database(self.out / "k-train-database", part, sizes)),
            "k_train": k_train,
        }
        weights = _train("rdm", self.out / f"k-train-{k_train}", changes, sizes)
        details: Details = {"k_train": k_train}
        variants: tuple[ContextVariant, ...] = ("query", "neighbors")
        for variant in variants:
            case = self.world.texts(self.samples, variant, k_nn=k_train)
            images = draw(world_head(weights, GUIDANCE), case.context)
            details[variant] = accuracy(self.judge, images, case.wanted)["shape and color"]
        self._add(["k_train", k_train], details, sizes)


def _database(root: Path, part: str, sizes: Sizes) -> Path:
    if not (root / "database.json").exists():
        command = [sys.executable, "-m", "rdm_batch.cli", "database", "build"]
        command += ["--images", f"shapes:database:{sizes.database}:{part}"]
        command += ["--encoder", "shapes-clip", "--shards", "1", "--thumbnail-size", "32"]
        command += ["--proposal-from", f"shapes:train:{sizes.training}:{part}"]
        command += ["--proposal-k", str(K_NN), "--out", str(root)]
        subprocess.run(command, check=True)
    return root


def _train(kind: str, out: Path, changes: Settings, sizes: Sizes) -> Path:
    weights = out / "weights.safetensors"
    if not weights.exists():
        settings = yaml.safe_load(
            (local_path("package://shapes/configs") / f"{kind}.yaml").read_text()
        )
        settings |= {"autoencoder": "package://shapes/rdm.safetensors"} | changes
        settings["optimization"] |= sizes.optimization
        out.mkdir(parents=True, exist_ok=True)
        config = out / "config.yaml"
        config.write_text(yaml.safe_dump(settings))
        train(kind, config, out, resume=(out / "checkpoint.pt").exists())
    return weights


def main(argv: list[str] | None = None, judge: Judge | None = None) -> None:
    """Train and score what is asked for; None trains the judge, too."""
    parser = parser_of(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of databases and heads")
    parser.add_argument("--samples", type=int, default=1_024, help="pictures of every head")
    parser.add_argument("--heads", nargs="+", default=["rdm", "ldm", "rarm", "ar"])
    parser.add_argument("--worlds", nargs="*", default=list(SUBWORLDS), choices=list(SUBWORLDS))
    parser.add_argument("--k-train", type=int, nargs="*", default=list(K_TRAIN))
    parser.add_argument("--quick", action="store_true", help="learn next to nothing")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    recorder = Recorder(
        "experiments.subworlds",
        "Parts of the shapes world",
        "Heads with and without neighbors trained on nested parts of the world; RDM with other "
        "numbers of neighbors, following texts.",
        args.json,
    )
    experiment = Subworlds(args.out, args.samples, recorder, args.quick, judge)
    for name in args.worlds:
        for kind in (kind for pair in PAIRS for kind in pair if kind in args.heads):
            experiment.compare(name, kind)
    for k_train in args.k_train:
        experiment.follow_texts(k_train)


if __name__ == "__main__":
    run(main)
