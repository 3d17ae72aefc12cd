"""Hand a sample set on: check that it is whole, give it to other tools in the forms they read.

One shard of samples is held in memory at a time. The forms:

- ``adm-npz``: one ``.npz`` with ``arr_0``, uint8 NHWC, as the ADM evaluation suite reads it.
- ``png-folder``: one file per sample, named by its index.
- ``webdataset``: one tar per shard; per sample a PNG, its provenance as JSON and, where
  there was one, its prompt as text.

A single file appears complete or not at all. A folder says first what it is an export of
and last that it is complete; the same export run again adds what is missing.
"""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, get_args

import numpy as np

from rdm_batch.errors import SampleSetError
from rdm_batch.reports.progress import Progress, Stage
from rdm_batch.specs.export import ExportFormat
from rdm_batch.storage.manifest import (
    SUCCESS_KEY,
    Manifest,
    ShardEntry,
    Success,
    parse_manifest,
    shard_name,
)
from rdm_batch.storage.object_store import Store, open_store
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.reading import iter_shard
from rdm_batch.storage.sample_set import SampleSet

EXPORT_FORMATS: tuple[ExportFormat, ...] = get_args(ExportFormat)
HEADER_KEY = "export.json"

_NUM_THREADS = 16
# The oldest time a zip file can name: the same samples give the same bytes.
_EPOCH = (1980, 1, 1, 0, 0, 0)


class ExportHeader(Manifest):
    """What a folder is an export of."""

    format: ExportFormat
    digest: str
    num_samples: int


class ExportSuccess(Manifest):
    """Proof that an exported folder is complete."""

    num_samples: int
    num_files: int
    num_bytes: int


def export_samples(
    samples: str, form: ExportFormat, out: str, allow_partial: bool = False
) -> ExportSuccess:
    """Write a sample set in another form.

    Args:
        samples: URI of the sample set.
        form: One of ``EXPORT_FORMATS``.
        out: URI of the file (``adm-npz``) or the folder to write.
        allow_partial: Export what is there of an incomplete set.

    Returns:
        The sums over everything stored at ``out``.

    Raises:
        SampleSetError: When the set is incomplete (unless allowed) or damaged, ``out`` holds
            something else, or it cannot be written.
    """
    sample_set = SampleSet.open(samples, allow_partial)
    entries = sample_set.entries()
    if not entries:
        raise SampleSetError(samples, "holds no samples yet", "", "run the job first")
    total = sum(entry.num_rows for entry in entries)
    target = open_store(out)
    with Progress() as progress:
        stage = progress.stage(f"export {form}", total, "samples")
        if form == "adm-npz":
            return _export_npz(sample_set, entries, target, stage)
        _claim(target, ExportHeader(format=form, digest=_digest(entries), num_samples=total))
        write = _export_pngs if form == "png-folder" else _export_tars
        sizes = write(sample_set, entries, target, stage)
    success = ExportSuccess(num_samples=total, num_files=len(sizes), num_bytes=sum(sizes.values()))
    target.write_bytes(SUCCESS_KEY, success.to_bytes())
    return success


def check_samples(uri: str, progress: Progress) -> list[str]:
    """Compare every file of a sample set with what the set says of it, by size and digest.

    Args:
        uri: The sample set, a path or ``s3://``.
        progress: Shows the bytes read.

    Returns:
        What is wrong, one entry per missing or damaged shard and one for a completion that
        is missing or disagrees; empty when the set is complete and sound.

    Raises:
        SampleSetError: There is no sample set, or its header is damaged.
    """
    sample_set = SampleSet.open(uri, allow_partial=True)
    entries, problems = sample_set.recorded_entries()
    whole = not problems
    stage = progress.stage("check", total=sum(e.num_bytes for e in entries), unit="bytes")
    damage = sample_set.store.find_damage(entries, digests=True, advance=stage.advance)
    problems += [str(damaged) for damaged in damage]
    stage.finish()
    try:
        found = sample_set.success()
    except SampleSetError as error:
        return [*problems, str(error)]
    if whole and found is None:
        problems.append(f"{SUCCESS_KEY} is missing: the job did not finish")
    elif whole and found != Success.over(entries):
        problems.append(f"{SUCCESS_KEY} sums up other shards than are stored")
    return problems


