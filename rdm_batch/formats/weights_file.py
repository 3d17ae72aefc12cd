"""Open files of tensors without running anything that is in them.

Opening reads names and shapes only; each tensor is read on request, straight into the
memory it will stay in. A safetensors file may leave tensors to another one beside it
(``shared_tensors``): opening compares the other's SHA-256 with the one it names.
"""

from __future__ import annotations

import io
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import torch
from torch import Tensor

from rdm_batch.errors import CheckpointError
from rdm_batch.files import file_sha256, open_regular
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.formats.safetensors_file import read_header
from rdm_batch.formats.tensor_entry import StoredBytes, TensorEntry, damaged, extent
from rdm_batch.formats.torch_archive import TensorName, read_archive, read_structure
from rdm_batch.formats.torch_legacy import MAGIC, read_legacy

SHARED: Final = "shared"
"""Metadata of a safetensors file: what it leaves to which file beside it."""
_READ_BYTES: Final = 4 << 20


@dataclass(frozen=True)
class WeightsFile:
    """Name the tensors of an open file, and read them.

    Attributes:
        path: The file.
        entries: Where every tensor lies.
        metadata: Text stored beside the tensors; empty for files of ``torch.save``.
        beside: The file of those tensors that another one holds, by name.
    """

    path: Path
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]
    beside: Mapping[str, WeightsFile] = field(default_factory=dict)
    _compared: set[StoredBytes] = field(default_factory=set, repr=False, compare=False)

    def read(self, name: str) -> Tensor:
        """Read one tensor into memory of its own, and compare it with its checksum if it has one.

        Raises:
            CheckpointError: The file ends before the tensor does, or its bytes were altered.
        """
        if name in self.beside:
            return self.beside[name].read(name)
        entry = self.entries[name]
        try:
            buffer = torch.empty(extent(entry), dtype=entry.dtype)
        except (RuntimeError, MemoryError):
            size = extent(entry) * entry.dtype.itemsize
            raise CheckpointError(
                str(self.path), f"{name} needs {size:,} bytes of memory; there is less"
            ) from None
        memory = buffer.view(torch.uint8).numpy().data
        stored = entry.stored
        with self._open() as file:
            file.seek(entry.position + entry.offset * entry.dtype.itemsize)
            if file.readinto(memory) < memory.nbytes:
                raise damaged(self.path, f"it ends within {name}")
            if stored is not None and stored not in self._compared:
                whole = entry.offset == 0 and memory.nbytes == stored.num_bytes
                crc32 = zlib.crc32(memory) if whole else _crc32(file, stored)
                self._accept(crc32, stored, name)
        return buffer.as_strided(entry.shape, entry.stride)

    def read_all(self) -> dict[str, Tensor]:
        """Read all tensors.

        Raises:
            CheckpointError: The file ends before a tensor does, its bytes were altered, or a
                tensor claims more numbers than it has.
        """
        for name, entry in self.entries.items():
            # Of a stride of 0 every step gives the same number: no saved weights are so.
            if math.prod(entry.shape) > extent(entry):
                raise damaged(self.path, f"{name} is {list(entry.shape)} of repeated numbers")
        return {name: self.read(name) for name in self.entries}

    def altered(self, names: Iterable[str]) -> list[str]:
        """List the tensors whose bytes are not those that were written, by their checksums.

        Archives of torch record checksums; safetensors files record none. Every byte of the
        tensors is read, once.

        Args:
            names: Tensors of the file.
        """
        found = []
        with self._open() as file:
            for name in names:
                stored = self.entries[name].stored
                if stored is None or stored in self._compared:
                    continue
                try:
                    self._accept(_crc32(file, stored), stored, name)
                except CheckpointError:
                    found.append(name)
        return found

    def _accept(self, crc32: int, stored: StoredBytes, name: str) -> None:
        if crc32 != stored.crc32:
            raise damaged(self.path, f"the bytes of {name} are not those that were written")
        self._compared.add(stored)

    def _open(self) -> io.BufferedReader:
        try:
            return open_regular(self.path)
        except OSError as error:
            raise _unreadable(self.path, error) from None


