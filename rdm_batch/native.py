"""C++ that this package brings, compiled for the CPU of this machine and kept for its next start.

What a compiler leaves behind is run by whoever finds it: it lies where only the user writes, and
what does not have the bytes it was made with is compiled anew.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rdm_batch.errors import ClusterError
from rdm_batch.files import canonical_digest, exclusive, file_sha256, written_aside

_FLAGS: Final = ("-std=c++17", "-O3", "-march=native", "-fPIC")


def cpu_compiler() -> str:
    """Name the compiler of C++ for the CPU, as PyTorch does."""
    return os.environ.get("CXX") or "g++"


def kind_of_cpu(*programs: str) -> str:
    """Name what code for a CPU is good for, with this Python, by a digest.

    Args:
        programs: Versions of others that it is made for.
    """
    flags = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return canonical_digest([*programs, sys.version, platform.machine(), flags])[:16]


def private_folder(folder: Path) -> None:
    """Make a folder for compiled code, which nobody else can put code into.

    Raises:
        ClusterError: It cannot be made, or somebody else can write into it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise ClusterError(
            str(folder),
            f"cannot be made for compiled code: {problem.strerror or problem}",
            "a folder of this user",
            "set RDM_BATCH_CACHE to another one",
        ) from problem
    own = folder.stat()
    reason = ""
    if own.st_uid != os.geteuid():
        reason = "belongs to somebody else"
    elif own.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        reason = "others can write into it"
    for place in folder.parents:
        mode = place.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            reason = reason or f"anybody can replace what is in {place}"
    if reason:
        raise ClusterError(
            str(folder),
            f"is where compiled code is kept, but {reason}",
            "a folder that this user alone writes to: what lies there is run",
            "set RDM_BATCH_CACHE to another one, or take the permission away (chmod go-w)",
        )


def compiled_library(
    source: Path,
    folder: Path,
    kind: str,
    options: Sequence[str] = (),
    linked: Sequence[str] = (),
) -> ctypes.CDLL:
    """Compile a file of C++, unless this machine has done so before, and load it.

    Args:
        source: A file of this package; headers lie beside it.
        folder: Where libraries are kept, of :func:`private_folder`.
        kind: Of this CPU, by :func:`kind_of_cpu`: a folder that the user names may be shared by
            machines with other ones.
        options: More options of the compiler.
        linked: Libraries, or options, to link it with.

    Raises:
        ClusterError: It cannot be compiled.
    """
    compiler = cpu_compiler()
    files = [file_sha256(one) for one in (source, *sorted(source.parent.glob("*.h")))]
    flags = (*_FLAGS, *options)
    digest = canonical_digest([files, compiler, flags, kind])[:16]
    library = folder / "native" / f"{source.stem}-{digest}.so"
    library.parent.mkdir(mode=0o700, exist_ok=True)
    with exclusive(folder / "native.lock"):
        if not _whole(library):
            with written_aside(library) as aside:
                _compile(compiler, flags, linked, source, aside)
            with written_aside(_seal(library)) as aside:
                aside.write_text(file_sha256(library))
    return ctypes.CDLL(str(library))


def _seal(library: Path) -> Path:
    return library.with_suffix(".sha256")


def _whole(library: Path) -> bool:
    """Say whether a library is there with the bytes it was made with."""
    try:
        return _seal(library).read_text() == file_sha256(library)
    except OSError:
        return False


def _compile(
    compiler: str, flags: Sequence[str], linked: Sequence[str], source: Path, library: Path
) -> None:
    unlinked = library.with_suffix(".o")
    try:
        _run(source, compiler, *flags, "-c", str(source), "-o", str(unlinked))
        _run(source, compiler, "-shared", str(unlinked), *linked, "-o", str(library))
    finally:
        unlinked.unlink(missing_ok=True)


def _run(source: Path, *command: str) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}
        )
        failed = done.returncode != 0
        said = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
    except OSError as problem:
        failed, said = True, [problem.strerror or str(problem)]
    if failed:
        wrong = next((line for line in said if "error" in line), said[-1])
        raise ClusterError(
            "compiled code",
            f"{command[0]} does not compile {source.name}: {wrong}",
            "a C++ compiler that knows this CPU: GCC 11 or newer",
            "install one, or name it in CXX",
        )
