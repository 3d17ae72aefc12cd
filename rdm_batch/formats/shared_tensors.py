"""Write weights files that leave tensors to another file beside them.

Heads trained around one first stage each carry a copy of it, and an encoder whose texts were
brought to the pictures of another a copy of its image tower. ``weights_file`` reads both files as
one, and refuses them where the other one is not what it was.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from rdm_batch.errors import CheckpointError
from rdm_batch.files import file_sha256
from rdm_batch.formats.safetensors_file import write_tensors
from rdm_batch.formats.weights_file import SHARED, open_weights


def write_without_shared(path: Path, other: Path, out: Path) -> int:
    """Write a safetensors file again, without the tensors that another one has too.

    Args:
        path: The file.
        other: A safetensors file with some of its tensors: same names, types, shapes and bytes.
        out: Where to write, in the folder of ``other``, to which it leaves them.

    Returns:
        How many bytes of tensors it leaves to the other.

    Raises:
        CheckpointError: A file cannot be read, leaves tensors to a third, is no safetensors file,
            ``out`` would lie elsewhere, or nothing is shared.
    """
    own, theirs = open_weights(path), open_weights(other)
    for file in (own, theirs):
        if SHARED in file.metadata or "format" not in file.metadata:
            needed = "a safetensors file of this package that holds all of its tensors"
            raise CheckpointError(str(file.path), "cannot share tensors", needed)
    if out.parent.resolve() != other.parent.resolve() or out.name == other.name:
        raise CheckpointError(
            str(out), f"does not lie beside {other.name}", f"a new file in {other.parent}"
        )
    shared, kept = [], {}
    left = 0
    for name in own.entries:
        tensor = own.read(name)
        if name in theirs.entries and _equal(tensor, theirs.read(name)):
            shared.append(name)
            left += tensor.nbytes
        else:
            kept[name] = tensor
    if not shared:
        raise CheckpointError(str(path), f"has no tensor that {other.name} has", "files that share")
    named = {"file": other.name, "names": sorted(shared), "sha256": file_sha256(other)}
    write_tensors(out, {**own.metadata, SHARED: json.dumps(named, separators=(",", ":"))}, kept)
    return left


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one, other)
