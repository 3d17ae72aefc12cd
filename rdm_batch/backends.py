"""Set how PyTorch's backends multiply, for a block of code and not for the user's process.

By itself PyTorch rounds the factors of convolutions on a GPU to 10 bits of mantissa (TF32), those
of matrix products not, and lets either be changed for the whole process. What is computed here
has one named arithmetic instead, whatever was set outside.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any, Final

import torch

_MATMUL: Final[Any] = torch.backends.cuda.matmul
_CUDNN: Final[Any] = torch.backends.cudnn
_MKLDNN: Final[Any] = torch.backends.mkldnn

# By operation, which is what counts; set last, for the flags of older releases change them too.
_FACTORS: Final = (_MATMUL, _CUDNN.conv, _CUDNN.rnn)
_FACTORS_ON_CPU: Final = (_MKLDNN.matmul, _MKLDNN.conv, _MKLDNN.rnn)
# cuDNN chooses algorithms by rule, not by timing, and only such as give equal bytes each time;
# numbers of 16 bits are summed in float32.
_FIXED: Final = (
    (_CUDNN, "enabled", True),
    (_CUDNN, "benchmark", False),
    (_CUDNN, "deterministic", True),
    (_MATMUL, "allow_bf16_reduced_precision_reduction", False),
    (_MATMUL, "allow_fp16_reduced_precision_reduction", False),
    (_MATMUL, "allow_fp16_accumulation", False),
)


class _Turns:
    """Let threads in together that want the same arithmetic, and others wait.

    The settings belong to the process, not to a thread: a thread that wanted TF32 would
    otherwise change what another one computes in the middle of it.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside: dict[int, int] = {}
        self._tf32 = False
        self._outside: contextlib.ExitStack | None = None

    def enter(self, tf32: bool) -> None:
        """Wait for a turn; the first one in sets the backends.

        Raises:
            RuntimeError: This thread is inside already, with the other arithmetic.
        """
        thread = threading.get_ident()
        with self._changed:
            if thread in self._inside and self._tf32 != tf32:
                raise RuntimeError("TF32 and IEEE float32 asked for at once by one thread")
            self._changed.wait_for(lambda: not self._inside or self._tf32 == tf32)
            if not self._inside:
                self._tf32 = tf32
                self._outside = _set(tf32)
            self._inside[thread] = self._inside.get(thread, 0) + 1

    def leave(self) -> None:
        """Give the turn back; the last one out restores what was set outside."""
        thread = threading.get_ident()
        with self._changed:
            self._inside[thread] -= 1
            if not self._inside[thread]:
                del self._inside[thread]
            if not self._inside and self._outside is not None:
                self._outside.close()
                self._outside = None
                self._changed.notify_all()


_TURNS: Final = _Turns()


@contextlib.contextmanager
def multiplying(tf32: bool = False) -> Iterator[None]:
    """Multiply float32 as IEEE 754 says, or by TF32, wherever and by whatever backend.

    May be nested, also as a decorator, and entered by several threads: those that want the other
    arithmetic wait until the last one has left.

    Args:
        tf32: Whether GPUs round factors to 10 bits of mantissa; CPUs never do.
    """
    _TURNS.enter(tf32)
    try:
        yield
    finally:
        _TURNS.leave()


def _set(tf32: bool) -> contextlib.ExitStack:
    """Set the backends; closing what is returned restores them."""
    restore = contextlib.ExitStack()
    name = "tf32" if tf32 else "ieee"
    for owner in (*_FACTORS, *_FACTORS_ON_CPU):
        restore.callback(setattr, owner, "fp32_precision", owner.fp32_precision)
    # Flags of older releases, which parts of PyTorch still read: they must agree. Where a user
    # has set the newer ones alone, they cannot be read, and there is nothing to restore.
    with contextlib.suppress(RuntimeError):
        restore.callback(setattr, _CUDNN, "allow_tf32", _CUDNN.allow_tf32)
    with contextlib.suppress(RuntimeError):
        restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
    for owner, attribute, _ in _FIXED:
        restore.callback(setattr, owner, attribute, getattr(owner, attribute))
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    _CUDNN.allow_tf32 = tf32
    for owner in _FACTORS:
        owner.fp32_precision = name
    for owner in _FACTORS_ON_CPU:
        owner.fp32_precision = "ieee"
    for owner, attribute, value in _FIXED:
        setattr(owner, attribute, value)
    return restore
