"""The command as a whole: what is listed, what is imported, what is returned."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from rdm_batch import __version__
from rdm_batch.cli import COMMANDS, build_parser, main


def imported_by(code: str) -> set[str]:
    """List the packages that are imported after running code in a fresh interpreter."""
    names = "{name.partition('.')[0] for name in sys.modules}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*{names})"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """List the parsers of the commands that can be run."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return [leaf for inner in action.choices.values() for leaf in leaves(inner)]
    return [parser]


def test_help_imports_nothing_that_takes_long() -> None:
    code = "from rdm_batch.cli import build_parser; build_parser('').format_help()"
    slow = {"pydantic", "yaml", "numpy", "pyarrow", "torch", "ray", "rich"}
    assert not slow & imported_by(code)


def test_the_arguments_of_all_commands_need_spec_models_alone() -> None:
    code = "from rdm_batch.cli import build_parser; build_parser()"
    assert not {"numpy", "pyarrow", "torch", "ray", "rich"} & imported_by(code)


def test_every_command_is_listed_with_its_summary() -> None:
    text = " ".join(build_parser("").format_help().split())
    for command in COMMANDS:
        assert f"{command.name} {command.summary}" in text


def test_every_command_has_something_to_run_and_explains_itself() -> None:
    found = leaves(build_parser())
    assert len(found) >= len(COMMANDS)
    for parser in found:
        assert callable(parser.get_default("run")), parser.prog
        assert parser.format_help()


def test_a_command_gets_its_arguments_whatever_stands_before_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["database", "build", "--help"])
    assert ended.value.code == 0
    assert "--images SOURCE" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        main(["nothing"])
    assert ended.value.code == 2
    assert "invalid choice: 'nothing'" in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "rdm_batch.cli", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"rdm-batch {__version__}\n"
