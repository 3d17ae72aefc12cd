"""``rdm-batch train``: make the parts of a world."""

from __future__ import annotations

import argparse
from pathlib import Path

from rdm_batch.cli.options import Command


def _add(parser: argparse.ArgumentParser) -> None:
    from rdm_batch.specs.training import TRAININGS

    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, settings in TRAININGS.items():
        one = kinds.add_parser(
            kind,
            help=settings.summary,
            description=f"Train {settings.summary}. Writes weights.safetensors, checkpoint.pt, "
            "pictures and training.json.",
        )
        one.add_argument(
            "--config", type=Path, required=True, metavar="FILE", help="settings, YAML"
        )
        one.add_argument(
            "--out", type=Path, required=True, metavar="FOLDER", help="where everything is written"
        )
        one.add_argument(
            "--resume", action="store_true", help="continue from checkpoint.pt in FOLDER"
        )
        one.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from rdm_batch.training.train import train

    print(train(args.kind, args.config, args.out, args.resume))
    return 0


TRAIN = Command("train", "train an encoder, an autoencoder or a head", _add)
