"""Where and in which numbers a head computes, and how what it repeats is compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

from rdm_batch.errors import SpecError
from rdm_batch.heads.kept_code import use_kept_code
from rdm_batch.specs.precisions import PRECISIONS, Precision

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def torch_dtype(precision: Precision) -> torch.dtype:
    """Give the type of the networks' weights and activations."""
    dtype: torch.dtype = getattr(torch, PRECISIONS[precision].dtype)
    return dtype


def check_precision(precision: Precision, device: str) -> None:
    """Refuse an arithmetic that a device does not have.

    Args:
        precision: The arithmetic.
        device: ``cpu`` or ``cuda``.

    Raises:
        SpecError: TF32 is asked of a CPU.
    """
    if PRECISIONS[precision].tf32 and device == "cpu":
        raise SpecError(
            "model.precision",
            f"is {precision}, an arithmetic of NVIDIA GPUs, but the head computes on a CPU",
            "float32, float16 or bfloat16, or a GPU for each head",
        )


def compiled(
    function: Callable[_Arguments, _Result],
    device: torch.device,
    recorded: bool = True,
    setting: str = "model.compile",
) -> Callable[_Arguments, _Result]:
    """Compile a function, as one graph, for inputs of fixed shapes.

    What was compiled before on this machine is found again (``kept_code``). On a GPU its kernels
    are also recorded in a CUDA graph, so that launching them costs next to nothing; what it
    returns is then overwritten by the next call. Kernels are chosen by rule, not by timing: two
    heads, and a head that was started again, make equal bytes.

    Args:
        function: What to compile.
        device: Where it computes.
        recorded: Whether to record CUDA graphs. Training does without: losses are read later.
        setting: What asks for it, for messages.

    Raises:
        SpecError: This PyTorch cannot choose kernels by rule.
        ClusterError: There is no place to keep compiled code in.
    """
    use_kept_code()
    # Several jobs in one process have several graphs of one function, all of them wanted.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    if device.type != "cuda":
        return torch.compile(function, dynamic=False, fullgraph=True)
    from torch._inductor import config  # takes a second, which only compiled heads spend

    if not hasattr(config, "deterministic"):
        raise SpecError(
            setting,
            f"PyTorch {torch.__version__} chooses kernels by timing, so bytes would differ",
            "a PyTorch with torch._inductor.config.deterministic",
            "use a newer one, or compile: false",
        )
    on_gpu = torch.compile(
        function,
        dynamic=False,
        fullgraph=True,
        options={"triton.cudagraphs": recorded, "deterministic": True},
    )
    if not recorded:
        return on_gpu

    def run(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        torch.compiler.cudagraph_mark_step_begin()
        return on_gpu(*args, **kwargs)

    return run


@contextmanager
def recording_graphs(device: torch.device) -> Iterator[None]:
    """Make sure that what a block compiles and runs was recorded in CUDA graphs.

    Raises:
        SpecError: It runs without them, which would be slow without a word.
    """
    from torch._dynamo.utils import counters as all_counters  # as above

    counters = all_counters["inductor"]
    before = counters["cudagraph_skips"]
    yield
    skipped = counters["cudagraph_skips"] - before
    if device.type == "cuda" and skipped:
        raise SpecError(
            "model.compile",
            f"{skipped} parts of the network could not be recorded in CUDA graphs",
            "a network that can",
            "set it to false; TORCH_LOGS=cudagraphs names the reasons",
        )
