"""Weights: archives of torch, safetensors files, and what stands in them."""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
from collections import OrderedDict
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save

from rdm_batch.errors import RdmBatchError
from rdm_batch.formats.weights_file import open_weights
from rdm_batch.metrics.network_weights import read_state_dict
from rdm_batch.models.checkpoint import check_checkpoint, load_checkpoint
from rdm_batch.models.clip import build_clip, carries_encoder, load_clip, read_word_tokenizer
from rdm_batch.models.networks import build_networks
from rdm_batch.specs.networks import ClipArchitecture
from tests.fuzz.target import Target
from tests.tiny_heads import TINY_RDM


def _archive(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


@cache
def _checkpoints() -> tuple[bytes, ...]:
    tensors = OrderedDict(a=torch.zeros(2, 3), b=torch.arange(4.0).half()[1:])
    lightning = {
        "state_dict": tensors,
        "epoch": 3,
        "callbacks": {Path: {"best": 1.0}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}}],
        "sos_token": torch.tensor(3),
    }
    parameters = {name: torch.nn.Parameter(value) for name, value in tensors.items()}
    return (_archive(tensors), _archive(lightning), _archive(parameters))


@cache
def _pickles() -> tuple[bytes, ...]:
    found = []
    for data in _checkpoints():
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            found.append(archive.read("archive/data.pkl"))
    return tuple(found)


def _with_pickle(pickle: bytes) -> bytes:
    """Put another pickle into an archive: alone it would not pass the checksum."""
    file = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(_checkpoints()[1])) as source,
        zipfile.ZipFile(file, "w") as archive,
    ):
        for name in source.namelist():
            archive.writestr(name, pickle if name.endswith("data.pkl") else source.read(name))
    return file.getvalue()


_PIECES = (
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n"),
    *(b"ctorch\nFloatStorage\n", b"ccollections\nOrderedDict\n", b"X\x07\x00\x00\x00storage"),
    *(b"X\x01\x00\x00\x000", b"X\x03\x00\x00\x00cpu", b"X\x0a\x00\x00\x00state_dict", b"K\x06"),
    *(b"((((((((", b"))))", b"t", b"R", b"Q", b"b", b"}", b"(", b"u", b"s", b"\x89", b"K\x00"),
    *(b"J\xff\xff\xff\xff", b"\x8a\x08" + b"\xff" * 7 + b"\x7f", b"K\x02K\x03\x86", b"\x85" * 40),
)


def _instructions(rng: random.Random) -> bytes:
    return b"\x80\x02" + b"".join(rng.choice(_PIECES) for _ in range(rng.randrange(60))) + b"."


def _headers() -> list[bytes]:
    tensors = {"a": torch.zeros(2, 3), "b": torch.zeros(4, dtype=torch.float16)}
    files = [save(tensors), save(tensors, {"architecture": TINY_RDM.model_dump_json()})]
    plain, ours = (data[8 : 8 + struct.unpack_from("<Q", data)[0]] for data in files)
    # By hand: the library orders two entries of metadata by chance.
    ours = ours.replace(b'"architecture"', b'"format":"rdm_batch","architecture"', 1)
    return [plain, ours]


def _with_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + bytes(64)


@cache
def _networks() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(build_networks(TINY_RDM).state_dict())


def _architectures() -> list[bytes]:
    return [json.dumps(TINY_RDM.model_dump(mode="json")).encode()]


def _with_architecture(text: bytes) -> bytes:
    metadata = {"format": "rdm_batch", "architecture": text.decode("utf-8", "replace")}
    return save(_networks(), metadata)


def _schedules() -> list[bytes]:
    return [torch.linspace(0.0015**0.5, 0.0195**0.5, 1000).square().numpy().tobytes()]


