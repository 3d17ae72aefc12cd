"""Readers that fail in every way a campaign must notice; for its own test."""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

from rdm_batch.errors import DatabaseError
from tests.fuzz.target import Target


def _read(path: Path) -> None:
    data = path.read_bytes()
    if not data:
        return
    match data[0]:
        case 1:
            ctypes.string_at(0)
        case 2:
            time.sleep(60)
        case 3:
            bytearray(200 << 20)
        case 4:
            raise KeyError("no such key")
        case 5:
            bytearray(4 << 30)
        case _:
            raise DatabaseError("a", "refused")


def _refuse(path: Path) -> None:
    raise DatabaseError(str(path), "refused")


def _target(first: int, name: str) -> Target:
    return Target(name, lambda: [b"\0", bytes([first])], _read, seconds=1.0, megabytes=64)


TARGETS = (
    Target("good", lambda: [b"\0"], _refuse),
    *map(_target, range(1, 6), ("dies", "hangs", "hungry", "raises", "bomb")),
)
