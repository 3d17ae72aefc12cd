"""Let Inductor generate code for an H200 that is not there: nothing is run, only counted.

Patches PyTorch for good: only for processes that do nothing else. What PyTorch asks a driver is
answered as an H200 would; tensors are fake, and code is generated up to the point where Triton
would compile it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

PROPERTIES = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    total_memory=141 << 30,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    warp_size=32,
    shared_memory_per_block=49152,
    shared_memory_per_block_optin=232448,
    shared_memory_per_multiprocessor=233472,
    L2_cache_size=60 << 20,
    gcnArchName="",
    clock_rate=1980000,
    memory_clock_rate=3201000,
    memory_bus_width=6144,
)


@dataclass(frozen=True)
class Generated:
    """What the code for one graph does every time it is run.

    Attributes:
        launches: Kernels, Inductor's and those of libraries.
        num_bytes: Read and written, every part of a buffer once a kernel. Inductor's own count
            takes whole buffers where a kernel reads or changes a slice of one.
        copied_inputs: Inputs whose memory may move: copied before every replay of a CUDA graph.
        moving_mutated: Inputs that are changed and whose memory may move: no CUDA graph then.
        refusal: Why Inductor would not record the graph; empty if it would.
    """

    launches: int
    num_bytes: int
    copied_inputs: int
    moving_mutated: int
    refusal: str


class _GeneratedError(Exception):
    """Ends the compilation when the code is there."""


class _Stream:
    stream_id = device_index = cuda_stream = 0
    device_type = 1
    device = torch.device("cuda", 0)


class _Driver:
    """Answers what Triton asks of a driver."""

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cuda", 0)

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_device_interface(self) -> Any:
        return torch.cuda


def pretend() -> None:
    """Answer as a machine with one H200 from here on."""
    import torch._inductor.config as inductor
    import torch.utils._triton as triton_of_torch
    from torch._dynamo.device_interface import CudaInterface
    from torch._subclasses.fake_tensor import FakeTensorMode
    from triton.backends.compiler import GPUTarget
    from triton.compiler.compiler import make_backend
    from triton.runtime.driver import driver

    def give(value: Any) -> Callable[..., Any]:
        return lambda *_, **__: value

    answers = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_properties": PROPERTIES,
        "get_device_capability": (9, 0),
        "get_device_name": PROPERTIES.name,
        "is_initialized": True,
        "_lazy_init": None,
        "synchronize": None,
        "set_device": None,
        "get_rng_state": torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": None,
        "is_bf16_supported": True,
        "is_current_stream_capturing": False,
        "current_stream": _Stream(),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, give(answer))
    for name, answer in {**answers, "get_compute_capability": 90, "get_raw_stream": 0}.items():
        if hasattr(CudaInterface, name):
            setattr(CudaInterface, name, staticmethod(give(answer)))
    for name in ("get_device_properties", "current_device", "set_device"):
        setattr(CudaInterface.Worker, name, staticmethod(give(answers[name])))
    internals: Any = torch._C
    internals._cuda_isCurrentStreamCapturing = give(False)
    internals._ensureCUDADeviceGuardSet()
    modes: Any = FakeTensorMode
    modes.avoid_device_init = property(give(True))
    triton_of_torch.triton_backend = lambda: make_backend(GPUTarget("cuda", 90, 32))
    triton_of_torch.triton_hash_with_backend = give("pretended")
    driver.set_active(_Driver())
    torch.nn.functional.scaled_dot_product_attention = _attention
    inductor.compile_threads = 1
    inductor.joint_graph_constant_folding = False
    inductor.fx_graph_cache = False
    inductor.deterministic = True
    # Whether padding pays would be asked of the GPU; widths of published networks need none.
    inductor.shape_padding = False


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    is_causal: bool = False,
) -> Tensor:
    """Name the kernel that attention takes on an H200, which only a driver could choose."""
    if attn_mask is None and query.shape[-1] <= 256 and query.dtype != torch.float32:
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        return flash(query, key, value, 0.0, is_causal)[0]
    bias = None
    if attn_mask is not None:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype)
        bias = bias.masked_fill(~attn_mask, -torch.inf)
        bias = bias.expand(*query.shape[:3], key.shape[2])
    efficient = torch.ops.aten._scaled_dot_product_efficient_attention
    return efficient(query, key, value, bias, False, 0.0, is_causal)[0]


def generated(function: Callable[..., Any], *args: Any) -> Generated:
    """Generate the code of a function, as one graph, for fake arguments on the pretended GPU."""
    from torch._inductor.compile_fx import compile_fx

    found: list[Generated] = []

    def inner(module: Any, inputs: Any, **how: Any) -> Any:
        found.append(_lower(module, inputs, set(how.get("static_input_idxs") or ())))
        raise _GeneratedError

    def backend(module: Any, inputs: Any) -> Any:
        return compile_fx(module, inputs, inner_compile=inner)

    torch._dynamo.reset()
    compile = torch.compile(function, dynamic=False, fullgraph=True, backend=backend)
    with torch.inference_mode():
        try:
            compile(*args)
        except Exception:
            if not found:
                raise
    (only,) = found
    return only


def _lower(module: Any, inputs: Any, static: set[int]) -> Generated:
    from torch._guards import detect_fake_mode
    from torch._inductor.compile_fx import fake_tensor_prop, post_grad_passes, view_to_reshape
    from torch._inductor.debug import DebugContext
    from torch._inductor.graph import GraphLowering
    from torch._inductor.virtualized import V

    mode = detect_fake_mode(inputs)
    assert mode is not None
    placeholders = [node.name for node in module.graph.nodes if node.op == "placeholder"]
    mutated = [
        placeholders.index(node.args[0].name)
        for node in module.graph.nodes
        if str(node.target) == "aten.copy_.default" and node.args[0].op == "placeholder"
    ]
    view_to_reshape(module)
    with V.set_fake_mode(mode):
        fake_tensor_prop(module, inputs)
        post_grad_passes(module, is_inference=True)
    graph = GraphLowering(
        module, example_inputs=inputs, is_inference=True, shape_env=mode.shape_env
    )
    with (
        V.set_debug_handler(DebugContext()),
        V.set_graph_handler(graph),
        V.set_extern_kernel_nodes([]),
    ):
        graph.run(*inputs)
        code: Any = graph.codegen()[0]
        num_bytes = sum(_bytes_of(node, graph) for node in graph.scheduler.nodes)
    text = str(getattr(code, "value", code))
    body = text[text.index("def call(") :]
    own = re.findall(r"triton_\w+\.run\(", body)
    of_libraries = re.findall(r"extern_kernels\.\w+\(|= torch\.ops\.[\w.]+\(", body)
    tensors = {place for place, value in enumerate(inputs) if isinstance(value, Tensor)}
    return Generated(
        launches=len(own) + len(of_libraries),
        num_bytes=num_bytes,
        copied_inputs=len(tensors - static),
        moving_mutated=len(set(mutated) - static),
        refusal=str(graph.disable_cudagraphs_reason or ""),
    )


def _bytes_of(node: Any, graph: Any) -> int:
    """Count what one kernel reads and writes, of slices what they hold."""
    from torch._inductor.dependencies import MemoryDep

    touched: dict[tuple[str, bool], set[Any]] = defaultdict(set)
    found = 0
    for part in node.get_nodes():
        if part.is_extern():
            found += _bytes_of_library(part.node)
            continue
        for dependencies, written in (
            (part.read_writes.reads, False),
            (part.read_writes.writes, True),
        ):
            for one in dependencies:
                # The others only keep an order; what a fused kernel keeps to itself is removed.
                if isinstance(one, MemoryDep) and one.name not in graph.removed_buffers:
                    touched[one.name, written].add(one)
    for (name, _), dependencies in touched.items():
        accessed = sum(math.prod(map(int, one.size)) for one in dependencies)
        whole = int(graph.get_numel(name))
        found += min(accessed, whole) * graph.get_dtype(name).itemsize
    return found


def _bytes_of_library(kernel: Any) -> int:
    """Count what a kernel of a library reads and writes: its arguments and results as they are."""
    from torch._inductor import ir

    def size(one: Any) -> int:
        return math.prod(map(int, one.get_size())) * one.get_dtype().itemsize

    if isinstance(kernel, ir.MultiOutput):
        return size(kernel)
    reads = 0
    for one in kernel.inputs:
        parts = one if isinstance(one, list | tuple) else [one]
        reads += sum(size(part) for part in parts if isinstance(part, ir.IRNode))
    several = isinstance(kernel.layout, ir.MultiOutputLayout | ir.NoneLayout)
    return reads + (0 if several else size(kernel))
