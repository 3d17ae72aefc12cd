"""``rdm-batch train``: make the parts of a world."""

from __future__ import annotations

import argparse
import inspect
from pathlib import Path
from typing import get_args

from rdm_batch.cli.options import Command


def _kinds() -> dict[str, str]:
    """Say what each kind trains, in the words of its settings."""
    from rdm_batch.specs.training import TrainingSpec

    settings = get_args(get_args(TrainingSpec)[0])
    return {
        get_args(one.model_fields["train"].annotation)[0]: inspect.cleandoc(one.__doc__)
        for one in settings
    }


def _add(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, summary in _kinds().items():
        one = kinds.add_parser(
            kind,
            help=summary.removeprefix("Train ").rstrip("."),
            description=f"{summary} Writes weights.safetensors, checkpoint.pt, pictures and "
            "training.json.",
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
    from rdm_batch.pipelines.train import train

    print(train(args.kind, args.config, args.out, args.resume))
    return 0


TRAIN = Command("train", "train an encoder, an autoencoder or a head", _add)
