from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from rdm_batch.backends import multiplying

_MATMUL, _CUDNN = torch.backends.cuda.matmul, torch.backends.cudnn


def _state() -> dict[str, Any]:
    """Give every setting that decides how float32 is multiplied, and by what."""
    return {
        "matmul": _MATMUL.fp32_precision,
        "conv": _CUDNN.conv.fp32_precision,
        "rnn": _CUDNN.rnn.fp32_precision,
        "on CPU": torch.backends.mkldnn.matmul.fp32_precision,
        "cudnn": (_CUDNN.enabled, _CUDNN.benchmark, _CUDNN.deterministic),
        "sums": (
            _MATMUL.allow_bf16_reduced_precision_reduction,
            _MATMUL.allow_fp16_reduced_precision_reduction,
        ),
        "older": tuple(map(_readable, _OLDER)),
    }


_OLDER = (
    lambda: _CUDNN.allow_tf32,
    torch.get_float32_matmul_precision,
    lambda: _MATMUL.allow_tf32,
)


def _readable(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:  # where newer flags say what these cannot
        return None


@pytest.fixture(params=["defaults", "medium", "high", "generic"])
def outside(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run in a process whose user has set PyTorch's flags in some way."""
    if request.param == "generic":
        torch.backends.fp32_precision = "tf32"
    elif request.param != "defaults":
        torch.set_float32_matmul_precision(request.param)
    yield
    torch.backends.fp32_precision = "none"
    torch.set_float32_matmul_precision("highest")
    for owner in (_MATMUL, torch.backends.mkldnn.matmul):
        owner.fp32_precision = "none"


@pytest.mark.usefixtures("outside")
@pytest.mark.parametrize(("tf32", "name"), [(False, "ieee"), (True, "tf32")])
def test_every_backend_multiplies_as_said_and_then_as_before(tf32: bool, name: str) -> None:
    before = _state()
    with multiplying(tf32):
        inside = _state()
    assert [inside[what] for what in ("matmul", "conv", "rnn", "on CPU")] == [
        *[name] * 3,
        "ieee",
    ]
    assert inside["cudnn"] == (True, False, True)
    assert inside["sums"] == (False, False)
    assert inside["older"] == (tf32, "high" if tf32 else "highest", tf32)
    after = _state()
    older = zip(before.pop("older"), after.pop("older"), strict=True)
    assert all(was in (None, now) for was, now in older)
    assert after == before


def test_flags_that_only_newer_releases_can_read_are_left_as_they_were() -> None:
    before = _CUDNN.conv.fp32_precision
    _CUDNN.conv.fp32_precision = "ieee"  # now the older flag cannot be read
    try:
        with multiplying(tf32=True):
            assert _CUDNN.conv.fp32_precision == "tf32"
        assert _CUDNN.conv.fp32_precision == "ieee"
    finally:
        _CUDNN.allow_tf32 = True
        _CUDNN.conv.fp32_precision = before


def test_a_failure_inside_restores_too() -> None:
    before = _state()
    with pytest.raises(ValueError, match="inside"), multiplying():
        raise ValueError("inside")
    assert _state() == before


def test_threads_with_the_same_arithmetic_compute_together_and_others_wait() -> None:
    together, seen, other = threading.Barrier(2, timeout=10), [], threading.Event()

    def same() -> None:
        with multiplying():
            together.wait()  # passes only when both are inside
            other.wait(0.1)
            seen.append(_CUDNN.conv.fp32_precision)

    def differently() -> None:
        with multiplying(tf32=True):
            other.set()
            seen.append(_CUDNN.conv.fp32_precision)

    threads = [threading.Thread(target=same) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads.append(threading.Thread(target=differently))
    threads[-1].start()
    for thread in threads:
        thread.join(10)
    assert seen == ["ieee", "ieee", "tf32"]


def test_a_thread_cannot_ask_for_both_at_once() -> None:
    with (
        multiplying(),
        multiplying(),
        pytest.raises(RuntimeError, match="at once"),
        multiplying(tf32=True),
    ):
        pass
