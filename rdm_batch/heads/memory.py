"""Failures of a GPU, told as errors a user can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rdm_batch.errors import ClusterError, DeviceLostError, RdmBatchError

_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_WANTED = re.compile(r"Tried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")


@contextmanager
def telling_failures(batch_size: int) -> Iterator[None]:
    """Turn what a GPU raises in a block into one error that says what to do.

    Args:
        batch_size: Samples that are computed at once.

    Raises:
        ClusterError: The GPU has too little memory, or computes nothing more.
    """
    try:
        yield
    except RuntimeError as error:
        told = _device_failure(error, batch_size)
        if told is None:
            raise
        raise told from None


def _device_failure(error: RuntimeError, batch_size: int) -> RdmBatchError | None:
    """Say what a failure of the device means; None where it is another kind of failure.

    Args:
        error: What PyTorch raised.
        batch_size: Samples that were computed at once.
    """
    if isinstance(error, torch.OutOfMemoryError):
        free, _ = torch.cuda.mem_get_info()
        return _out_of_memory(
            str(error),
            batch_size,
            free,
            torch.cuda.memory_reserved(),
            torch.cuda.max_memory_allocated(),
        )
    if isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error):
        # After such an error every call of the process fails, whatever it computes.
        reason = str(error).strip().splitlines()[0]
        return DeviceLostError(
            "GPU",
            f"computes nothing more in this process ({reason})",
            action="run the same command again; if it happens again on one machine, take it out",
        )
    return None


def _out_of_memory(
    message: str, batch_size: int, free: int, reserved: int, peak: int
) -> ClusterError:
    """Say what was wanted and free, and a batch size that would fit.

    Args:
        message: PyTorch's.
        batch_size: Samples that were computed at once.
        free: Bytes the device has left.
        reserved: Bytes this process has taken of it.
        peak: Most bytes that tensors of this process took at once.
    """
    found = _WANTED.search(message)
    wanted = 0 if found is None else int(float(found[1]) * _UNITS[found[2]])
    # At least this much was needed for the batch: what a smaller one needs is in proportion, or
    # less, weights being counted as if they were the samples'.
    fitting = min(batch_size - 1, batch_size * (free + reserved) // max(1, peak + wanted))
    if fitting >= 1:
        action = f"set sampling.batch_size to {1 << (fitting.bit_length() - 1)}"
    else:
        action = "use a GPU with more memory, one head for each GPU, or precision bfloat16"
    return ClusterError(
        "GPU memory",
        f"a batch of {batch_size} samples wanted {_gib(wanted)} beside {_gib(peak)} in use, and "
        f"{_gib(free)} were free",
        action=action,
    )


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"
