"""Read and write safetensors files: a length, a JSON header, the bytes of the tensors."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor

from rdm_batch.files import open_regular, written_aside
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.formats.tensor_entry import MAX_DIMENSIONS, TensorEntry, damaged, end_of, extent

MAX_HEADER_BYTES: Final = 16 << 20
"""A header of the largest preset has 0.2 MB."""

_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
DTYPE_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}


def read_header(path: Path, file: BinaryIO) -> tuple[dict[str, TensorEntry], dict[str, str]]:
    """Find the tensors of a safetensors file, and the text stored beside them.

    Args:
        path: What to name in errors.
        file: The open file.

    Raises:
        CheckpointError: The file is damaged or truncated.
    """
    size = file.seek(0, 2)
    file.seek(0)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > min(size - 8, MAX_HEADER_BYTES):
        raise damaged(path, f"header of {length:,} bytes in a file of {size:,}")
    try:
        header = parse_json(file.read(length))
        if not isinstance(header, dict):
            raise FormatError("its header is no mapping")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(type(v) is str for v in metadata.values()):
            raise FormatError("its metadata are no texts by name")
        entries = {name: _entry(name, item, 8 + length, size) for name, item in header.items()}
        _check_apart(entries)
    except FormatError as problem:
        raise damaged(path, f"unreadable header: {problem}") from None
    return entries, metadata


def stored_metadata(path: Path) -> dict[str, str]:
    """Read the text stored in a safetensors file; nothing for files of other formats.

    Raises:
        CheckpointError: It is a safetensors file, but damaged or truncated.
    """
    try:
        with open_regular(path) as file:
            head = file.read(9)
            return read_header(path, file)[1] if head[8:] == b"{" else {}
    except OSError:
        return {}


def _entry(name: str, item: object, start: int, size: int) -> TensorEntry:
    """Read what the header says of one tensor, when it can be."""
    match item:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]}:
            pass
        case _:
            raise FormatError(f"{name} lacks its type, shape or place")
    if dtype not in _DTYPES:
        raise FormatError(f"{name} is of the unknown type {dtype}")
    if len(shape) > MAX_DIMENSIONS or not all(map(_is_size, [*shape, begin, end])):
        raise FormatError(f"{name} has sizes that are no natural numbers")
    entry = TensorEntry(_DTYPES[dtype], tuple(shape), _contiguous_stride(shape), start + begin)
    if end - begin != math.prod(shape) * entry.dtype.itemsize:
        raise FormatError(f"wrong size of {name}")
    if start + end > size:
        raise FormatError(f"{name} ends at byte {start + end:,} of {size:,}")
    return entry


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _check_apart(entries: Mapping[str, TensorEntry]) -> None:
    """Refuse tensors that share bytes: a small file could claim any number of large ones."""
    end, before = 0, ""
    for name, entry in sorted(entries.items(), key=lambda item: item[1].position):
        if not extent(entry):
            continue
        if entry.position < end:
            raise FormatError(f"{before} and {name} overlap")
        end, before = entry.position + end_of(entry), name


def write_tensors(
    path: Path, metadata: Mapping[str, str], state_dict: Mapping[str, Tensor]
) -> None:
    """Write tensors as a safetensors file.

    Unlike the safetensors library, which orders its header by chance, this gives the same
    bytes for the same tensors. The file appears under its name once complete.

    Args:
        path: Where to write; folders are made.
        metadata: Stored in the header.
        state_dict: Tensors of any device and memory layout.
    """
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    position = 0
    for name in sorted(state_dict):
        tensor = state_dict[name]
        size = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPE_NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with written_aside(path) as aside, aside.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(state_dict):
            tensor = state_dict[name].detach().cpu().contiguous().flatten()
            stream.write(tensor.view(torch.uint8).numpy().data)


def _contiguous_stride(shape: Sequence[int]) -> tuple[int, ...]:
    stride = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))
