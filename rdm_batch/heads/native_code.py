"""Kernels in C++ that this package brings, compiled for the CPU of this machine and kept there."""

from __future__ import annotations

import ctypes
import os
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Final

import torch

from rdm_batch.errors import ClusterError
from rdm_batch.files import canonical_digest, exclusive, file_sha256, written_aside
from rdm_batch.heads.compilers import cpu_compiler
from rdm_batch.heads.kept_code import kind_of_cpu, use_kept_code

_FLAGS: Final = ("-std=c++17", "-O3", "-march=native", "-fPIC", "-fopenmp")


@lru_cache
def native_library(source: Path, defined: tuple[str, ...] = ()) -> ctypes.CDLL:
    """Compile a file of C++, unless this machine has done so before, and load it.

    It is linked to the OpenMP library that PyTorch has loaded: a second one would have threads of
    its own, and both would wait for work on the same cores.

    Args:
        source: A file of this package; headers lie beside it.
        defined: Options of the compiler that choose between forms of it.

    Raises:
        ClusterError: It cannot be compiled, or there is no place to keep what is compiled.
    """
    compiler = cpu_compiler()
    folder = use_kept_code()
    # A folder that the user names may be shared by machines with other CPUs.
    files = [file_sha256(one) for one in (source, *sorted(source.parent.glob("*.h")))]
    options = (*_FLAGS, *defined)
    digest = canonical_digest([files, compiler, options, kind_of_cpu()])[:16]
    library = folder / "native" / f"{source.stem}-{digest}.so"
    library.parent.mkdir(mode=0o700, exist_ok=True)
    with exclusive(folder / "native.lock"):
        if not library.exists():
            with written_aside(library) as aside:
                _compile(compiler, options, source, aside)
    return ctypes.CDLL(str(library))


def _compile(compiler: str, options: tuple[str, ...], source: Path, library: Path) -> None:
    unlinked = library.with_suffix(".o")
    try:
        _run(compiler, *options, "-c", str(source), "-o", str(unlinked))
        _run(compiler, "-shared", str(unlinked), *_openmp(), "-o", str(library))
    finally:
        unlinked.unlink(missing_ok=True)


def _openmp() -> tuple[str, ...]:
    """Name the OpenMP library that PyTorch brings; else that of the compiler, which it shares."""
    brought = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    brought += sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*.so*"))
    return (str(brought[0]),) if brought else ("-fopenmp",)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        wrong = next((line for line in said if "error" in line), said[-1])
        raise ClusterError(
            "model.compile",
            f"is true, but {command[0]} does not compile {Path(command[-3]).name}: {wrong}",
            "a C++ compiler that knows this CPU: GCC 11 or newer",
            "install one, name it in CXX, or set model.compile to false",
        )
