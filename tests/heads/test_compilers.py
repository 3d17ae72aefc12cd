from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

import pytest

from rdm_batch.errors import ClusterError
from rdm_batch.generation.job import run
from rdm_batch.heads.compilers import check_compiler
from rdm_batch.specs.load import parse_job
from tests.worlds import World


@pytest.fixture
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Hide compilers and headers; give the folder that both are looked for in."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)
    paths = {**sysconfig.get_paths(), "include": str(tmp_path)}
    monkeypatch.setattr(sysconfig, "get_paths", lambda: paths)
    return tmp_path


def _install(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch(0o755)


@pytest.mark.parametrize(("device", "compiler"), [("cpu", "g++"), ("cuda", "gcc or clang")])
def test_what_is_missing_is_named(bare_machine: Path, device: str, compiler: str) -> None:
    with pytest.raises(ClusterError) as caught:
        check_compiler(device)
    assert f"a compiler ({compiler}) and {bare_machine}/Python.h are missing on" in str(
        caught.value
    )
    _install(bare_machine, compiler.split()[0])
    with pytest.raises(ClusterError, match=r"but \S+/Python\.h is missing"):
        check_compiler(device)
    _install(bare_machine, "Python.h")
    check_compiler(device)


def test_a_compiler_that_is_named_must_be_there(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(bare_machine, "gcc", "Python.h")
    monkeypatch.setenv("CC", "other-cc")
    with pytest.raises(ClusterError, match="a compiler \\(other-cc\\)"):
        check_compiler("cuda")


@pytest.mark.usefixtures("bare_machine")
def test_a_job_that_cannot_compile_stops_before_anything_is_made(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def loaded(*_: Any) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr("rdm_batch.inputs.weights._load", loaded)
    spec = parse_job(world.job(model__compile=True), "job")
    with pytest.raises(ClusterError, match=r"model\.compile: is true, but"):
        run(spec, "none")
    assert not Path(spec.output.uri).exists()
