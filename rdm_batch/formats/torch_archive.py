"""Find the tensors in a zip archive of ``torch.save`` without running its pickle."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from rdm_batch.errors import CheckpointError
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.pickle_reader import read_pickle
from rdm_batch.formats.pickle_values import as_mapping, describe
from rdm_batch.formats.tensor_entry import StoredBytes, TensorEntry, damaged, end_of, unusable
from rdm_batch.formats.torch_pickle import (
    LIMITS,
    MAX_PICKLE_BYTES,
    PickledTensor,
    interpret,
    state_dict_of,
)
from rdm_batch.formats.zip_files import find_member, open_zip, read_member, stored_position

_MAX_BYTE_ORDER_BYTES: Final = 16
_MAX_DEPTH: Final = 32


def read_archive(path: Path, file: BinaryIO) -> dict[str, TensorEntry]:
    """Find the tensors of a Lightning checkpoint or a plain state dict.

    Args:
        path: What to name in errors.
        file: The open archive.

    Raises:
        CheckpointError: The archive is damaged, or holds something other than tensors where
            the weights should be.
    """
    try:
        with open_zip(file) as archive:
            content, root = _read_content(archive, path)
            try:
                tensors = state_dict_of(content)
            except FormatError as problem:
                raise unusable(path, str(problem)) from None
            return _find(archive, root, tensors, file)
    except FormatError as problem:
        raise damaged(path, str(problem)) from None


def read_structure(path: Path, file: BinaryIO) -> tuple[object, dict[str, TensorEntry]]:
    """Read what was saved, of plain values and tensors, mappings as dicts.

    Args:
        path: What to name in errors.
        file: The open archive.

    Returns:
        What was saved, with a :class:`TensorName` in the place of every tensor; the tensors.

    Raises:
        CheckpointError: The archive is damaged, or holds objects of other kinds.
    """
    tensors: dict[str, PickledTensor] = {}
    try:
        with open_zip(file) as archive:
            content, root = _read_content(archive, path)
            plain = _plain(content, tensors, 0)
            return plain, _find(archive, root, tensors, file)
    except FormatError as problem:
        raise unusable(path, str(problem)) from None


@dataclass(frozen=True)
class TensorName:
    """Stand for a tensor in what was saved."""

    name: str


def _plain(value: object, tensors: dict[str, PickledTensor], depth: int) -> object:
    if depth > _MAX_DEPTH:
        raise FormatError(f"what was saved nests deeper than {_MAX_DEPTH}")
    if isinstance(value, PickledTensor):
        name = f"tensor {len(tensors)}"
        tensors[name] = value
        return TensorName(name)
    mapping = as_mapping(value)
    if mapping is not None:
        return {key: _plain(item, tensors, depth + 1) for key, item in mapping.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(item, tensors, depth + 1) for item in value)
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise FormatError(f"it holds {describe(value)}")


def _read_content(archive: zipfile.ZipFile, path: Path) -> tuple[object, str]:
    """Read the pickle of an archive; give its content, and the folder it lies in."""
    pickles = [name for name in archive.namelist() if name.split("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise CheckpointError(
            str(path), "is a zip archive without data.pkl", "a file of torch.save"
        )
    root = pickles[0].removesuffix("data.pkl")
    byte_order = f"{root}byteorder"
    if (
        byte_order in archive.NameToInfo
        and read_member(archive, byte_order, _MAX_BYTE_ORDER_BYTES) != b"little"
    ):
        raise CheckpointError(str(path), "was written on a big-endian machine")
    return read_pickle(read_member(archive, pickles[0], MAX_PICKLE_BYTES), LIMITS, interpret)[
        0
    ], root


def _find(
    archive: zipfile.ZipFile, root: str, tensors: Mapping[str, PickledTensor], file: BinaryIO
) -> dict[str, TensorEntry]:
    size = file.seek(0, 2)
    stored: dict[str, StoredBytes] = {}
    for tensor in tensors.values():
        if tensor.storage not in stored:
            stored[tensor.storage] = _locate(archive, f"{root}data/{tensor.storage}", file, size)
    return {name: _entry(name, tensor, stored) for name, tensor in tensors.items()}


def _locate(archive: zipfile.ZipFile, name: str, file: BinaryIO, size: int) -> StoredBytes:
    """Find where in the archive data lie; torch stores its members uncompressed."""
    member = find_member(archive, name)
    if member.compress_type != zipfile.ZIP_STORED:
        raise FormatError(f"{name} is compressed, which torch.save never does")
    return StoredBytes(stored_position(file, member, size), member.file_size, member.CRC)


def _entry(name: str, tensor: PickledTensor, stored: Mapping[str, StoredBytes]) -> TensorEntry:
    data = stored[tensor.storage]
    entry = TensorEntry(
        tensor.dtype, tensor.shape, tensor.stride, data.position, tensor.offset, data
    )
    if end_of(entry) > data.num_bytes:
        raise FormatError(f"{name} is larger than its data")
    return entry
