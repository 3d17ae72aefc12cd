"""Keep what Ray prints about its own troubles from the user's screen: it has logs for that.

Ray offers no switch for either: its compiled part writes every error to standard error, several
a second where processes are lost, and what its processes report comes with pages of their logs.
Fatal errors are still printed. RAY_BACKEND_LOG_LEVEL, where it is set, is obeyed.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

# `ray_cluster` imports this module after it has set what Ray reads while it is imported.
import ray

_LEVEL = "RAY_BACKEND_LOG_LEVEL"
_ABOUT_THE_LEVEL = re.compile(rb".* Set ray log level from environment variable .*\n")
_NOTE_CHARACTERS = 160


@contextmanager
def few_words(take: Callable[[str], None]) -> Iterator[None]:
    """Keep Ray quiet that is started or joined, and left, within a block.

    Args:
        take: Takes the beginning of what processes of Ray report, such as a worker's death.
    """
    worker: Any = ray._private.worker
    library: Any = ray._raylet
    printed, connect = worker.print_to_stdstream, library.CoreWorker

    def shortened(data: dict[str, Any], *_: Any, **__: Any) -> None:
        text = " ".join(" ".join(map(str, data.get("lines", ()))).split())
        take(text if len(text) <= _NOTE_CHARACTERS else f"{text[:_NOTE_CHARACTERS]}...")

    def connected(*arguments: Any, **keywords: Any) -> Any:
        with _level_is_fatal():
            return connect(*arguments, **keywords)

    worker.print_to_stdstream = shortened
    if _LEVEL not in os.environ:
        library.CoreWorker = connected
    try:
        yield
    finally:
        worker.print_to_stdstream, library.CoreWorker = printed, connect


@contextmanager
def _level_is_fatal() -> Iterator[None]:
    """Set the level of messages of Ray's library in this process, which reads it in this block.

    Other processes of Ray get their variables from ``os.environ``, and keep their level. That the
    level was set is printed as well, which is kept back.
    """
    kept = os.dup(2)
    try:
        with tempfile.TemporaryFile() as printed:
            os.dup2(printed.fileno(), 2)
            os.putenv(_LEVEL, "fatal")
            try:
                yield
            finally:
                os.unsetenv(_LEVEL)
                os.dup2(kept, 2)
                printed.seek(0)
                others = _ABOUT_THE_LEVEL.sub(b"", printed.read())
                if others:
                    os.write(2, others)
    finally:
        os.close(kept)
