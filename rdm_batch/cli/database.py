"""``rdm-batch database``: build, import, change, describe, search, check."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_batch.cli.options import Command, Options
from rdm_batch.errors import DatabaseError, SpecError
from rdm_batch.files import check_target, written_aside

if TYPE_CHECKING:
    from rdm_batch.reports.encoding import EncodingSpeed
    from rdm_batch.retrieval.database import DatabaseManifest
    from rdm_batch.specs.database import DatabaseAdd, DatabaseBuild, DatabaseImport
    from rdm_batch.specs.database_embeddings import DatabaseOfEmbeddings, EmbeddingsAdd
    from rdm_batch.specs.database_search import DatabaseSearch
    from rdm_batch.specs.job import EncoderSpec

_ENCODER = "shapes-clip"


def _build() -> Options[DatabaseBuild]:
    from rdm_batch.specs.database import DatabaseBuild

    names = {"images": "--images SOURCE", "proposal_from": "--proposal-from SOURCE"}
    names |= {"index.kind": "--index", "address": "--address local|auto|ADDRESS"}
    return Options(DatabaseBuild, names, defaults={"images": None})


def _encoder() -> Options[EncoderSpec]:
    from rdm_batch.specs.job import EncoderSpec

    names = {"name": "--encoder NAME", "weights": "--encoder-weights"}
    return Options(EncoderSpec, names, defaults={"name": _ENCODER})


def _of_embeddings() -> Options[DatabaseOfEmbeddings]:
    from rdm_batch.specs.database_embeddings import DatabaseOfEmbeddings

    names = {"embeddings": "--embeddings SOURCE", "metadata": "--metadata"}
    names |= {"column": "--column NAME", "pictures": "--pictures SOURCE"}
    given = tuple(names)
    return Options(DatabaseOfEmbeddings, names, only=given, defaults={"embeddings": None})


def _import() -> Options[DatabaseImport]:
    from rdm_batch.specs.database import DatabaseImport

    names = {"parts": "PART", "order": "--order NAME", "encoder": "--encoder NAME"}
    names |= {"index.kind": "--index"}
    taken = ("parts", "order", "out", "neighbor_memory", "encoder", "shards", "index")
    return Options(DatabaseImport, names, only=taken)


def _search() -> Options[DatabaseSearch]:
    from rdm_batch.specs.database_search import DatabaseSearch

    names = {"uri": "URI", "text": "--text TEXT", "image": "--image FILE", "rows": "--rows ROW"}
    names |= {"k": "-k", "encoder": "--encoder NAME"}
    return Options(DatabaseSearch, names)


def _addition() -> Options[DatabaseAdd]:
    from rdm_batch.specs.database import DatabaseAdd

    names = {"out": "--to URI", "images": "--images SOURCE"}
    names |= {"address": "--address local|auto|ADDRESS"}
    return Options(DatabaseAdd, names, defaults={"images": None})


def _added_embeddings() -> Options[EmbeddingsAdd]:
    from rdm_batch.specs.database_embeddings import EmbeddingsAdd

    names = {"embeddings": "--embeddings SOURCE", "metadata": "--metadata"}
    names |= {"column": "--column NAME", "pictures": "--pictures SOURCE"}
    given = tuple(names)
    return Options(EmbeddingsAdd, names, only=given, defaults={"embeddings": None})


def _add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build",
        help="make a database of images, or of embeddings",
        description="Encode images, cut the rows into shards, index each and write the "
        "database, complete or not at all. Run again, it resumes. With --embeddings nothing is "
        "encoded: --encoder names what made them, and --proposal-from takes embeddings too.",
    )
    _build().add_to(build)
    _of_embeddings().add_to(build)
    _encoder().add_to(build)
    # What made given embeddings is asked for; images are encoded by the usual one.
    build.set_defaults(**{"EncoderSpec.name": None})
    build.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write what encoding took as JSON: images a second, where the workers' time went",
    )
    build.set_defaults(run=_run_build)
    convert = actions.add_parser(
        "import-npz",
        help="import a database published with RDM",
        description="Import published .npz parts and, if given, the neighbor memory. Row ids "
        "count through the parts in the order given here, which no file records.",
    )
    _import().add_to(convert)
    convert.add_argument(
        "--encoder-weights", metavar="URI", help="recorded, so that jobs can check theirs"
    )
    convert.set_defaults(run=_run_import)
    append = actions.add_parser(
        "add",
        help="append images, or embeddings, to a database",
        description="Encode images as the database was and append them as new shards; or append "
        "given embeddings of its encoder. Run again, it resumes. The proposal distribution stays "
        "as it is.",
    )
    _addition().add_to(append)
    _added_embeddings().add_to(append)
    _encoder().add_to(append)
    # What made given embeddings is asked for; images are encoded by the usual one.
    append.set_defaults(**{"EncoderSpec.name": None})
    append.set_defaults(run=_run_add)
    remove = actions.add_parser(
        "remove",
        help="take rows out of every search",
        description="Take rows out of every search. Other rows keep their ids, and nothing that is "
        "stored is rewritten.",
    )
    remove.add_argument("uri", metavar="URI", help="the database, a path or s3://")
    remove.add_argument(
        "--rows", metavar="ID", nargs="+", required=True, help="row ids, or ranges as 10-19"
    )
    remove.set_defaults(run=_run_remove)
    search = actions.add_parser(
        "search",
        help="look what a database holds",
        description="Print the rows of a database nearest to texts, to pictures, or to rows of its "
        "own, and write a page of their thumbnails.",
    )
    _search().add_to(search)
    search.add_argument("--page", type=Path, metavar="FILE", help="write an HTML page as well")
    search.set_defaults(run=_run_search)
    for name, summary, run in (
        ("info", "describe a database", _run_info),
        ("check", "compare every file with its digest", _run_check),
    ):
        action = actions.add_parser(name, help=summary)
        action.add_argument("uri", metavar="URI", help="the database, a path or s3://")
        action.set_defaults(run=run)
        if name == "check":
            action.add_argument(
                "--rebuild",
                action="store_true",
                help="build every index again as well, and compare it byte for byte",
            )
    info = actions.choices["info"]
    info.description = (
        "Say what the manifest of a database says. With --page, also look into its rows: where "
        "they lie, rows per leaf, nearest duplicates, how much of the proposal distribution top_m "
        "keeps."
    )
    info.add_argument(
        "--page", type=Path, metavar="FILE", help="look into the rows, and write an HTML page"
    )


def _run_build(args: argparse.Namespace) -> int:
    from functools import partial

    if _of_embeddings().given(args):
        return _run_of_embeddings(args)
    if not _build().given(args).get("images"):
        raise SpecError("--images", "is missing", "images, or --embeddings")
    request, encoder = _build().build(args), _encoder().build(args, **_encoder_name(args))

    from datetime import UTC, datetime

    from rdm_batch.databases.build import build_database
    from rdm_batch.inputs.encoders import load_named_encoder
    from rdm_batch.reports.encoding import BuildReport
    from rdm_batch.reports.progress import Progress
    from rdm_batch.reports.provenance import collect_provenance

    if args.report is not None:
        check_target(args.report, DatabaseError)
    speeds: list[EncodingSpeed] = []
    started = datetime.now(UTC)
    with Progress() as progress:
        make_encoder = partial(load_named_encoder, encoder.name, encoder.weights)
        manifest = build_database(request, make_encoder, progress, speeds.append)
    _print(request.out, manifest)
    _tell(speeds)
    if args.report is not None:
        report = BuildReport(
            uri=request.out,
            digest=manifest.digest,
            rows=manifest.rows,
            provenance=collect_provenance(started, datetime.now(UTC)),
            encoded=tuple(speeds),
        )
        with written_aside(args.report) as aside:
            aside.write_bytes(report.to_json())
        print(f"report: {args.report}")
    return 0


def _tell(speeds: Sequence[EncodingSpeed]) -> None:
    """Print how fast images were encoded."""
    for speed in speeds:
        print(f"{speed.name}: {speed}", file=sys.stderr)


def _encoder_name(args: argparse.Namespace, usual: str | None = _ENCODER) -> dict[str, str]:
    """Give the name of an encoder, the usual one where none was given."""
    name = _encoder().given(args).get("name", usual)
    return {} if name is None else {"name": name}


def _run_of_embeddings(args: argparse.Namespace) -> int:
    from rdm_batch.databases.from_embeddings import build_from_embeddings
    from rdm_batch.databases.proposal import PROPOSAL_REQUEST
    from rdm_batch.reports.progress import Progress

    given = _build().given(args)
    shared = ("out", "shards", "index", "workers", "memory", "address", *PROPOSAL_REQUEST)
    others = {name: given.pop(name) for name in shared if name in given}
    encode = given.pop("encode", {})
    if "thumbnail_size" in encode:
        others["thumbnail_size"] = encode.pop("thumbnail_size")
    given |= {"encode": encode} if encode else {}
    unfit = next(iter(given), None)
    if unfit is not None:
        name = f"--{next(iter(given[unfit])) if unfit == 'encode' else unfit}".replace("_", "-")
        raise SpecError(name, "is of images, which are not looked at", "--embeddings without it")
    if args.report is not None:
        raise SpecError("--report", "is of images, which are not looked at", "no --report")
    encoder, digest = _given_encoder(args)
    request = _of_embeddings().build(args, **others, encoder=encoder, encoder_digest=digest)
    with Progress() as progress:
        manifest = build_from_embeddings(request, progress)
    _print(request.out, manifest)
    return 0


def _run_import(args: argparse.Namespace) -> int:
    from rdm_batch.databases.import_npz import import_database
    from rdm_batch.inputs.encoders import named_encoder_digest
    from rdm_batch.reports.progress import Progress

    request = _import().build(args)
    if args.encoder_weights is not None:
        digest = named_encoder_digest(request.encoder, args.encoder_weights)
        request = request.model_copy(update={"encoder_digest": digest})
    with Progress() as progress, progress.step("import the parts"):
        manifest = import_database(request, progress)
    _print(request.out, manifest)
    return 0


def _run_add(args: argparse.Namespace) -> int:
    from functools import partial

    if _added_embeddings().given(args):
        return _run_add_embeddings(args)
    if not _addition().given(args).get("images"):
        raise SpecError("--images", "is missing", "images, or --embeddings")
    request, encoder = _addition().build(args), _encoder().build(args, **_encoder_name(args))

    from rdm_batch.databases.change import add_images
    from rdm_batch.inputs.encoders import load_named_encoder
    from rdm_batch.reports.progress import Progress

    speeds: list[EncodingSpeed] = []
    with Progress() as progress:
        make_encoder = partial(load_named_encoder, encoder.name, encoder.weights)
        manifest = add_images(request, make_encoder, progress, speeds.append)
    _print(request.out, manifest)
    _tell(speeds)
    return 0


def _run_add_embeddings(args: argparse.Namespace) -> int:
    from rdm_batch.databases.add_embeddings import add_embeddings
    from rdm_batch.reports.progress import Progress

    given = _addition().given(args)
    shared = ("out", "workers", "memory", "address")
    others = {name: given.pop(name) for name in shared if name in given}
    if given:
        found = "is of images, which are not looked at"
        raise SpecError(f"--{next(iter(given))}", found, "--embeddings without it")
    encoder, digest = _given_encoder(args)
    request = _added_embeddings().build(args, **others, encoder=encoder, encoder_digest=digest)
    with Progress() as progress:
        manifest = add_embeddings(request, progress)
    _print(request.out, manifest)
    return 0


def _given_encoder(args: argparse.Namespace) -> tuple[str, str | None]:
    """Give name and digest of what made given embeddings; no digest where its file is not named."""
    from rdm_batch.inputs.encoders import SHIPPED_ENCODERS, named_encoder_digest

    if not _encoder_name(args, None):
        raise SpecError("--encoder", "is missing", "the name of what made the embeddings")
    encoder = _encoder().build(args)
    if encoder.weights is None and encoder.name not in SHIPPED_ENCODERS:
        return encoder.name, None
    return encoder.name, named_encoder_digest(encoder.name, encoder.weights)


def _run_remove(args: argparse.Namespace) -> int:
    from rdm_batch.databases.change import remove_rows

    _print(args.uri, remove_rows(args.uri, [row for text in args.rows for row in _rows(text)]))
    return 0


def _rows(text: str) -> range:
    """Read a row id, or a range of them."""
    from rdm_batch.errors import SpecError

    first, dash, last = text.partition("-")
    if not first.isascii() or not first.isdecimal() or (dash and not last.isdecimal()):
        raise SpecError("--rows", repr(text), "row ids such as 3, or ranges such as 10-19")
    return range(int(first), int(last or first) + 1)


def _run_search(args: argparse.Namespace) -> int:
    from datetime import UTC, datetime

    from rich.console import Console

    request = _search().build(args)
    if args.page is not None:
        check_target(args.page, DatabaseError)

    from rdm_batch.databases.search import search_database
    from rdm_batch.reports.progress import Progress
    from rdm_batch.reports.provenance import command_line
    from rdm_batch.reports.search_page import render_search, search_tables
    from rdm_batch.reports.table import print_blocks

    with Progress() as progress, progress.step("search"):
        found = search_database(request)
    print_blocks(search_tables(found), Console())
    if args.page is not None:
        _write_page(args.page, render_search(found, datetime.now(UTC), command_line()))
    return 0


def _write_page(path: Path, page: str) -> None:
    try:
        with written_aside(path) as aside:
            aside.write_text(page, encoding="utf-8")
    except OSError as error:
        raise DatabaseError(str(path), f"cannot be written ({error.strerror})") from None
    print(f"page: {path}")


def _run_info(args: argparse.Namespace) -> int:
    from rdm_batch.inputs.databases import Database

    if args.page is not None:
        check_target(args.page, DatabaseError)
    database = Database.open(args.uri)
    _print(args.uri, database.manifest)
    if args.page is None:
        return 0

    from datetime import UTC, datetime

    from rdm_batch.databases.insight import look_into
    from rdm_batch.reports.database_page import insight_lines, render_database
    from rdm_batch.reports.progress import Progress
    from rdm_batch.reports.provenance import command_line

    with Progress() as progress, progress.step("look into the rows"):
        report = look_into(database)
    for name, text in insight_lines(report):
        print(f"  {name:<9}{text}")
    _write_page(args.page, render_database(report, datetime.now(UTC), command_line()))
    return 0


def _run_check(args: argparse.Namespace) -> int:
    from rdm_batch.databases.describe import check_database
    from rdm_batch.reports.progress import Progress

    with Progress() as progress:
        problems = check_database(args.uri, progress)
        if args.rebuild and not problems:
            from rdm_batch.databases.rebuild import check_rebuilt

            problems = check_rebuilt(args.uri, progress)
    for problem in problems:
        print(f"{args.uri}: {problem}")
    print(f"{args.uri}: {f'{len(problems)} damaged files' if problems else 'complete'}")
    return 1 if problems else 0


def _print(uri: str, manifest: DatabaseManifest) -> None:
    from rdm_batch.databases.describe import describe_database

    print(f"database {uri}")
    for name, text in describe_database(manifest).items():
        print(f"  {name:<9}{text}")
    for skipped in manifest.source.skipped[:10]:
        print(f"  left out  {skipped}")
    if len(manifest.source.skipped) > 10:
        print(f"  left out  {len(manifest.source.skipped) - 10:,} more, listed in database.json")


DATABASE = Command(
    "database", "build, import, change, describe, search or check a retrieval database", _add
)
