"""Read and write safetensors files: a length, a JSON header, the bytes of the tensors."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor

from rdm_batch.files import written_aside
from rdm_batch.formats.tensor_entry import MAX_HEADER_BYTES, TensorEntry, damaged, extent

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
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, MAX_HEADER_BYTES):
        raise damaged(path, f"header of {length:,} bytes in a file of {size:,}")
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        entries = {}
        for name, item in header.items():
            begin, end = item["data_offsets"]
            shape = tuple(item["shape"])
            entry = TensorEntry(
                _DTYPES[item["dtype"]],
                shape,
                _contiguous_stride(shape),
                8 + length + begin,
            )
            if not 0 <= begin <= end or end - begin != extent(entry) * entry.dtype.itemsize:
                raise damaged(path, f"wrong size of {name}")
            if 8 + length + end > size:
                raise damaged(path, f"{name} ends at byte {8 + length + end:,} of {size:,}")
            entries[name] = entry
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged(path, f"unreadable header: {error!r}") from error
    return entries, metadata


def stored_metadata(path: Path) -> dict[str, str]:
    """Read the text stored in a safetensors file; nothing for files of other formats.

    Raises:
        CheckpointError: It is a safetensors file, but damaged or truncated.
    """
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        head = file.read(9)
        return read_header(path, file)[1] if head[8:] == b"{" else {}


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


def _contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))
