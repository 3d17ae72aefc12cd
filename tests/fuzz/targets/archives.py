"""Neighbor memories, parts of published databases, ADM files, statistics and features."""

from __future__ import annotations

import collections
import io
import pickle
import random
import shutil
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from rdm_batch.errors import RdmBatchError
from rdm_batch.metrics.adm import AdmFile
from rdm_batch.metrics.features import ExtractorDescription, FeatureSet
from rdm_batch.metrics.moments import GaussianStatistics
from rdm_batch.metrics.reference import ReferenceStatistics
from rdm_batch.retrieval.neighbor_memory import read_neighbor_memory
from rdm_batch.retrieval.npz_parts import read_part
from tests.fuzz.target import Target


def _memories() -> list[bytes]:
    ids = np.array([7, 3, 9], np.int32)
    counts = {3: 4, 7: 5, 9: 1}
    contents = [
        {"nn_memory": ids.tolist(), "id_count": counts},
        {"nn_memory": ids, "id_count": collections.Counter(counts)},
        {"nn_memory": ids, "id_count": dict(zip(ids, np.array([5, 4, 1]), strict=True))},
        {"nn_memory": tuple(ids.tolist()), "id_count": collections.defaultdict(int, counts)},
    ]
    return [pickle.dumps(content, protocol) for content in contents for protocol in (0, 2, 3, 4, 5)]


_NAMES = (
    *(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n", b"cnumpy._core.numeric\n_frombuffer\n"),
    *(b"cnumpy.core.multiarray\n_reconstruct\n", b"cnumpy._core.multiarray\nscalar\n"),
    *(b"ccollections\nOrderedDict\n", b"c_codecs\nencode\n", b"cbuiltins\nint\n"),
)
_PIECES = (
    *_NAMES,
    *(b"Vi8\n", b"VO\n", b"V<\n", b"Vnn_memory\n", b"Vid_count\n", b"C\x08AAAAAAAA", b"C\x01b"),
    *(b"K\x00", b"K\x01", b"K\x03", b"J\xff\xff\xff\xff", b"M\xff\xff", b"\x8a\x09" + b"\xff" * 9),
    *(b"N", b"\x88", b"\x89", b"(", b"(", b")", b"]", b"}", b"\x8f", b"t", b"\x85", b"\x86"),
    *(b"\x87", b"l", b"d", b"\x91", b"R", b"R", b"R", b"b", b"b", b"\x81", b"\x92", b"o", b"a"),
    *(b"e", b"s", b"u", b"\x90", b"\x94", b"q\x00", b"h\x00", b"h\x01", b"0", b"1", b"2", b"Q"),
    *(b"r\xff\xff\xff\xff", b"j\x00\x00\x00\x00", b"\x95" + bytes(8), b"\x93", b"G" + bytes(8)),
)


def _instructions(rng: random.Random) -> bytes:
    body = b"".join(rng.choice(_PIECES) for _ in range(rng.randrange(1, 60)))
    return b"\x80\x04" + rng.choice((b"", b"}Vnn_memory\n", b"}(Vnn_memory\n")) + body + b"."


def npz(compressed: bool = False, **arrays: np.ndarray) -> bytes:
    """Make the bytes of an .npz file."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, **arrays)
    return file.getvalue()


def _parts() -> list[bytes]:
    rng = np.random.default_rng(0)
    arrays = {
        "embedding": rng.normal(size=(3, 8)).astype(np.float16),
        "img_id": np.arange(3),
        "patch_coords": np.zeros((3, 4), np.int64),
    }
    files = [npz(**arrays), npz(compressed=True, **arrays)]
    del arrays["patch_coords"]
    return [*files, npz(**arrays, class_id=np.array(["x", "y", "z"]))]


def rezipped(arrays: bytes) -> bytes:
    """Put members into an archive: each a length of four bytes, then its content."""
    names = ["embedding.npy", "img_id.npy", "patch_coords.npy"]
    file, position = io.BytesIO(), 0
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            if position + 4 > len(arrays):
                break
            (length,) = struct.unpack_from("<I", arrays, position)
            archive.writestr(name, arrays[position + 4 : position + 4 + length])
            position += 4 + length
    return file.getvalue()


def _members() -> list[bytes]:
    found = []
    for data in _parts():
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [archive.read(name) for name in archive.namelist() if "class" not in name]
        found.append(b"".join(struct.pack("<I", len(item)) + item for item in members))
    return found


def _adm() -> list[bytes]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 6, 5, 3), np.uint8)
    mean, covariance = np.zeros(4), np.eye(4)
    return [
        npz(arr_0=images),
        npz(compressed=True, arr_0=images),
        npz(arr_0=np.asfortranarray(images), mu=mean, sigma=covariance),
        npz(mu=mean, sigma=covariance, mu_s=mean, sigma_s=covariance.astype(np.float32)),
    ]


def _read_adm(path: Path) -> None:
    file = AdmFile(path)
    file.moments()
    if file.num_images:
        file.read(0, 2)


_EXTRACTOR = ExtractorDescription(
    name="shapes", digest="0" * 64, image_size=8, resize="none", layers={"2048": 4}
)


def _statistics() -> list[bytes]:
    """Make headers of saved features and of saved statistics."""
    folder = Path(tempfile.mkdtemp())
    rows = np.eye(4, dtype=np.float32)
    features = FeatureSet(_EXTRACTOR, np.arange(4), {"2048": rows}, "a set")
    features.save(folder / "a.npz")
    moments = {"2048": GaussianStatistics(np.zeros(4), np.eye(4), 4)}
    ReferenceStatistics(_EXTRACTOR, "a set", moments, {"2048": rows}, "0" * 64).save(
        folder / "b.npz"
    )
    found = []
    for name in ("a.npz", "b.npz"):
        with np.load(folder / name) as file:
            found.append(str(file["header"]).encode())
    shutil.rmtree(folder)
    return found


def _with_header(text: bytes) -> bytes:
    """Put a header to the arrays of both formats."""
    rows = np.eye(4, dtype=np.float32)
    header = np.array(text.decode("utf-8", "replace").rstrip("\0"))
    arrays = {"layer.2048": rows, "features.2048": rows, "mean.2048": np.zeros(4)}
    return npz(header=header, ids=np.arange(4), **arrays, **{"covariance.2048": np.eye(4)})


def _read_statistics(path: Path) -> None:
    for kind in (ReferenceStatistics, FeatureSet):
        try:
            kind.load(path)
        except RdmBatchError:
            continue


TARGETS = (
    Target(
        "neighbor-memory", _memories, read_neighbor_memory, "memory.p", generate=_instructions,
        tokens=_PIECES,
    ),
    Target("npz-part", _parts, read_part, "part.npz", tokens=(b"PK\x01\x02", b"PK\x03\x04")),
    Target(
        "npz-part-arrays", _members, read_part, "part.npz", wrap=rezipped,
        tokens=(b"'descr': '|O'", b"<f2", b">i8", b"<U3", b"(3, 8)", b"True", b"(3L,)", b"()"),
    ),
    Target("adm-npz", _adm, _read_adm, "images.npz"),
    Target(
        "statistics", _statistics, _read_statistics, "a.npz", wrap=_with_header,
        tokens=(b'"counts":[]', b'"extractor":{}', b'"source":1', b'"2048"', b"[]", b"{}", b"null"),
    ),
)  # fmt: skip
