"""Compiled code, kept in the user's cache for every head of a machine and for the next start.

What a compiler leaves behind is run by whoever finds it. PyTorch's own place for it has a name
that anybody can guess, below the folder for temporary files; here it lies where only the user
writes, and what does not have the bytes it was made with is thrown away and compiled anew.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch

from rdm_batch.files import exclusive, file_sha256, user_cache, written_aside
from rdm_batch.native import kind_of_cpu, private_folder

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
    folder = named[0] or (user_cache() / "compiled" / kind_of_code()).absolute()
    for each in (folder, *filter(None, named[1:])):
        private_folder(each)
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


def kind_of_code() -> str:
    """Name what code that PyTorch has compiled is good for; what is for a GPU names it itself."""
    return kind_of_cpu(torch.__version__)


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
