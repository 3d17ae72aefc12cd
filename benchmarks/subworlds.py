"""Compare heads with and without neighbors as data get more complex, and vary k_train.

    python -m benchmarks.subworlds --out runs/subworlds --json benchmarks/results/subworlds.json

Two nested parts of the shapes world get a database of their own and four heads trained on
their pictures by the training commands, with the settings that ship: RDM and LDM, RARM and
AR. The third, the whole world, is what ships; ``benchmarks.world`` scores it in the same way.
Then RDM learns the whole world anew, for fewer steps on fewer pictures, with other numbers of
neighbors. A part that is already in the folder is not done again; an interrupted one is
resumed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import yaml

from benchmarks.world import generate, shipped_head
from benchmarks.world_cases import K_NN, World
from benchmarks.world_judge import Judge, accuracy, train_judge
from benchmarks.world_rows import Row, write_rows
from benchmarks.world_scores import Scorer
from rdm_batch.generation.modes.unconditional import UnconditionalConditioner
from rdm_batch.inputs.databases import Database
from rdm_batch.inputs.images import open_images
from rdm_batch.retrieval.conditioning import ContextVariant
from rdm_batch.retrieval.local import open_database
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.storage.object_store import local_path
from rdm_batch.training.train import train

# Styles and shapes, nested like dogs, mammals and animals; every color, size and place.
SUBWORLDS = {
    "stars, filled": "filled:star",
    "3 shapes, 2 styles": "filled,outline:star,circle,cross",
}
PAIRS: tuple[tuple[str, str], ...] = (("rdm", "ldm"), ("rarm", "ar"))
K_TRAIN = (1, 2, 4, 8)
NUM_TRAINING, NUM_DATABASE, NUM_REFERENCE = 50_000, 8_192, 4_096  # as what ships
# With these, a head follows texts well enough to tell numbers of neighbors apart.
K_TRAIN_STEPS, K_TRAIN_PICTURES, K_TRAIN_DATABASE = 2_500, 20_000, 4_096


class Subworlds:
    """Train and score heads below one folder."""

    def __init__(self, out: Path, samples: int) -> None:
        self.out = out
        self.samples = samples
        self.world = World()

    @cached_property
    def judge(self) -> Judge:
        """The judge of what a picture shows."""
        return train_judge()

    def compare(self, name: str, kind: str) -> Row:
        """Train a head on a part of the world; score its unconditional samples."""
        part = SUBWORLDS[name]
        folder = self.out / name.replace(", ", "-").replace(" ", "-")
        database = _database(folder / "database", part, NUM_DATABASE, NUM_TRAINING)
        changes: Row = {"images": f"shapes:train:{NUM_TRAINING}:{part}"}
        if kind in ("rdm", "rarm"):
            changes["database"] = str(database)
        weights = _train(kind, folder / kind, changes)
        proposal = Database.open(str(database)).proposal()
        assert proposal is not None
        conditioner = UnconditionalConditioner(proposal, K_NN, "proposal")
        noise = SampleNoise(0, np.arange(self.samples))
        context = conditioner(noise, open_database(database)).conditioning.context
        images = generate(shipped_head(kind, 1.0, weights), context)
        pictures, _ = open_images(f"shapes:reference:{NUM_REFERENCE}:{part}")
        real = [pictures[index].image for index in range(len(pictures))]
        scorer = Scorer(self.world.encoder, self.world.encoder.encode_images(real))
        row: Row = {"part": "complexity", "world": name, "head": kind, **scorer(images)}
        # Other styles and shapes than this world has: such errors cost more FID in a small
        # world than in the whole one, which has them all.
        styles, shapes = (names.split(",") for names in part.split(":"))
        shown = self.judge.attributes(images)
        inside = np.array([fact["style"] in styles and fact["shape"] in shapes for fact in shown])
        row["outside"] = 1 - float(inside.mean())
        return row | {"fid inside": scorer(images[inside])["fid"]}

    def follow_texts(self, k_train: int) -> Row:
        """Train RDM with some number of neighbors; judge how it follows texts."""
        part = "all"
        root = self.out / "k-train-database"
        changes = {
            "images": f"shapes:train:{K_TRAIN_PICTURES}:{part}",
            "database": str(_database(root, part, K_TRAIN_DATABASE, K_TRAIN_PICTURES)),
            "k_train": k_train,
        }
        shorter = {"num_steps": K_TRAIN_STEPS, "ema_decay": 0.998}
        weights = _train("rdm", self.out / f"k-train-{k_train}", changes, shorter)
        row: Row = {"part": "k_train", "k_train": k_train, "steps": K_TRAIN_STEPS}
        variants: tuple[ContextVariant, ...] = ("query", "neighbors")
        for variant in variants:
            case = self.world.texts(self.samples, variant, k_nn=k_train)
            images = generate(shipped_head("rdm", 2.0, weights), case.context)
            row[variant] = accuracy(self.judge, images, case.wanted)["shape and color"]
        return row


def _database(root: Path, part: str, num_pictures: int, num_training: int) -> Path:
    if not (root / "database.json").exists():
        command = [sys.executable, "-m", "rdm_batch.cli", "database", "build"]
        command += ["--images", f"shapes:database:{num_pictures}:{part}"]
        command += ["--encoder", "shapes-clip", "--shards", "1", "--thumbnail-size", "32"]
        command += ["--proposal-from", f"shapes:train:{num_training}:{part}"]
        command += ["--proposal-k", str(K_NN), "--out", str(root)]
        subprocess.run(command, check=True)
    return root


def _train(kind: str, out: Path, changes: Row, optimization: Row | None = None) -> Path:
    weights = out / "weights.safetensors"
    if not weights.exists():
        settings = yaml.safe_load(
            (local_path("package://shapes/configs") / f"{kind}.yaml").read_text()
        )
        settings |= {"autoencoder": "package://shapes/rdm.safetensors"} | changes
        settings["optimization"] |= optimization or {}
        out.mkdir(parents=True, exist_ok=True)
        config = out / "config.yaml"
        config.write_text(yaml.safe_dump(settings))
        train(kind, config, out, resume=(out / "checkpoint.pt").exists())
    return weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of databases and heads")
    parser.add_argument("--samples", type=int, default=1_024, help="pictures of every head")
    parser.add_argument("--heads", nargs="+", default=["rdm", "ldm", "rarm", "ar"])
    parser.add_argument("--worlds", nargs="*", default=list(SUBWORLDS), choices=list(SUBWORLDS))
    parser.add_argument("--k-train", type=int, nargs="*", default=list(K_TRAIN))
    parser.add_argument("--json", type=Path, help="file for the numbers")
    args = parser.parse_args()

    torch.set_num_threads(1)
    bench = Subworlds(args.out, args.samples)

    def add(row: Row) -> None:
        print(row, flush=True)
        if args.json is not None:
            write_rows(args.json, {"samples": args.samples}, [row])

    for name in args.worlds:
        for kind in (kind for pair in PAIRS for kind in pair if kind in args.heads):
            add(bench.compare(name, kind))
    for k_train in args.k_train:
        add(bench.follow_texts(k_train))


if __name__ == "__main__":
    main()
