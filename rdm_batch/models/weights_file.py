"""Open files of tensors without running anything that is in them.

Two formats: safetensors, and the zip archives of ``torch.save``. The latter hold a pickle
that says which tensors there are; it is read with names resolved from a fixed list.
Whatever else it names (optimizers, callbacks, classes of other packages) becomes an inert
stand-in that can be neither called into nor looked at. Opening reads names and shapes
only; each tensor is read on request, straight into the memory it will stay in.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor

from rdm_batch.errors import CheckpointError

_SAFETENSORS_DTYPES: Final = {
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
# A safetensors header of the largest preset is 0.2 MB, a pickle of it with optimizer state
# 1 MB. More than this is damage or malice.
_MAX_HEADER_BYTES: Final = 100 * 2**20


@dataclass(frozen=True)
class TensorEntry:
    """Locate one tensor in a file.

    Attributes:
        dtype: Its type.
        shape: Its shape.
        stride: Elements from one index to the next, for every dimension.
        position: Byte of the file at which its storage starts.
        offset: Elements of the storage before its first.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    position: int
    offset: int = 0


@dataclass(frozen=True)
class WeightsFile:
    """Name the tensors of an open file, and read them.

    Attributes:
        path: The file.
        entries: Where every tensor lies.
        metadata: Text stored beside the tensors; empty for files of ``torch.save``.
    """

    path: Path
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]

    def read(self, name: str) -> Tensor:
        """Read one tensor into memory of its own.

        Raises:
            CheckpointError: The file ends before the tensor does.
        """
        entry = self.entries[name]
        buffer = torch.empty(_extent(entry), dtype=entry.dtype)
        memory = buffer.view(torch.uint8).numpy().data
        with self.path.open("rb") as file:
            file.seek(entry.position + entry.offset * entry.dtype.itemsize)
            if file.readinto(memory) < memory.nbytes:
                raise CheckpointError(
                    str(self.path), f"the file ends within {name}", action="copy it again"
                )
        return buffer.as_strided(entry.shape, entry.stride)


def open_weights(path: Path) -> WeightsFile:
    """Find the tensors of a safetensors file, a Lightning checkpoint or a plain state dict.

    Raises:
        CheckpointError: The file is missing, truncated, of another format, or holds something
            other than tensors where the weights should be.
    """
    try:
        with path.open("rb") as file:
            head = file.read(9)
            if head[:4] == b"PK\x03\x04":
                return _open_torch(path, file)
            if len(head) == 9 and head[8:9] == b"{":
                return _open_safetensors(path, file)
    except OSError as error:
        raise CheckpointError(
            str(path), f"cannot be read ({error.strerror or error})", "a weights file"
        ) from error
    raise CheckpointError(
        str(path),
        "is neither a safetensors file nor a zip archive of torch.save",
        action="pickles and files of torch before 1.6 are not read; save the state dict again "
        "with a recent torch or as safetensors",
    )


def _extent(entry: TensorEntry) -> int:
    """Count the elements from a tensor's first to its last."""
    if 0 in entry.shape:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(entry.shape, entry.stride, strict=True))


def _contiguous_stride(shape: tuple[int, ...]) -> tuple[int, ...]:
    stride = []
    step = 1
    for size in reversed(shape):
        stride.append(step)
        step *= max(size, 1)
    return tuple(reversed(stride))


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        str(path), f"the file is damaged or truncated ({what})", action="copy it again"
    )


def _open_safetensors(path: Path, file: BinaryIO) -> WeightsFile:
    """Read the header of a safetensors file (a length, JSON, then the bytes of the tensors)."""
    file.seek(0, 2)
    size = file.tell()
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise _damaged(path, f"header of {length:,} bytes in a file of {size:,}")
    try:
        header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        entries = {}
        for name, item in header.items():
            begin, end = item["data_offsets"]
            shape = tuple(item["shape"])
            entry = TensorEntry(
                _SAFETENSORS_DTYPES[item["dtype"]],
                shape,
                _contiguous_stride(shape),
                8 + length + begin,
            )
            if not 0 <= begin <= end or end - begin != _extent(entry) * entry.dtype.itemsize:
                raise _damaged(path, f"wrong size of {name}")
            if 8 + length + end > size:
                raise _damaged(path, f"{name} ends at byte {8 + length + end:,} of {size:,}")
            entries[name] = entry
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, f"unreadable header: {error!r}") from error
    return WeightsFile(path, entries, metadata)


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


def _open_torch(path: Path, file: BinaryIO) -> WeightsFile:
    try:
        with zipfile.ZipFile(file) as archive:
            members = {member.filename: member for member in archive.infolist()}
            pickles = [name for name in members if name.split("/", 1)[-1] == "data.pkl"]
            if len(pickles) != 1:
                raise CheckpointError(
                    str(path), "is a zip archive without data.pkl", "a file of torch.save"
                )
            if members[pickles[0]].file_size > _MAX_HEADER_BYTES:
                raise _damaged(path, f"data.pkl of {members[pickles[0]].file_size:,} bytes")
            root = pickles[0].removesuffix("data.pkl")
            byte_order = root + "byteorder"
            if byte_order in members and archive.read(byte_order) != b"little":
                raise CheckpointError(str(path), "was written on a big-endian machine")
            with archive.open(pickles[0]) as stream:
                content = _Unpickler(stream).load()
    except zipfile.BadZipFile as error:
        raise _damaged(path, str(error)) from error
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
    return WeightsFile(path, entries, {})


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
        raise _damaged(path, f"the data of {name} are missing")
    if member.compress_type != zipfile.ZIP_STORED:
        raise CheckpointError(
            str(path), f"the data of {name} are compressed", "a file as torch.save writes it"
        )
    file.seek(member.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\x03\x04":
        raise _damaged(path, f"no data where those of {name} should start")
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
        or (tensor.offset + _extent(entry)) * entry.dtype.itemsize > member.file_size
    ):
        raise _damaged(path, f"{name} is larger than its data")
    return entry
