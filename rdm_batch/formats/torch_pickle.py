"""Tensors as the pickles of ``torch.save`` describe them, and nothing else that those hold.

What a pickle names beside tensors (optimizers, callbacks, classes of other packages) stays an
inert record, see ``pickle_reader``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.pickle_values import (
    Name,
    PickleLimits,
    Record,
    Reference,
    as_mapping,
    describe,
)
from rdm_batch.formats.tensor_entry import MAX_DIMENSIONS

# A pickle of the largest published checkpoint, with optimizer state, has 1 MB.
MAX_PICKLE_BYTES: Final = 64 << 20
LIMITS: Final = PickleLimits(instructions=10_000_000, num_bytes=2 << 30)

_STORAGES: Final = {
    Name("torch", name): dtype
    for name, dtype in {
        "DoubleStorage": torch.float64,
        "FloatStorage": torch.float32,
        "HalfStorage": torch.float16,
        "BFloat16Storage": torch.bfloat16,
        "LongStorage": torch.int64,
        "IntStorage": torch.int32,
        "ShortStorage": torch.int16,
        "CharStorage": torch.int8,
        "ByteStorage": torch.uint8,
        "BoolStorage": torch.bool,
    }.items()
}
_TENSOR: Final = Name("torch._utils", "_rebuild_tensor_v2")
_PARAMETER: Final = Name("torch._utils", "_rebuild_parameter")
_MOST: Final = 1 << 62


@dataclass(frozen=True, eq=False)
class PickledTensor:
    """Describe a tensor whose numbers are stored beside the pickle.

    Attributes:
        storage: Name of its data, several tensors may share them.
        dtype: Of the data.
        offset: Elements of the data before its first.
        shape: Its shape.
        stride: Elements from one index to the next, for every dimension.
    """

    storage: str
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def interpret(record: Record) -> object:
    """Give tensors for the records that are some, and other records as they are."""
    args = record.args
    if not isinstance(args, tuple) or not isinstance(record.maker, Name):
        return record
    if record.maker == _TENSOR and len(args) >= 4:
        return _tensor(*args[:4]) or record
    if record.maker == _PARAMETER and args and isinstance(args[0], PickledTensor):
        return args[0]
    return record


def storage_of(value: object) -> tuple[str, torch.dtype, int] | None:
    """Give the name, type and length of the data that a reference names; None for others."""
    target = value.target if isinstance(value, Reference) else None
    if not isinstance(target, tuple) or len(target) < 5 or target[0] != "storage":
        return None
    kind, key, length = target[1], target[2], target[4]
    if not isinstance(kind, Name) or kind not in _STORAGES:
        return None
    if type(key) is not str or type(length) is not int or not 0 <= length < _MOST:
        return None
    return key, _STORAGES[kind], length


def state_dict_of(content: object) -> dict[str, PickledTensor]:
    """Find the weights in what was saved: a state dict, or a checkpoint that holds one.

    The checkpoint is Lightning's, with ``state_dict``; or VQ-Diffusion's, with ``model`` and
    perhaps ``ema``, whose tensors get that prefix.

    Raises:
        FormatError: There is none, or it holds something other than tensors by name.
    """
    found = as_mapping(content)
    if found is not None and "state_dict" in found:
        content = found["state_dict"]
        found = as_mapping(content)
    elif found is not None and (model := as_mapping(found.get("model"))) is not None:
        # VQ-Diffusion's layout: the moving average lies beside the model.
        averages = as_mapping(found.get("ema")) or {}
        found = {**model, **{f"ema.{name}": value for name, value in averages.items()}}
    if found is None:
        raise FormatError(
            f"holds {describe(content)}; needed a state dict, or a Lightning checkpoint with "
            "one; pickled objects are never loaded; save the state dict alone"
        )
    tensors: dict[str, PickledTensor] = {}
    for name, value in found.items():
        if type(name) is not str or not isinstance(value, PickledTensor):
            key = repr(name) if isinstance(name, str | int) else describe(name)
            raise FormatError(
                f"its state dict holds {describe(value)} under {key}; needed tensors only; "
                "pickled objects are never loaded; save the tensors alone"
            )
        tensors[name] = value
    return tensors


def _tensor(
    reference: object, offset: object, shape: object, stride: object
) -> PickledTensor | None:
    storage = storage_of(reference)
    if storage is None:
        return None
    sizes, steps = _sizes(shape), _sizes(stride)
    if type(offset) is not int or not 0 <= offset < _MOST or len(sizes) != len(steps):
        raise FormatError("a tensor whose sizes do not fit each other")
    return PickledTensor(storage[0], storage[1], offset, sizes, steps)


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(type(n) is int and 0 <= n < _MOST for n in value):
        raise FormatError("a tensor with sizes that are no natural numbers")
    if len(value) > MAX_DIMENSIONS:
        raise FormatError(f"a tensor of {len(value):,} dimensions")
    return value