def _legacy() -> list[bytes]:
    found = []
    for content in ({"a": torch.zeros(2, 3)}, {"b": torch.ones(2).half()}, {"state_dict": {}}):
        file = io.BytesIO()
        torch.save(content, file, _use_new_zipfile_serialization=False)
        # Data are named by where they lay in memory.
        found.append(re.sub(rb"\d{12,}", lambda name: b"7" * len(name[0]), file.getvalue()))
    return found


@cache
def _contents() -> tuple[bytes, ...]:
    """Small tensors beside the weights, which are read before those: a schedule, a token."""
    betas = np.array(TINY_RDM.noise_schedule.betas(), np.float32)
    return (betas.tobytes(), (16).to_bytes(8, "little"), struct.pack("<f", float("nan")) * 1000)


def _with_content(data: bytes) -> bytes:
    """Put bytes beside the weights, as both, of the type and shape that they have room for."""
    count = len(data) // 4
    betas = torch.frombuffer(bytearray(data[: 4 * count] or bytes(4)), dtype=torch.float32)
    token = torch.frombuffer(bytearray(data[:8].ljust(8, b"\0")), dtype=torch.int64)
    token = token if len(data) % 2 else token.reshape(1, 1, 1).expand(1, 3, 1)
    return _archive({**_networks(), "betas": betas, "alphas_cumprod": betas, "sos_token": token})


def _clips() -> list[bytes]:
    return [json.dumps(CLIP.model_dump(mode="json")).encode()]


CLIP = ClipArchitecture(
    name="tiny", embed_dim=8, vision_width=4, text_width=8, head_width=4, text_layers=1,
    vocabulary=("a", "red"),
)  # fmt: skip


@cache
def _clip_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: value.half() for name, value in build_clip(CLIP).state_dict().items()}


def _with_clip(text: bytes) -> bytes:
    metadata = {"format": "rdm_batch", "architecture": text.decode("utf-8", "replace")}
    return save(_clip_weights(), metadata)


def _read_any(path: Path) -> None:
    read_state_dict(path)


def _read_clip(path: Path) -> None:
    carries_encoder(path)
    read_word_tokenizer(path)
    load_clip(path)


def _read(path: Path) -> None:
    check_checkpoint(path, None)
    check_checkpoint(path, TINY_RDM)
    load_checkpoint(path, TINY_RDM, "raw")


def _read_tensors(path: Path) -> None:
    """Hold a file against an architecture, then read its tensors whatever they are called.

    A small file has not the tensors of an architecture: it would always be refused before one
    is read.
    """
    with suppress(RdmBatchError):
        _read(path)
    open_weights(path).read_all()


def _read_carried(path: Path) -> None:
    load_checkpoint(path)


TARGETS = (
    Target("torch-archive", _checkpoints, _read_tensors, "weights.ckpt", tokens=(b"PK\x01\x02",)),
    Target(
        "torch-pickle", _pickles, _read_tensors, "weights.ckpt", wrap=_with_pickle,
        generate=_instructions, tokens=_PIECES,
    ),
    Target(
        "safetensors", lambda: [_with_header(header) for header in _headers()], _read_tensors, "a",
    ),
    Target(
        "safetensors-header", _headers, _read_tensors, "a", wrap=_with_header,
        tokens=(b'"dtype":"F64"', b"[0,24]", b"[[[[", b'{"__metadata__":[]}', b"[1.5]", b"[-1]"),
    ),
    Target(
        "architecture", _architectures, _read_carried, "a", wrap=_with_architecture,
        tokens=(b'"kl"', b'"rarm"', b"[[]]", b"1e3", b"65536", b"1000000", b"[1,1,1,1,1,1]"),
    ),
    Target("weights-content", _contents, _read, "weights.ckpt", wrap=_with_content),
    Target("torch-legacy", _legacy, _read_any, "weights.pth"),
    Target(
        "clip-architecture", _clips, _read_clip, "a.safetensors", wrap=_with_clip,
        tokens=(b"65536", b"256", b"[256,256,256,256]", b"[]", b'"a"', b"null"),
    ),
)  # fmt: skip
