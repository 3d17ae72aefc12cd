"""Find the tensors in a file of ``torch.save`` before torch 1.6, without running its pickles.

The published weights of Inception and VGG16 are such files: five pickles in a row (a magic
number, a version, sizes of types, what was saved, the names of the data), then the data, each
behind the number of its elements.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, Final

from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.pickle_reader import read_pickle
from rdm_batch.formats.pickle_values import Record, as_mapping
from rdm_batch.formats.tensor_entry import StoredBytes, TensorEntry, damaged, end_of, unusable
from rdm_batch.formats.torch_pickle import (
    LIMITS,
    MAX_PICKLE_BYTES,
    PickledTensor,
    interpret,
    state_dict_of,
)

MAGIC: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_VERSION: Final = 1001
_USUAL_PICKLE_BYTES: Final = 1 << 20


def read_legacy(path: Path, file: BinaryIO) -> dict[str, TensorEntry]:
    """Find the tensors of a checkpoint or a plain state dict.

    Args:
        path: What to name in errors.
        file: The open file.

    Raises:
        CheckpointError: The file is damaged, or holds something other than tensors where the
            weights should be.
    """
    size = file.seek(0, 2)
    try:
        try:
            content, stored = _read(file, size, _USUAL_PICKLE_BYTES)
        except FormatError:
            if size <= _USUAL_PICKLE_BYTES:
                raise
            content, stored = _read(file, size, MAX_PICKLE_BYTES)
    except FormatError as problem:
        raise damaged(path, str(problem)) from None
    try:
        tensors = state_dict_of(content)
        return {name: _entry(name, tensor, stored) for name, tensor in tensors.items()}
    except FormatError as problem:
        raise unusable(path, str(problem)) from None


def _read(file: BinaryIO, size: int, limit: int) -> tuple[object, dict[str, StoredBytes]]:
    """Read the pickles, and find the data behind them."""
    file.seek(0)
    data = file.read(limit)
    # How many bytes an element of each data has; only the tensors say it.
    widths: dict[str, int] = {}

    def interpret_and_note(record: Record) -> object:
        value = interpret(record)
        if isinstance(value, PickledTensor):
            widths[value.storage] = value.dtype.itemsize
        return value

    version, position = read_pickle(data, LIMITS, start=len(MAGIC))
    machine, position = read_pickle(data, LIMITS, start=position)
    content, position = read_pickle(data, LIMITS, interpret_and_note, start=position)
    names, position = read_pickle(data, LIMITS, start=position)
    facts = as_mapping(machine) or {}
    if version != _VERSION or facts.get("little_endian") is not True:
        raise FormatError("of another version, or written on a big-endian machine")
    if not isinstance(names, list) or not all(type(name) is str for name in names):
        raise FormatError("the names of its data are none")
    stored: dict[str, StoredBytes] = {}
    for name in names:
        if name not in widths or name in stored:
            raise FormatError(f"data {name!r} belong to no tensor, or stand in it twice")
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        num_bytes = count * widths[name]
        position += 8
        if not 0 <= num_bytes <= size - position:
            raise FormatError(f"data of {count:,} numbers end beyond the file")
        stored[name] = StoredBytes(position, num_bytes, -1)
        position += num_bytes
    return content, stored


def _entry(name: str, tensor: PickledTensor, stored: dict[str, StoredBytes]) -> TensorEntry:
    data = stored.get(tensor.storage)
    if data is None:
        raise FormatError(f"the data of {name} are missing")
    entry = TensorEntry(tensor.dtype, tensor.shape, tensor.stride, data.position, tensor.offset)
    if end_of(entry) > data.num_bytes:
        raise FormatError(f"{name} is larger than its data")
    return entry
