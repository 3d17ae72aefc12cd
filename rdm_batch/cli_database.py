"""The ``rdm-batch database`` subcommands; see ``cli``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, TypeAlias

from rdm_batch.errors import SpecError

if TYPE_CHECKING:
    from rdm_batch.retrieval.database import DatabaseManifest
    from rdm_batch.retrieval.index import IndexSettings

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_database(commands: Commands) -> None:
    """Declare ``database`` and its subcommands."""
    database = commands.add_parser(
        "database", help="build, import, describe or check a retrieval database"
    )
    actions = database.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="make a database of images",
        description="Encode images, cut the rows into shards, index each and write the "
        "database, complete or not at all. Run again, it resumes.",
    )
    build.add_argument(
        "--images",
        required=True,
        metavar="SOURCE",
        help="a folder of PNG, JPEG and WebP files, a parquet file or folder (path or s3://), or "
        "shapes:SUBSET[:COUNT[:STYLE,STYLE...]] for the embedded world",
    )
    build.add_argument("--patches", type=int, metavar="N", help="random square crops per image")
    build.add_argument("--patch-seed", type=int, default=0, metavar="SEED")
    build.add_argument("--strict", action="store_true", help="fail on the first damaged image")
    build.add_argument("--dtype", choices=["float16", "float32"], default="float16")
    build.add_argument(
        "--thumbnail-size", type=int, default=64, metavar="PIXELS", help="0 stores none"
    )
    build.add_argument("--encoder", default="shapes-clip", metavar="NAME")
    build.add_argument("--encoder-weights", metavar="URI")
    build.add_argument(
        "--proposal-from",
        metavar="SOURCE",
        help="training set whose neighbors are counted for the proposal distribution",
    )
    build.add_argument("--proposal-k", type=int, default=4, metavar="K")
    build.add_argument(
        "--workers",
        type=int,
        default=1,
        metavar="N",
        help="encoders; more than one are Ray actors, which take 8 s to start (default: 1)",
    )
    build.add_argument("--address", default="local", metavar="ADDRESS", help="Ray address")
    build.set_defaults(run=_run_database_build)
    convert = actions.add_parser(
        "import-npz",
        help="import a database published with RDM",
        description="Import published .npz parts and, if given, the neighbor memory. Row ids "
        "count through the parts in the order given here.",
    )
    convert.add_argument("--parts", required=True, metavar="FOLDER", help="path or s3://")
    convert.add_argument(
        "--order", required=True, nargs="+", metavar="NAME", help="every part, in row order"
    )
    convert.add_argument("--neighbor-memory", metavar="FILE", help="the .p file, path or s3://")
    convert.add_argument("--encoder", default="ViT-B-32-quickgelu", metavar="NAME")
    convert.add_argument(
        "--encoder-weights", metavar="URI", help="recorded, so that jobs can check theirs"
    )
    convert.set_defaults(run=_run_database_import)
    for parser in (build, convert):
        parser.add_argument("--out", required=True, metavar="URI", help="path or s3://")
        parser.add_argument("--shards", type=int, default=1, metavar="N")
        parser.add_argument(
            "--index",
            choices=["auto", "brute_force", "tree_ah"],
            default="auto",
            help="auto scans shards of up to 20,000 rows and partitions larger ones",
        )
        parser.add_argument("--leaves", type=int, metavar="N")
        parser.add_argument("--leaves-to-search", type=int, metavar="N")
        parser.add_argument("--reorder", type=int, default=200, metavar="N")
        parser.add_argument(
            "--quantization", choices=["float32", "bfloat16", "int8"], default="bfloat16"
        )
    for name, summary, run in (
        ("info", "describe a database", _run_database_info),
        ("check", "compare every file with its digest", _run_database_check),
    ):
        parser = actions.add_parser(name, help=summary)
        parser.add_argument("uri", metavar="URI")
        parser.set_defaults(run=run)


def _index_settings(args: argparse.Namespace) -> IndexSettings:
    from pydantic import ValidationError

    from rdm_batch.retrieval.index import IndexSettings

    try:
        return IndexSettings(
            kind=args.index,
            leaves=args.leaves,
            leaves_to_search=args.leaves_to_search,
            reorder=args.reorder,
            quantization=args.quantization,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]).replace("_", "-")
        raise SpecError(f"--{name}", f"{first['input']}", "at least 1") from None


def _run_database_build(args: argparse.Namespace) -> int:
    from functools import partial

    from rdm_batch.inputs.encoders import load_named_encoder
    from rdm_batch.pipelines.build_database import DatabaseBuild, build_database
    from rdm_batch.pipelines.encode_images import EncodeSettings
    from rdm_batch.reports.progress import Progress

    build = DatabaseBuild(
        images=args.images,
        out=args.out,
        shards=args.shards,
        encode=EncodeSettings(
            dtype=args.dtype,
            patches=args.patches,
            patch_seed=args.patch_seed,
            thumbnail_size=args.thumbnail_size,
            strict=args.strict,
        ),
        index=_index_settings(args),
        proposal_from=args.proposal_from,
        proposal_k=args.proposal_k,
        workers=args.workers,
        address=args.address,
    )
    with Progress() as progress:
        manifest = build_database(
            build, partial(load_named_encoder, args.encoder, args.encoder_weights), progress
        )
    _print_database(args.out, manifest)
    return 0


def _run_database_import(args: argparse.Namespace) -> int:
    from rdm_batch.inputs.encoders import named_encoder_digest
    from rdm_batch.pipelines.import_database import DatabaseImport, import_database
    from rdm_batch.reports.progress import Progress

    digest = None
    if args.encoder_weights is not None:
        digest = named_encoder_digest(args.encoder, args.encoder_weights)
    request = DatabaseImport(
        parts=args.parts,
        order=tuple(args.order),
        out=args.out,
        neighbor_memory=args.neighbor_memory,
        encoder=args.encoder,
        encoder_digest=digest,
        shards=args.shards,
        index=_index_settings(args),
    )
    with Progress() as progress:
        manifest = import_database(request, progress)
    _print_database(args.out, manifest)
    return 0


def _run_database_info(args: argparse.Namespace) -> int:
    from rdm_batch.inputs.databases import Database

    _print_database(args.uri, Database.open(args.uri).manifest)
    return 0


def _run_database_check(args: argparse.Namespace) -> int:
    from rdm_batch.pipelines.inspect_database import check_database
    from rdm_batch.reports.progress import Progress

    with Progress() as progress:
        problems = check_database(args.uri, progress)
    for problem in problems:
        print(f"{args.uri}: {problem}")
    print(f"{args.uri}: {f'{len(problems)} damaged files' if problems else 'complete'}")
    return 1 if problems else 0


def _print_database(uri: str, manifest: DatabaseManifest) -> None:
    from rdm_batch.pipelines.inspect_database import describe_database

    print(f"database {uri}")
    for name, text in describe_database(manifest).items():
        print(f"  {name:<9}{text}")
    for skipped in manifest.source.skipped[:10]:
        print(f"  left out  {skipped}")
    if len(manifest.source.skipped) > 10:
        print(f"  left out  {len(manifest.source.skipped) - 10:,} more, listed in database.json")
