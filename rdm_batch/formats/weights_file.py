"""Open files of tensors without running anything that is in them.

Opening reads names and shapes only; each tensor is read on request, straight into the
memory it will stay in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rdm_batch.errors import CheckpointError
from rdm_batch.formats.safetensors_file import read_header
from rdm_batch.formats.tensor_entry import TensorEntry, extent
from rdm_batch.formats.torch_archive import read_archive


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
        buffer = torch.empty(extent(entry), dtype=entry.dtype)
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
                return WeightsFile(path, read_archive(path, file), {})
            if len(head) == 9 and head[8:9] == b"{":
                return WeightsFile(path, *read_header(path, file))
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