def open_weights(path: Path) -> WeightsFile:
    """Find the tensors of a safetensors file, a Lightning checkpoint or a plain state dict.

    Raises:
        CheckpointError: The file is missing, truncated, of another format, or holds something
            other than tensors where the weights should be.
    """
    try:
        with open_regular(path) as file:
            head = file.read(len(MAGIC))
            if head[:4] == b"PK\x03\x04":
                return WeightsFile(path, read_archive(path, file), {})
            if head == MAGIC:
                return WeightsFile(path, read_legacy(path, file), {})
            if head[8:9] == b"{":
                return _with_shared(WeightsFile(path, *read_header(path, file)))
    except OSError as error:
        raise _unreadable(path, error) from None
    raise CheckpointError(
        str(path),
        "is neither a safetensors file nor one of torch.save",
        action="other pickles are not read; save the state dict by torch.save or as safetensors",
    )


def _with_shared(own: WeightsFile) -> WeightsFile:
    """Add the tensors that a file leaves to another one beside it."""
    if SHARED not in own.metadata:
        return own
    try:
        match parse_json(own.metadata[SHARED]):
            case {"file": str(name), "sha256": str(sha256), "names": list(names)}:
                pass
            case _:
                raise FormatError("it lacks file, sha256 or names")
        if not all(type(one) is str for one in names) or not own.entries.keys().isdisjoint(names):
            raise FormatError("its names are no texts, or of tensors of its own")
        if Path(name).name != name or name in ("", "..", own.path.name):
            raise FormatError(f"{name!r} names no file beside it")
    except FormatError as problem:
        raise damaged(own.path, f"what it shares is unreadable: {problem}") from None
    path = own.path.with_name(name)
    try:
        with open_regular(path) as file:
            other = WeightsFile(path, *read_header(path, file))
        found = file_sha256(path)
    except OSError as error:
        unread = f"cannot be read ({error.strerror or type(error).__name__})"
        raise _not_beside(own.path, name, unread) from None
    lacking = [one for one in names if one not in other.entries]
    if found != sha256 or lacking:
        raise _not_beside(own.path, name, f"has SHA-256 {found[:12]}, not {sha256[:12]}")
    entries = {**own.entries, **{one: other.entries[one] for one in names}}
    return WeightsFile(own.path, entries, own.metadata, dict.fromkeys(names, other))


def _not_beside(path: Path, name: str, problem: str) -> CheckpointError:
    return CheckpointError(
        str(path),
        f"leaves tensors to {name} in the same folder, which {problem}",
        "that file as it was when this one was written",
        "copy both; `rdm-batch checkpoint convert` makes one file of a head where both are",
    )


def read_saved(path: Path) -> object:
    """Read what torch saved of plain values, mappings and tensors, with its tensors.

    Raises:
        CheckpointError: The file is missing, damaged, or holds objects of other kinds.
    """
    try:
        with open_regular(path) as file:
            content, entries = read_structure(path, file)
    except OSError as error:
        raise _unreadable(path, error) from None
    weights = WeightsFile(path, entries, {})

    def filled(value: object) -> object:
        if isinstance(value, TensorName):
            return weights.read(value.name)
        if isinstance(value, dict):
            return {key: filled(item) for key, item in value.items()}
        return type(value)(map(filled, value)) if isinstance(value, list | tuple) else value

    return filled(content)


def _unreadable(path: Path, error: OSError) -> CheckpointError:
    found = f"cannot be read ({error.strerror or type(error).__name__})"
    return CheckpointError(str(path), found, "a weights file")


def _crc32(file: BinaryIO, stored: StoredBytes) -> int:
    file.seek(stored.position)
    crc32, left = 0, stored.num_bytes
    while left and (block := file.read(min(_READ_BYTES, left))):
        crc32 = zlib.crc32(block, crc32)
        left -= len(block)
    return crc32
