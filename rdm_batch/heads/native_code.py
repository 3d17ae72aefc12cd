"""Kernels in C++ for the heads, which share PyTorch's threads."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch

from rdm_batch.errors import ClusterError
from rdm_batch.heads.kept_code import kind_of_code, use_kept_code
from rdm_batch.native import compiled_library


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
    folder, options = use_kept_code(), ("-fopenmp", *defined)
    try:
        return compiled_library(source, folder, kind_of_code(), options, _openmp())
    except ClusterError as error:
        raise ClusterError(
            "model.compile",
            f"is true, but {error.found}",
            error.needed,
            "install one, name it in CXX, or set model.compile to false",
        ) from error


def _openmp() -> tuple[str, ...]:
    """Name the OpenMP library that PyTorch brings; else that of the compiler, which it shares."""
    brought = sorted((Path(torch.__file__).parent / "lib").glob("libgomp*.so*"))
    brought += sorted((Path(torch.__file__).parent.parent / "torch.libs").glob("libgomp*.so*"))
    return (str(brought[0]),) if brought else ("-fopenmp",)
