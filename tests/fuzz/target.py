"""What a reader of files says of itself to be fuzzed: a record in a file below ``targets/``."""

from __future__ import annotations

import importlib
import pkgutil
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rdm_batch.errors import RdmBatchError


def _as_it_is(data: bytes) -> bytes:
    return data


@dataclass(frozen=True)
class Target:
    """Describe one reader.

    Attributes:
        name: Names it on the command line and in reports.
        corpus: Makes small real inputs, the same every time; mutation starts from them.
        read: Reads a file. Anything it raises but ``allowed`` is a finding, as are a death of
            the process, a call longer than ``seconds``, and more memory than ``megabytes``.
        file_name: What the file is called.
        wrap: Makes the file of an input, where a file as a whole would be refused for a
            checksum or a length before its content is looked at.
        generate: Makes inputs of its own, where the format has a grammar.
        tokens: Words of the format, put into inputs here and there.
        allowed: What the reader may raise.
        seconds: The longest a call may take.
        megabytes: The most memory a call may take beside what the process has.
    """

    name: str
    corpus: Callable[[], Sequence[bytes]]
    read: Callable[[Path], object]
    file_name: str = "input"
    wrap: Callable[[bytes], bytes] = _as_it_is
    generate: Callable[[random.Random], bytes] | None = None
    tokens: tuple[bytes, ...] = ()
    allowed: tuple[type[Exception], ...] = (RdmBatchError,)
    seconds: float = 10.0
    megabytes: int = 512


TARGETS = "tests.fuzz.targets"


def all_targets(package: str = TARGETS) -> Mapping[str, Target]:
    """Collect the ``TARGETS`` of every module of a package, by name."""
    found: dict[str, Target] = {}
    modules = pkgutil.iter_modules(importlib.import_module(package).__path__)
    for module in sorted(modules, key=lambda module: module.name):
        for target in importlib.import_module(f"{package}.{module.name}").TARGETS:
            assert target.name not in found, f"two targets are called {target.name}"
            found[target.name] = target
    return found
