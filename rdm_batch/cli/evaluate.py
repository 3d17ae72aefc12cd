"""``rdm-batch evaluate`` and ``reference build``: score images, and what to score against."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_batch.cli.options import Command, Options, add_address
from rdm_batch.errors import MetricError
from rdm_batch.files import check_target, written_aside

if TYPE_CHECKING:
    from rdm_batch.specs.image_resize import ImageResize
    from rdm_batch.specs.job import DatabaseSpec, EvaluationSpec, ExtractorSpec

_SETTINGS = {
    "k": "neighbors that span the manifolds of precision and recall, if not the usual number",
    "seed": "of splits, subsets and groups, if not the usual one",
}
_RESIZE = {"size": "--resize-to N", "crop": "--resize-crop", "filter": "--resize-filter"}
_ADDRESS = "none for little work, else local"


def _extractor() -> Options[ExtractorSpec]:
    from rdm_batch.specs.job import ExtractorSpec

    names = {"name": "--extractor NAME", "weights": "--extractor-weights"}
    return Options(ExtractorSpec, names, defaults={"name": "shapes-clip"})


def _resize() -> Options[ImageResize]:
    from rdm_batch.specs.image_resize import ImageResize

    return Options(ImageResize, _RESIZE, defaults={"size": None})


def _evaluation() -> Options[EvaluationSpec]:
    from rdm_batch.specs.job import EvaluationSpec

    extractor = _extractor()
    names = {f"extractor.{path}": name for path, name in extractor.names.items()}
    names |= {f"resize.{path}": name for path, name in _RESIZE.items()}
    names |= {"reference": "--reference REF", "held_out": "--held-out REF"}
    names |= {"scores": "--scores SCORE"}
    names |= {"encoder.name": "--encoder NAME", "encoder.weights": "--encoder-weights"}
    defaults = {f"extractor.{path}": value for path, value in extractor.defaults.items()}
    # What is judged here is drawn already.
    asked = EvaluationSpec.model_fields.keys() - {"inline"}
    return Options(EvaluationSpec, names, only=asked, defaults=defaults)


def _database() -> Options[DatabaseSpec]:
    from rdm_batch.specs.job import DatabaseSpec

    return Options(DatabaseSpec, {"uri": "--database"}, only=("uri",), defaults={"uri": None})


def _add_evaluate(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compute scores of images. SAMPLES and REF are each a sample set, a folder or parquet of "
        "images, an ADM .npz, shapes:SUBSET[:COUNT], or what `rdm-batch reference build` made. "
        "Features are computed once and kept. Scores of novelty and copies need --database, "
        "where the neighbors came from."
    )
    parser.add_argument("samples", metavar="SAMPLES", help="images to score, path or s3://")
    _evaluation().add_to(parser)
    _database().add_to(parser)
    for name, meaning in _SETTINGS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=meaning)
    parser.add_argument(
        "--allow-partial", action="store_true", help="score an incomplete set; the scores say so"
    )
    add_address(parser, _ADDRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores here as well")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write an HTML page: scores, maps, pictures"
    )
    parser.set_defaults(run=_run_evaluate)


def _run_evaluate(args: argparse.Namespace) -> int:
    from rich.console import Console

    from rdm_batch.evaluation.commands import evaluate_images, save_page
    from rdm_batch.evaluation.evaluate import EvaluationRequest
    from rdm_batch.metrics.evaluation import ScoreSettings
    from rdm_batch.reports.table import score_table

    for target in (args.json, args.page):
        if target is not None:
            check_target(target, MetricError)
    evaluation, database = _evaluation().build(args), None
    if _database().given(args):
        database = _database().build(args, encoder=evaluation.encoder)
    given = {name: getattr(args, name) for name in _SETTINGS if getattr(args, name) is not None}
    settings = ScoreSettings(**given)
    request = EvaluationRequest(args.samples, evaluation, database, args.allow_partial, settings)
    evaluated = evaluate_images(request, args.address)
    scores = evaluated.scores
    if args.json is not None:
        text = json.dumps([score.model_dump() for score in scores], indent=2) + "\n"
        try:
            with written_aside(args.json) as aside:
                aside.write_text(text)
        except OSError as error:
            raise MetricError(str(args.json), f"cannot be written ({error.strerror})") from None
    Console().print(score_table(scores))
    if args.page is not None:
        save_page(request, evaluated, args.page)
        print(f"page: {args.page}")
    return 0


def _add_reference(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser(
        "build", help="extract and store the features and moments of reference images"
    )
    build.add_argument(
        "images",
        metavar="IMAGES",
        help="sample set, folder or parquet of images, ADM .npz, or shapes:SUBSET[:COUNT]",
    )
    build.add_argument("--out", required=True, metavar="URI", help="the .npz to write")
    _extractor().add_to(build)
    _resize().add_to(build)
    add_address(build, _ADDRESS)
    build.set_defaults(run=_run_reference_build)


def _run_reference_build(args: argparse.Namespace) -> int:
    from rdm_batch.evaluation.commands import build_reference

    extractor = _extractor().build(args)
    resize = _resize().build(args) if _resize().given(args) else None
    reference = build_reference(args.images, args.out, extractor, args.address, resize)
    print(f"{args.out}: {reference.source}, {reference.extractor.name}, {reference.digest[:12]}")
    return 0


EVALUATE = Command("evaluate", "score images against a reference", _add_evaluate)
REFERENCE = Command("reference", "build what sample sets are judged against", _add_reference)
