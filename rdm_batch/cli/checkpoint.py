"""``rdm-batch checkpoint``: look into weights files, make new ones of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rdm_batch.cli.options import Command, Options

if TYPE_CHECKING:
    from rdm_batch.inputs.weights import CheckpointRequest
    from rdm_batch.models.checkpoint import CheckpointInfo
    from rdm_batch.specs.families import WeightedModel


def _model() -> Options[WeightedModel]:
    from rdm_batch.specs.families import WeightedModel

    names = {"preset": "--preset NAME"}
    return Options(WeightedModel, names, only=("preset", "architecture", "weights"))


def _add(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    inspect = actions.add_parser(
        "inspect",
        help="say what a weights file holds and whether it fits",
        description="Compare names and shapes in a weights file with an architecture. Nothing "
        "in the file is executed. Exits with status 1 when it does not fit.",
    )
    inspect.set_defaults(run=_run_inspect)
    convert = actions.add_parser(
        "convert",
        help="write one safetensors file with the architecture inside",
        description="Keep the weights that sampling uses and drop the rest: optimizer state, the "
        "other copy, pickled objects.",
    )
    convert.set_defaults(run=_run_convert)
    average = actions.add_parser(
        "average",
        help="write the mean of several weights files",
        description="Average weights tensor by tensor. The files are of one architecture, which "
        "they carry: trained here, or converted.",
    )
    average.add_argument("uris", nargs="+", metavar="URI", help="a safetensors file")
    average.add_argument(
        "--shares", nargs="+", type=float, metavar="S", help="of each in the mean (default: equal)"
    )
    average.set_defaults(run=_run_average)
    share = actions.add_parser(
        "share",
        help="write a weights file without what another one holds",
        description="Write FILE again without the tensors that the file named by --beside has "
        "too: heads around one first stage, encoders with one image tower. The new file lies "
        "beside that one and is read together with it; `convert` makes one file of a head again.",
    )
    share.add_argument("file", type=Path, metavar="FILE", help="a safetensors file")
    share.add_argument(
        "--beside", type=Path, required=True, metavar="OTHER", help="what holds the tensors too"
    )
    share.set_defaults(run=_run_share)
    for action in (convert, average, share):
        action.add_argument(
            "--out", type=Path, required=True, metavar="FILE", help="a new file, safetensors"
        )
    for action in (inspect, convert):
        action.add_argument(
            "uri", metavar="URI", help="safetensors, Lightning checkpoint or state dict"
        )
        _model().add_to(action)


def _request(args: argparse.Namespace) -> CheckpointRequest:
    from rdm_batch.inputs.weights import CheckpointRequest

    return CheckpointRequest(args.uri, **_model().given(args))


def _run_inspect(args: argparse.Namespace) -> int:
    from rdm_batch.inputs.weights import inspect_checkpoint
    from rdm_batch.reports.progress import Progress

    with Progress() as progress, progress.step("read the weights"):
        info = inspect_checkpoint(_request(args))
    _print(args.uri, info)
    for problem in info.problems:
        print(f"  - {problem}")
    print("  does not fit" if info.problems else "  fits")
    return 1 if info.problems else 0


def _run_convert(args: argparse.Namespace) -> int:
    from rdm_batch.inputs.weights import convert_checkpoint
    from rdm_batch.reports.progress import Progress

    with Progress() as progress, progress.step("convert the weights"):
        info = convert_checkpoint(_request(args), args.out)
    _print(str(args.out), info)
    return 0


def _run_average(args: argparse.Namespace) -> int:
    from rdm_batch.inputs.averaging import average_checkpoints
    from rdm_batch.reports.progress import Progress

    with Progress() as progress, progress.step("average the weights"):
        info = average_checkpoints(args.uris, args.out, args.shares)
    _print(str(args.out), info)
    return 0


def _run_share(args: argparse.Namespace) -> int:
    from rdm_batch.errors import CheckpointError
    from rdm_batch.files import check_target
    from rdm_batch.formats.shared_tensors import write_without_shared

    check_target(args.out, CheckpointError)
    left = write_without_shared(args.file, args.beside, args.out)
    print(f"{args.out}: {left:,} bytes are left to {args.beside.name}")
    return 0


def _print(uri: str, info: CheckpointInfo) -> None:
    from rdm_batch.inputs.weights import describe_checkpoint

    print(f"checkpoint {uri}")
    for name, text in describe_checkpoint(info).items():
        print(f"  {name:<18} {text}")


CHECKPOINT = Command("checkpoint", "look into weights files, convert, average or share them", _add)
