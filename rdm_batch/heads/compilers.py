"""What compiling a network asks of a machine."""

from __future__ import annotations

import os
import shutil
import socket
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from rdm_batch.errors import ClusterError
from rdm_batch.native import cpu_compiler


def check_compiler(device: str, setting: str = "model.compile") -> None:
    """Make sure that this machine can compile a network, before anything is loaded.

    PyTorch compiles C++ for a CPU; for a GPU, Triton builds its launcher in C.

    Args:
        device: What it computes on, ``cpu`` or ``cuda``.
        setting: What asks for it, for the message.

    Raises:
        ClusterError: A compiler or the headers of Python are missing.
    """
    missing = list(_missing(device))
    if missing:
        raise ClusterError(
            setting,
            f"is true, but {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing "
            f"on {socket.gethostname()}",
            action="install gcc, g++ and the headers of Python (python3-dev) on every machine with "
            "heads, or set it to false",
        )


def _missing(device: str) -> Iterator[str]:
    if device == "cpu":
        compilers = [cpu_compiler()]
    else:
        compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    if not any(map(shutil.which, compilers)):
        yield f"a compiler ({' or '.join(compilers)})"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.is_file():
        yield str(header)
