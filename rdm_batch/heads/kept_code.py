"""Compiled code, kept in the user's cache for every head of a machine and for the next start.

What a compiler leaves behind is run by whoever finds it. PyTorch's own place for it has a name
that anybody can guess, below the folder for temporary files; here it lies where only the user
writes, and what does not have the bytes it was made with is thrown away and compiled anew.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import stat
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from rdm_batch.errors import ClusterError
from rdm_batch.files import canonical_digest, exclusive, file_sha256, user_cache, written_aside

_NAMES = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
_SEAL = "sealed.json"
_LOCK = "sealed.lock"


def use_kept_code() -> Path:
    """Let the compilers of this process find and leave their code in a folder of the user's.

    The folder is that of ``TORCHINDUCTOR_CACHE_DIR`` where it is set, else one in the user's
    cache for this PyTorch and this kind of CPU. Heads on one machine share it: entries are
    written aside and locked by PyTorch.

    Returns:
        The folder, once nothing in it has other bytes than it was sealed with.

    Raises:
        ClusterError: The folder cannot be made, or somebody else can write into it.
    """
    named = [_named(name) for name in _NAMES]
    folder = named[0] or (user_cache() / "compiled" / kind_of_cpu()).absolute()
    for each in (folder, *filter(None, named[1:])):
        try:
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as problem:
            raise ClusterError(
                str(each),
                f"cannot be made for compiled code: {problem.strerror or problem}",
                "a folder of this user",
                "set RDM_BATCH_CACHE to another one",
            ) from problem
        _refuse_shared(each)
    with exclusive(folder / _LOCK):
        sealed = _sealed(folder)
        damaged = [name for name, digest in sealed.items() if _digest(folder / name) != digest]
        for name in damaged:
            with contextlib.suppress(FileNotFoundError):
                (folder / name).unlink()
        if damaged:
            _write(folder, {name: sealed[name] for name in sealed.keys() - set(damaged)})
    os.environ[_NAMES[0]] = str(folder)
    return folder


def seal_kept_code(folder: Path) -> None:
    """Remember the bytes of what was compiled since the last time.

    Args:
        folder: As ``use_kept_code`` gave it.
    """
    with exclusive(folder / _LOCK):
        sealed = _sealed(folder)
        found = dict(sealed)
        for name in _code(folder) - found.keys():
            digest = _digest(folder / name)
            if digest is not None:
                found[name] = digest
        if found != sealed:
            _write(folder, found)


def _named(name: str) -> Path | None:
    """Give the folder that a variable names; not PyTorch's own, which it puts there when asked."""
    value = os.environ.get(name)
    if not value:
        return None
    # Only compiled heads spend the time to import it.
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    folder = Path(value).absolute()
    if folder.is_relative_to(Path(default_cache_dir()).absolute()):
        del os.environ[name]
        return None
    return folder


def kind_of_cpu() -> str:
    """Name what code for a CPU is good for, with this Python and this PyTorch, by a digest.

    What is for a GPU names it in every entry.
    """
    flags = ""
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    of = [torch.__version__, sys.version, platform.machine(), flags]
    return canonical_digest(of)[:16]


def _refuse_shared(folder: Path) -> None:
    """Make sure that nobody else can put code into a folder, or another one in its place."""
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


def _digest(path: Path) -> str | None:
    """Give a file's digest; None where it is not there any more."""
    try:
        return file_sha256(path)
    except OSError:
        return None


def _sealed(folder: Path) -> Mapping[str, str]:
    """Read what is remembered; where that is damaged, everything there is counts as damaged."""
    try:
        found = json.loads((folder / _SEAL).read_text())
    except FileNotFoundError:
        return {}
    except ValueError:
        found = None
    if isinstance(found, dict) and all(isinstance(digest, str) for digest in found.values()):
        return found
    return dict.fromkeys(_code(folder), "")


def _code(folder: Path) -> set[str]:
    """Name every file that was compiled, relative to the folder."""
    files = (path for path in folder.rglob("*") if path.suffix != ".lock" and path.is_file())
    return {str(path.relative_to(folder)) for path in files} - {_SEAL}


def _write(folder: Path, sealed: Mapping[str, str]) -> None:
    with written_aside(folder / _SEAL) as aside:
        aside.write_text(json.dumps(dict(sorted(sealed.items()))))
