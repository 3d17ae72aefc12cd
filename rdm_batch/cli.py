"""Entry point of the ``rdm-batch`` command: parse, call, print.

Each subcommand has one ``_add_*`` function that declares its arguments and names the
function to call. What a command does lives in ``pipelines``; imports are made when a
command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from rdm_batch import __version__
from rdm_batch.cli_database import Commands, add_database
from rdm_batch.errors import RdmBatchError, SpecError

if TYPE_CHECKING:
    from rdm_batch.models.checkpoint import CheckpointInfo
    from rdm_batch.specs.job import ExtractorSpec

T = TypeVar("T")


def build_parser() -> argparse.ArgumentParser:
    """Build the argument parser with every subcommand."""
    parser = argparse.ArgumentParser(prog="rdm-batch", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"rdm-batch {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_report(commands)
    add_database(commands)
    _add_train(commands)
    _add_evaluate(commands)
    _add_reference(commands)
    _add_checkpoint(commands)
    _add_export(commands)
    return parser


def _add_report(commands: Commands) -> None:
    parser = commands.add_parser(
        "report",
        help="show a finished job again, or two side by side",
        description="Print the summary of a finished job and write its page again, from saved "
        "results alone. With two jobs, or two files of `rdm-batch evaluate --json`, print them "
        "side by side and say what keeps them from being compared.",
    )
    parser.add_argument("uri", metavar="URI", help="output location of a job, or a report.json")
    parser.add_argument("other", metavar="OTHER", nargs="?", help="the run to compare with URI")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write the page here (default: beside the samples)"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.05,
        metavar="FRACTION",
        help="difference between two runs that counts as noise (default: 0.05)",
    )
    parser.add_argument(
        "--fail-on-worse",
        action="store_true",
        help="exit with status 2 when a figure of OTHER is worse than that of URI",
    )
    parser.set_defaults(run=_run_report)


def _run_report(args: argparse.Namespace) -> int:
    from rdm_batch.reports.command import show_comparison, show_report

    if args.other is None:
        show_report(args.uri, args.out)
        return 0
    worse = show_comparison(args.uri, args.other, args.tolerance)
    return 2 if worse and args.fail_on_worse else 0


def _add_train(commands: Commands) -> None:
    train = commands.add_parser("train", help="train an encoder, an autoencoder or a head")
    kinds = train.add_subparsers(dest="kind", required=True, metavar="KIND")
    for kind, summary in (
        ("clip", "the image and text encoder"),
        ("autoencoder", "the autoencoder under a head"),
        ("rdm", "a retrieval-augmented diffusion head"),
        ("rarm", "a retrieval-augmented autoregressive head"),
        ("ldm", "the diffusion head without neighbors, a baseline"),
        ("ar", "the autoregressive head without neighbors, a baseline"),
    ):
        parser = kinds.add_parser(
            kind,
            help=summary,
            description=f"Train {summary}. Writes weights.safetensors, checkpoint.pt, pictures "
            "and training.json.",
        )
        parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="YAML")
        parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
        parser.add_argument(
            "--resume", action="store_true", help="continue from checkpoint.pt in FOLDER"
        )
        parser.set_defaults(run=_run_train)


def _run_train(args: argparse.Namespace) -> int:
    from rdm_batch.pipelines.train import train

    print(train(args.kind, args.config, args.out, args.resume))
    return 0


def _add_reference(commands: Commands) -> None:
    reference = commands.add_parser("reference", help="build what sample sets are judged against")
    kinds = reference.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = kinds.add_parser(
        "build", help="extract and store the features and moments of reference images"
    )
    build.add_argument(
        "images",
        metavar="IMAGES",
        help="sample set, folder or parquet of images, ADM .npz, or shapes:SUBSET[:COUNT]",
    )
    build.add_argument("--out", required=True, metavar="URI", help="the .npz to write")
    _add_extractor(build)
    build.set_defaults(run=_run_reference_build)


def _run_reference_build(args: argparse.Namespace) -> int:
    from rdm_batch.pipelines.evaluation_commands import build_reference

    reference = build_reference(args.images, args.out, _extractor(args), args.address)
    print(f"{args.out}: {reference.source}, {reference.extractor.name}, {reference.digest[:12]}")
    return 0


def _add_extractor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--extractor",
        default="shapes-clip",
        metavar="NAME",
        help="network whose features are compared: shapes-clip (default), inception-v3-compat, "
        "vgg16, dinov2-vit-{s,b,l,g}-14, or an open_clip architecture",
    )
    parser.add_argument("--extractor-weights", metavar="URI", help="not for shapes-clip")
    parser.add_argument(
        "--resize",
        choices=["tensorflow-bilinear", "clean-bicubic"],
        help="how images get to the size Inception, VGG16 and DINOv2 see "
        "(default: tensorflow-bilinear)",
    )
    parser.add_argument(
        "--address",
        help="Ray to use: local, auto or an address (default: local where the work is worth it)",
    )


def _extractor(args: argparse.Namespace) -> ExtractorSpec:
    from rdm_batch.specs.job import ExtractorSpec

    return _checked(
        lambda: ExtractorSpec(
            name=args.extractor, weights=args.extractor_weights, resize=args.resize
        )
    )


def _checked(build: Callable[[], T]) -> T:
    """Build a spec from arguments; what is wrong with them is one line, without the value."""
    from pydantic import ValidationError

    try:
        return build()
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        where = f"--{'.'.join(map(str, first['loc']))}"
        raise SpecError(where, first["msg"].removeprefix("Value error, ")) from None


def _add_evaluate(commands: Commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score images against a reference",
        description="Compute scores of images. SAMPLES and REF are each a sample set, a folder or "
        "parquet of images, an ADM .npz, shapes:SUBSET[:COUNT], or what `rdm-batch reference "
        "build` made. Features are computed once and kept.",
    )
    parser.add_argument("samples", metavar="SAMPLES", help="images to score, path or s3://")
    parser.add_argument("--reference", required=True, metavar="REF", help="what to score against")
    parser.add_argument(
        "--scores",
        nargs="+",
        default=["fid", "precision", "recall"],
        metavar="SCORE",
        help="fid, sfid, kid, is, precision, recall, density, coverage, clip_fid, clip_score, "
        "novelty_neighbors, novelty_database, novelty_held_out (default: fid precision recall)",
    )
    _add_extractor(parser)
    parser.add_argument("--database", metavar="URI", help="for novelty: where neighbors came from")
    parser.add_argument(
        "--held-out",
        metavar="REF",
        help="images for novelty_held_out that the database does not hold (default: --reference)",
    )
    parser.add_argument(
        "--encoder",
        metavar="NAME",
        help="image-text encoder of clip_fid, clip_score and novelty (default: the extractor)",
    )
    parser.add_argument("--encoder-weights", metavar="URI", help="not for shapes-clip")
    parser.add_argument("--k", type=int, default=3, help="neighborhood of precision and recall")
    parser.add_argument("--seed", type=int, default=2020, help="of splits, subsets and groups")
    parser.add_argument(
        "--allow-partial", action="store_true", help="score an incomplete set; the scores say so"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores here as well")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write an HTML page: scores, maps, pictures"
    )
    parser.set_defaults(run=_run_evaluate)


def _run_evaluate(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from rdm_batch.engine.evaluation import EvaluationRequest
    from rdm_batch.metrics.evaluation import ScoreSettings
    from rdm_batch.pipelines.evaluation_commands import evaluate_images, save_page
    from rdm_batch.pipelines.score_report import reported
    from rdm_batch.reports.table import score_table
    from rdm_batch.specs.job import DatabaseSpec, EncoderSpec, EvaluationSpec

    extractor, encoder = _extractor(args), None
    if args.encoder is not None:
        encoder = _checked(lambda: EncoderSpec(name=args.encoder, weights=args.encoder_weights))
    evaluation = _checked(
        lambda: EvaluationSpec(
            reference=args.reference,
            scores=tuple(args.scores),
            extractor=extractor,
            encoder=encoder,
            held_out=args.held_out,
        )
    )
    database = None
    if args.database is not None:
        database = _checked(lambda: DatabaseSpec(uri=args.database, encoder=encoder))
    settings = ScoreSettings(k=args.k, seed=args.seed)
    request = EvaluationRequest(args.samples, evaluation, database, args.allow_partial, settings)
    evaluated = evaluate_images(request, args.address)
    scores = evaluated.scores
    if args.json is not None:
        args.json.write_text(json.dumps([score.model_dump() for score in scores], indent=2) + "\n")
    Console().print(score_table(reported(scores)))
    if args.page is not None:
        save_page(request, evaluated, args.page)
        print(f"page: {args.page}")
    return 0


def _add_checkpoint(commands: Commands) -> None:
    checkpoint = commands.add_parser("checkpoint", help="look into weights files or convert them")
    actions = checkpoint.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="say what a weights file holds and whether it fits",
        description="Compare names and shapes in a weights file with an architecture. Nothing "
        "in the file is executed. Exits with status 1 when it does not fit.",
    )
    inspect.set_defaults(run=_run_checkpoint_inspect)
    convert = actions.add_parser(
        "convert",
        help="write one safetensors file with the architecture inside",
        description="Keep the weights that sampling uses and drop the rest: optimizer state, the "
        "other copy, pickled objects.",
    )
    convert.add_argument("--out", type=Path, required=True, metavar="FILE")
    convert.set_defaults(run=_run_checkpoint_convert)
    for parser in (inspect, convert):
        parser.add_argument(
            "uri", metavar="URI", help="safetensors, Lightning checkpoint or state dict"
        )
        parser.add_argument(
            "--preset", metavar="NAME", help="architecture of a published checkpoint"
        )
        parser.add_argument(
            "--architecture", metavar="URI", help="YAML file, or a published config.yaml"
        )
        parser.add_argument("--weights", choices=["ema", "raw"], default="ema")


def _run_checkpoint_inspect(args: argparse.Namespace) -> int:
    from rdm_batch.inputs.weights import CheckpointRequest, inspect_checkpoint

    request = CheckpointRequest(args.uri, args.preset, args.architecture, args.weights)
    info = inspect_checkpoint(request)
    _print_checkpoint(args.uri, info)
    for problem in info.problems:
        print(f"  - {problem}")
    print("  does not fit" if info.problems else "  fits")
    return 1 if info.problems else 0


def _run_checkpoint_convert(args: argparse.Namespace) -> int:
    from rdm_batch.inputs.weights import CheckpointRequest, convert_checkpoint

    request = CheckpointRequest(args.uri, args.preset, args.architecture, args.weights)
    _print_checkpoint(str(args.out), convert_checkpoint(request, args.out))
    return 0


def _print_checkpoint(uri: str, info: CheckpointInfo) -> None:
    from rdm_batch.inputs.weights import describe_checkpoint

    print(f"checkpoint {uri}")
    for name, text in describe_checkpoint(info).items():
        print(f"  {name:<18} {text}")


def _add_export(commands: Commands) -> None:
    parser = commands.add_parser(
        "export",
        help="give a sample set to other tools",
        description="Write a sample set as one ADM .npz (arr_0, uint8 NHWC), as a folder of PNG "
        "files, or as WebDataset tars. Run again, a folder is completed.",
    )
    parser.add_argument("samples", metavar="SAMPLES", help="sample set, path or s3://")
    parser.add_argument("--format", required=True, choices=["adm-npz", "png-folder", "webdataset"])
    parser.add_argument("--out", required=True, metavar="URI", help="file or folder to write")
    parser.add_argument(
        "--allow-partial", action="store_true", help="export an incomplete set as it is"
    )
    parser.set_defaults(run=_run_export)


def _run_export(args: argparse.Namespace) -> int:
    from rdm_batch.export import export_samples

    written = export_samples(args.samples, args.format, args.out, args.allow_partial)
    print(
        f"{args.out}: {written.num_samples:,} samples in {written.num_files:,} "
        f"file{'s' if written.num_files != 1 else ''}, {written.num_bytes:,} bytes"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand.

    Args:
        argv: Arguments without the program name. None means ``sys.argv[1:]``.

    Returns:
        The exit status: 0 done, 1 an expected failure (printed without a traceback).
    """
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except RdmBatchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
