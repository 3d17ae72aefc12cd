"""Keep local copies of remote objects, keyed by their content tags."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rdm_batch.files import PARTIAL_SUFFIX
from rdm_batch.storage.s3 import S3Store, endpoint_url
from rdm_batch.storage.store import ObjectInfo

CHUNK_BYTES = 16 << 20
NUM_CONNECTIONS = 8


def cached_download(store: S3Store, cache_dir: str | Path | None = None) -> Path:
    """Copy an object, or every object below a prefix, into the cache unless it is there.

    The copy is made under a temporary name that only the holder of a lock writes, then
    renamed as a whole: an interrupted download is never found under the final name.

    Args:
        store: Store whose root is the object or the prefix.
        cache_dir: Cache folder. None means the user's.

    Returns:
        ``<cache>/<digest>/<last part of the URI>``: a file or a folder.

    Raises:
        RdmBatchError: As ``store.error``, when nothing is there, it changes while it is
            read, or the cache cannot hold it.
    """
    objects = _objects(store)
    folder = Path(cache_dir) if cache_dir is not None else user_cache()
    digest = _digest(store, objects)
    target = folder / digest
    final = target / _name(store)
    if final.exists():
        return final
    try:
        with _exclusive(folder / f"{digest}.lock"):
            if not final.exists():
                partial = folder / f"{digest}{PARTIAL_SUFFIX}"
                shutil.rmtree(partial, ignore_errors=True)
                _fetch(store, objects, partial / _name(store))
                partial.replace(target)
    except OSError as problem:
        raise store.error(
            store.uri,
            f"cannot be kept in {folder}: {problem.strerror or problem}",
            f"{sum(item.num_bytes for item in objects):,} bytes",
            "set RDM_BATCH_CACHE to a folder with room",
        ) from problem
    return final


def _objects(store: S3Store) -> list[ObjectInfo]:
    if store.prefix:
        single = store.stat("")
        if single is not None:
            return [single]
    found = store.list_objects()
    if not found:
        raise store.missing("")
    for item in found:
        if any(part in ("", ".", "..") for part in item.key.split("/")):
            raise store.error(store.child_uri(item.key), "cannot become a path below one folder")
    return found


def _digest(store: S3Store, objects: list[ObjectInfo]) -> str:
    # The place belongs to the key, for two stores may give one tag to different contents.
    lines = [f"{endpoint_url()} {store.bucket} {store.prefix}"]
    lines += [f"{item.key} {item.num_bytes} {item.tag}" for item in objects]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _name(store: S3Store) -> str:
    return (store.prefix or store.bucket).rpartition("/")[2]


def user_cache() -> Path:
    """Name the user's cache folder, by RDM_BATCH_CACHE, XDG_CACHE_HOME or the default."""
    named = os.environ.get("RDM_BATCH_CACHE")
    if named:
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "rdm_batch"


@contextmanager
def _exclusive(lock: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it when its holder dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(store: S3Store, objects: list[ObjectInfo], target: Path) -> None:
    pieces = []
    for item in objects:
        path = target / item.key if item.key else target
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(item.num_bytes)
        pieces += [
            (item, path, start, min(start + CHUNK_BYTES, item.num_bytes))
            for start in range(0, item.num_bytes, CHUNK_BYTES)
        ]

    def copy(piece: tuple[ObjectInfo, Path, int, int]) -> None:
        item, path, start, stop = piece
        with path.open("r+b") as file:
            file.seek(start)
            file.write(store.read_range(item.key, start, stop))

    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        for _ in pool.map(copy, pieces):
            pass
    if _objects(store) != objects:
        raise store.error(store.uri, "changed while it was read", action="run again")
