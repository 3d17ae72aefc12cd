"""Keep local copies of remote objects, keyed by their content tags."""

from __future__ import annotations

import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rdm_batch.files import (
    PARTIAL_SUFFIX,
    Damage,
    RecordedFile,
    exclusive,
    file_sha256,
    find_damage,
    user_cache,
)
from rdm_batch.storage.s3 import S3Store
from rdm_batch.storage.s3_client import endpoint_url
from rdm_batch.storage.store import ObjectInfo

CHUNK_BYTES = 16 << 20
NUM_CONNECTIONS = 8
TRIES = 3
"""Times that content is copied that is not what its digest or its tag says."""


def cached_download(
    store: S3Store, cache_dir: str | Path | None = None, recorded: RecordedFile | None = None
) -> Path:
    """Copy an object, or every object below a prefix, into the cache unless it is there.

    The copy is made under a temporary name that only the holder of a lock writes, then
    renamed as a whole: an interrupted download is never found under the final name, and
    neither is one whose content is not what its digest or its tag says.

    Args:
        store: Store whose root is the object or the prefix.
        cache_dir: Cache folder. None means the user's.
        recorded: What a manifest says of a single object.

    Returns:
        ``<cache>/<digest>/<last part of the URI>``: a file or a folder.

    Raises:
        RdmBatchError: As ``store.error``, when nothing is there, it changes while it is
            read, or the cache cannot hold it.
    """
    objects = _objects(store)
    folder = Path(cache_dir) if cache_dir is not None else user_cache()
    if recorded is not None:
        _refuse_damage(store, find_damage([recorded], lambda _: objects[0].num_bytes))
    digest = _digest(store, objects, recorded)
    target = folder / digest
    final = target / _name(store)
    if final.exists():
        return final
    try:
        with exclusive(folder / f"{digest}.lock"):
            if not final.exists():
                partial = folder / f"{digest}{PARTIAL_SUFFIX}"
                shutil.rmtree(partial, ignore_errors=True)
                _fetch(store, objects, partial / _name(store), recorded)
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


def _digest(store: S3Store, objects: list[ObjectInfo], recorded: RecordedFile | None) -> str:
    # The place belongs to the key, for two stores may give one tag to different contents.
    known = "" if recorded is None else recorded.sha256
    lines = [f"checked {known}", f"{endpoint_url()} {store.bucket} {store.prefix}"]
    lines += [f"{item.key} {item.num_bytes} {item.tag}" for item in objects]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:32]


def _name(store: S3Store) -> str:
    return (store.prefix or store.bucket).rpartition("/")[2]


def _fetch(
    store: S3Store, objects: list[ObjectInfo], target: Path, recorded: RecordedFile | None
) -> None:
    """Copy objects, and make sure that what was copied is what the store or a manifest says."""
    wanted, before = objects, dict[str, str]()
    for attempt in range(1, TRIES + 1):
        _copy(store, wanted, target)
        digests = {item.key: _md5(_place_of(item, target)) for item in wanted}
        wanted = [
            item for item in wanted if not _sound(store, item, target, recorded, digests[item.key])
        ]
        if not wanted:
            break
        # The same content every time, of a store whose tags never agreed: they are no MD5s.
        same = recorded is None and all(before.get(i.key, "") == digests[i.key] for i in wanted)
        if attempt == TRIES and not (same and store.tags_are_opaque()):
            found = "has other content than its digest says"
            raise store.error(
                store.child_uri(wanted[0].key), f"{found} ({TRIES} tries)", "", "try again later"
            )
        before = digests
    if _objects(store) != objects:
        raise store.error(store.uri, "changed while it was read", action="run again")


def _copy(store: S3Store, objects: list[ObjectInfo], target: Path) -> None:
    pieces = []
    for item in objects:
        path = _place_of(item, target)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.truncate(item.num_bytes)
        pieces += [
            (item, path, start, min(start + CHUNK_BYTES, item.num_bytes))
            for start in range(0, item.num_bytes, CHUNK_BYTES)
        ]

    def copy(piece: tuple[ObjectInfo, Path, int, int]) -> None:
        item, path, start, stop = piece
        data = store.read_range(item, start, stop)
        with path.open("r+b") as file:
            file.seek(start)
            file.write(data)

    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        for _ in pool.map(copy, pieces):
            pass


def _sound(
    store: S3Store, item: ObjectInfo, target: Path, recorded: RecordedFile | None, md5: str
) -> bool:
    if recorded is not None:
        return file_sha256(_place_of(item, target)) == recorded.sha256
    return store.tag_agrees(item, md5) is not False


def _place_of(item: ObjectInfo, target: Path) -> Path:
    return target / item.key if item.key else target


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, _new_md5).hexdigest()


def _new_md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _refuse_damage(store: S3Store, damage: list[Damage]) -> None:
    """Refuse an object that a look tells is not what was recorded."""
    if damage:
        raise store.error(store.uri, damage[0].found, damage[0].needed, "copy it again")
