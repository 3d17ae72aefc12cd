"""Find the tensors in a zip archive of ``torch.save`` without running its pickle.

The pickle says which tensors there are. It is read with names resolved from a fixed list;
whatever else it names (optimizers, callbacks, classes of other packages) becomes an inert
stand-in that can be neither called into nor looked at.
"""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch

from rdm_batch.errors import CheckpointError
from rdm_batch.formats.tensor_entry import MAX_HEADER_BYTES, TensorEntry, damaged, extent

_STORAGE_DTYPES: Final = {
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
}


class _Inert:
    """Stand in for whatever a pickle names that is not on the list."""

    __slots__ = ()

    def __new__(cls, *args: object, **kwargs: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __call__(self, *args: object, **kwargs: object) -> _Inert:
        return self

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass

    def append(self, item: object) -> None:
        pass

    def add(self, item: object) -> None:
        pass

    def extend(self, items: object) -> None:
        pass


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    num_elements: int


class _StorageType:
    __slots__ = ("dtype",)

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


@dataclass(frozen=True)
class _PickledTensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _RebuildTensor:
    """Stand in for ``torch._utils._rebuild_tensor_v2``."""

    __slots__ = ()

    def __call__(
        self, storage: object, offset: object, shape: object, stride: object, *_: object
    ) -> _PickledTensor:
        if not isinstance(storage, _Storage) or not isinstance(offset, int):
            raise pickle.UnpicklingError("a tensor without a storage")
        return _PickledTensor(storage, offset, _sizes(shape), _sizes(stride))


class _RebuildParameter:
    """Stand in for ``torch._utils._rebuild_parameter``."""

    __slots__ = ()

    def __call__(self, data: object, *_: object) -> object:
        return data


def _sizes(value: object) -> tuple[int, ...]:
    if not isinstance(value, tuple) or not all(isinstance(n, int) and n >= 0 for n in value):
        raise pickle.UnpicklingError("a tensor with sizes that are no natural numbers")
    return value


class _Unpickler(pickle.Unpickler):
    """Resolve names from a fixed list; everything else becomes inert."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGE_DTYPES:
            return _StorageType(_STORAGE_DTYPES[name])
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _RebuildTensor()
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _RebuildParameter()
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        return _Inert

    def persistent_load(self, pid: object) -> object:
        match pid:
            case ("storage", _StorageType(dtype=dtype), str(key), _, int(num_elements)):
                return _Storage(key, dtype, num_elements)
        raise pickle.UnpicklingError("a reference to something other than a storage")


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
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
            pickles = [name for name in members if name.split("/", 1)[-1] == "data.pkl"]
            if len(pickles) != 1:
                raise CheckpointError(
                    str(path), "is a zip archive without data.pkl", "a file of torch.save"
                )
            if members[pickles[0]].file_size > MAX_HEADER_BYTES:
                raise damaged(path, f"data.pkl of {members[pickles[0]].file_size:,} bytes")
            root = pickles[0].removesuffix("data.pkl")
            byte_order = root + "byteorder"
            if byte_order in members and archive.read(byte_order) != b"little":
                raise CheckpointError(str(path), "was written on a big-endian machine")
            with archive.open(pickles[0]) as stream:
                content = _Unpickler(stream).load()
    except zipfile.BadZipFile as error:
        raise damaged(path, str(error)) from error
    except CheckpointError:
        raise
    # A damaged or hostile pickle can fail in any way; none of them is a bug here.
    except Exception as error:
        raise CheckpointError(
            str(path), f"its data.pkl cannot be read ({error})", "a file of torch.save"
        ) from error
    state_dict = _find_state_dict(content, path)
    entries = {}
    for name, value in state_dict.items():
        if not isinstance(name, str) or not isinstance(value, _PickledTensor):
            raise CheckpointError(
                str(path),
                f"its state dict holds {_kind(value)} under {name!r}",
                "tensors only",
                "pickled objects are never loaded; save the tensors alone",
            )
        entries[name] = _locate(value, name, members, root, file, path)
    return entries


def _kind(value: object) -> str:
    return "a pickled object" if isinstance(value, _Inert) else f"a {type(value).__name__}"


def _find_state_dict(content: object, path: Path) -> Mapping[Any, Any]:
    found = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(found, dict):
        raise CheckpointError(
            str(path),
            f"holds {_kind(found)}",
            "a state dict, or a Lightning checkpoint with one",
            "pickled objects are never loaded; save the state dict alone",
        )
    return found


def _locate(
    tensor: _PickledTensor,
    name: str,
    members: Mapping[str, zipfile.ZipInfo],
    root: str,
    file: BinaryIO,
    path: Path,
) -> TensorEntry:
    """Find where in the archive a tensor lies; torch stores its members uncompressed."""
    member = members.get(f"{root}data/{tensor.storage.key}")
    if member is None:
        raise damaged(path, f"the data of {name} are missing")
    if member.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(
            str(path), f"the data of {name} are compressed", "a file as torch.save writes it"
        )
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise damaged(path, f"no data where those of {name} should start")
    name_length, extra_length = struct.unpack("<HH", header[26:30])
    entry = TensorEntry(
        tensor.storage.dtype,
        tensor.shape,
        tensor.stride,
        member.header_offset + 30 + name_length + extra_length,
        tensor.offset,
    )
    if (
        len(entry.shape) != len(entry.stride)
        or tensor.offset < 0
        or (tensor.offset + extent(entry)) * entry.dtype.itemsize > member.file_size
    ):
        raise damaged(path, f"{name} is larger than its data")
    return entry