def _export_npz(
    sample_set: SampleSet, entries: list[ShardEntry], target: Store, stage: Stage
) -> ExportSuccess:
    if not target.uri.endswith(".npz"):
        raise SampleSetError(target.uri, "is no name for an adm-npz export", "a name in .npz")
    # Says whose samples they are: one file has no room for a header beside it.
    comment = f"rdm_batch export {_digest(entries)}".encode()
    stored = target.stat("")
    if stored is not None:
        if _comment(target) != comment:
            raise SampleSetError(
                target.uri, "exists already", "a new name", "remove it to replace it"
            )
        stage.advance(sum(entry.num_rows for entry in entries))
        total = sum(entry.num_rows for entry in entries)
        return ExportSuccess(num_samples=total, num_files=1, num_bytes=stored.num_bytes)
    count, size = sum(entry.num_rows for entry in entries), sample_set.header.image_size
    header = {"descr": "|u1", "fortran_order": False, "shape": (count, size, size, 3)}
    member = zipfile.ZipInfo("arr_0.npy", _EPOCH)
    with target.open_write("") as file:
        with (
            zipfile.ZipFile(file, "w") as archive,
            archive.open(member, "w", force_zip64=True) as array,
            ThreadPoolExecutor() as pool,
        ):
            np.lib.format.write_array_header_1_0(array, header)
            for entry in entries:
                for rows in _rows(sample_set, entry, ["image", "sample_index"]):
                    for image in pool.map(_decode, rows):
                        array.write(image.tobytes())
                    stage.advance(len(rows))
            archive.comment = comment
        num_bytes = file.tell()
    return ExportSuccess(num_samples=count, num_files=1, num_bytes=num_bytes)


def _comment(target: Store) -> bytes:
    """Read the comment of a zip archive; empty where it is none."""
    try:
        with target.open_read("") as file, zipfile.ZipFile(file) as archive:
            return archive.comment
    except (zipfile.BadZipFile, OSError, ValueError):
        return b""


def _export_pngs(
    sample_set: SampleSet, entries: list[ShardEntry], target: Store, stage: Stage
) -> dict[str, int]:
    """Write what is missing; give the size of every file, of an earlier part of the export too."""
    listed = {item.key for item in target.list_objects()}
    sizes: dict[str, int] = {}

    def write(row: dict[str, Any]) -> None:
        key, data = _png_name(row["sample_index"]), row["image"]["bytes"]
        target.write_bytes(key, data)
        sizes[key] = len(data)

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for entry in entries:
            indices = range(entry.first_index, entry.first_index + entry.num_rows)
            names = [_png_name(index) for index in indices]
            if listed.issuperset(names):
                # A listing may show what is gone.
                found = [item for item in pool.map(target.stat, names) if item is not None]
                if len(found) == len(names):
                    sizes |= {item.key: item.num_bytes for item in found}
                    stage.advance(entry.num_rows)
                    continue
            for rows in _rows(sample_set, entry, ["image", "sample_index"]):
                list(pool.map(write, rows))
                stage.advance(len(rows))
    return sizes


def _export_tars(
    sample_set: SampleSet, entries: list[ShardEntry], target: Store, stage: Stage
) -> dict[str, int]:
    """Write what is missing; give the size of every file, of an earlier part of the export too."""
    sizes = {}
    for entry in entries:
        key = f"{shard_name(entry.shard)}.tar"
        found = target.stat(key)
        if found is not None:
            sizes[key] = found.num_bytes
            stage.advance(entry.num_rows)
            continue
        with target.open_write(key) as file:
            with tarfile.open(fileobj=file, mode="w|") as archive:
                for rows in _rows(sample_set, entry, None):
                    for row in rows:
                        _add(archive, row)
                    stage.advance(len(rows))
            sizes[key] = file.tell()
    return sizes


def _add(archive: tarfile.TarFile, row: dict[str, Any]) -> None:
    for suffix, data in _members(row):
        member = tarfile.TarInfo(f"{row['sample_index']:08d}.{suffix}")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))


def _rows(
    sample_set: SampleSet, entry: ShardEntry, columns: list[str] | None
) -> Iterator[list[dict[str, Any]]]:
    for batch in iter_shard(sample_set.store, sample_set.header, entry, columns):
        yield batch.to_pylist()


def _decode(row: dict[str, Any]) -> np.ndarray:
    return decode_png(row["image"]["bytes"], f"sample {row['sample_index']}")


def _members(row: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "png", row["image"]["bytes"]
    known = {name: value for name, value in row.items() if name != "image" and value is not None}
    yield "json", json.dumps(known, sort_keys=True).encode()
    if row["prompt"] is not None:
        yield "txt", row["prompt"].encode()


def _png_name(sample_index: int) -> str:
    return f"{sample_index:08d}.png"


def _digest(entries: list[ShardEntry]) -> str:
    return Success.over(entries).digest


def _claim(target: Store, header: ExportHeader) -> None:
    """Make a folder this export's, or make sure that it is."""
    data = target.read_if_there(HEADER_KEY)
    if data is not None:
        where = target.child_uri(HEADER_KEY)
        found = parse_manifest(ExportHeader, data, where, SampleSetError)
        if found != header:
            raise SampleSetError(
                target.uri,
                f"holds the {found.format} export of {found.num_samples:,} other samples",
                "an empty folder or an earlier part of this export",
                "choose another folder",
            )
        return
    if target.list_objects():
        raise SampleSetError(target.uri, "is not empty", "an empty folder", "choose another one")
    target.write_bytes(HEADER_KEY, header.to_bytes())
