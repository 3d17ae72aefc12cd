"""Every exception this package raises on purpose.

The tree::

    RdmBatchError            an expected failure: printed without a traceback, exit status 1
    ├── SpecError            the job file, a command line value, or a prompt/label file
    │   └── InvalidJobError  several problems of one job, reported together
    ├── ImageError           an image file, or a table or folder of images
    ├── CheckpointError      model weights: missing, misshapen, damaged, unsafe
    ├── DatabaseError        retrieval database, its index, its proposal distribution
    ├── SampleSetError       stored samples, their manifest, the output location
    ├── MetricError          features, reference statistics, scores
    ├── RegressionError      a suite, its history, an accepted baseline
    └── ClusterError         Ray, its resources, lost workers
        └── DeviceLostError  a GPU that computes nothing more in a process

Each message says where, what was found, what was needed and what to do next. The raw
parts stay available as attributes and survive pickling between processes.
"""

from __future__ import annotations

import errno

MAX_CHARACTERS = 2000
"""A message repeats what a file holds, and the file may be hostile or merely large."""
_MAX_PART_CHARACTERS = 480
MAX_PROBLEMS = 50


class RdmBatchError(Exception):
    """Describe an expected failure.

    Args:
        where: Spec path, URI, shard or sample index the failure belongs to.
        found: What was found there, with units.
        needed: What would have been right. Empty when ``found`` already says so.
        action: What the user can do next. Empty when ``needed`` already says so.
    """

    def __init__(self, where: str, found: str, needed: str = "", action: str = "") -> None:
        super().__init__(where, found, needed, action)
        self.where = where
        self.found = found
        self.needed = needed
        self.action = action

    def __str__(self) -> str:
        parts = [self.found]
        if self.needed:
            parts.append(f"needed {self.needed}")
        if self.action:
            parts.append(self.action)
        text = f"{self.where}: " + "; ".join(parts)
        if len(text) <= MAX_CHARACTERS:
            return text
        return f"{shortened(self.where)}: " + "; ".join(map(shortened, parts))


def shortened(text: str, limit: int = _MAX_PART_CHARACTERS) -> str:
    """Keep both ends of a text that is longer than a reader needs."""
    if len(text) <= limit:
        return text
    left_out = f" ... ({len(text) - limit:,} characters) ... "
    half = (limit - len(left_out)) // 2
    return f"{text[:half]}{left_out}{text[-half:]}"


class SpecError(RdmBatchError):
    """Report a job file, command line value or side file that cannot be used."""


class InvalidJobError(SpecError):
    """Report every problem of a job at once.

    Args:
        where: The job file.
        problems: The individual failures, in the order they were found.
    """

    def __init__(self, where: str, problems: tuple[RdmBatchError, ...]) -> None:
        Exception.__init__(self, where, problems)
        self.where = where
        self.problems = problems
        self.found = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        self.needed = ""
        self.action = ""

    def __str__(self) -> str:
        lines = [f"  - {problem}" for problem in self.problems[:MAX_PROBLEMS]]
        if len(self.problems) > MAX_PROBLEMS:
            lines.append(f"  - and {len(self.problems) - MAX_PROBLEMS:,} more")
        return "\n".join([f"{shortened(self.where)}: {self.found}", *lines])


class ImageError(RdmBatchError):
    """Report an image, or a collection of images, that cannot be read."""


class CheckpointError(RdmBatchError):
    """Report model weights that are missing, misshapen, damaged or unsafe."""


class DatabaseError(RdmBatchError):
    """Report a retrieval database, index or proposal distribution that cannot be used."""


class SampleSetError(RdmBatchError):
    """Report stored samples, a manifest or an output location that cannot be used."""


class MetricError(RdmBatchError):
    """Report features, reference statistics or scores that cannot be computed."""


class RegressionError(RdmBatchError):
    """Report a history of runs, an accepted baseline or a comparison that cannot be used."""


class ClusterError(RdmBatchError):
    """Report a Ray cluster that is missing, too small or lost a worker for good."""


class DeviceLostError(ClusterError):
    """Report a device that computes nothing more in this process; another process may go on."""


_NO_MEMORY = (
    "can't allocate memory",
    "out of memory",
    "bad_alloc",
    "can't start new thread",
    "resource temporarily unavailable",
    "could not create a primitive",
)
_NO_DISK = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "no space left within the quota",
    errno.EFBIG: "the file would be larger than it may be",
    errno.EROFS: "is on a read-only file system",
    errno.EIO: "the disk reports an error",
}
_RESUME = "what is stored is safe"


def expected(error: BaseException, where: str = "") -> RdmBatchError | None:
    """Give the failure that an exception stands for; None where it is a surprise.

    Memory and disks can run out in any line; where nothing closer has named them, this does.

    Args:
        error: Whatever was raised.
        where: What was being done, where that is known.
    """
    if isinstance(error, RdmBatchError):
        return error
    if isinstance(error, OSError) and error.errno in _NO_DISK:
        place = str(error.filename or where or "the disk")
        again = f"{_RESUME}: make room or let it be written, and run the same command again"
        return RdmBatchError(place, _NO_DISK[error.errno], "", again)
    # PyTorch and others raise a RuntimeError of their own, and tell by its text alone.
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(words in text.lower() for words in _NO_MEMORY)
    ):
        found = f"there is none left{f' ({shortened(text, 200)})' if text else ''}"
        again = f"{_RESUME}: free some or lower the batch size, and run the same command again"
        return RdmBatchError(where or "memory", found, "", again)
    return None
