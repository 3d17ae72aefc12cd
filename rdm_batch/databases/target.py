"""Where a database is built: complete, resumed, refused, published last."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydantic import JsonValue

from rdm_batch.databases.parts import damaged_record
from rdm_batch.errors import DatabaseError
from rdm_batch.files import canonical_digest, find_damage_in, locked, user_cache, written_aside
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.json_text import parse_json
from rdm_batch.inputs.databases import Database
from rdm_batch.retrieval.database import (
    MANIFEST_NAME,
    DatabaseManifest,
    StoredFile,
    render_manifest,
)
from rdm_batch.storage.object_store import open_store, redact
from rdm_batch.storage.store import LocalStore

_WORK_FOLDER = ".build"
_REQUEST_NAME = "request.json"
_UPLOADED_NAME = "uploaded.txt"
_COPY_BYTES = 1 << 20


class DatabaseTarget:
    """A location a database is built at.

    A local database is made in place; for any other location it is made in the user's
    cache and uploaded when it is whole. Either way the manifest is written last, and
    what an interrupted build left is used again by the same request only.

    Args:
        uri: Where the database goes.
        request: What determines its content, as JSON values.
    """

    def __init__(self, uri: str, request: dict[str, JsonValue]) -> None:
        self.uri = uri
        self.request = request
        self.store = open_store(uri, DatabaseError)
        if isinstance(self.store, LocalStore):
            self.root = self.store.root
        else:
            key = canonical_digest({"uri": uri, "request": request})[:32]
            self.root = user_cache() / "builds" / key
        self.work = self.root / _WORK_FOLDER

    def finished(self) -> DatabaseManifest | None:
        """Give the manifest when this very build is complete already.

        Raises:
            DatabaseError: Another database, an unfinished build of another request, or
                other files are there; the database is damaged; nothing can be written.
        """
        if self.store.exists(MANIFEST_NAME):
            database = Database.open(self.uri)
            self._refuse_other(database.manifest.build, "a database")
            database.check_stored_files("remove the damaged database and build it again")
            return database.manifest
        self.store.check_writable()
        unfinished = self.work / _REQUEST_NAME
        if unfinished.is_file():
            # Without it nobody can tell what the other files are.
            begun = self._begun(unfinished, f"the unfinished build {self.root}")
            self._refuse_other(begun, "an unfinished build")
        elif any(not item.key.startswith(f"{_WORK_FOLDER}/") for item in self.store.list_objects()):
            raise DatabaseError(
                redact(self.uri), "holds other files", "an empty location", "choose another one"
            )
        return None

    def _begun(self, path: Path, remove: str) -> dict[str, JsonValue]:
        """Read the request that an interrupted build was of."""
        try:
            found = parse_json(path.read_bytes())
        except (FormatError, OSError) as problem:
            raise damaged_record(path, str(problem), remove) from None
        if not isinstance(found, dict):
            raise damaged_record(path, "is no request", remove)
        return found

    def to_count_again(self, counting: Collection[str]) -> DatabaseManifest | None:
        """Give the manifest of this very database with no proposal distribution, or a preview.

        Args:
            counting: What of the request says how the distribution is counted.

        Raises:
            DatabaseError: The manifest is damaged.
        """
        if not self.store.exists(MANIFEST_NAME):
            return None
        manifest = Database.open(self.uri).manifest
        found, asked = (
            {name: value for name, value in request.items() if name not in counting}
            for request in (manifest.build, self.request)
        )
        same = found == asked and manifest.build != self.request
        preview = manifest.counted is not None and manifest.counted.share < 1
        return manifest if same and (preview or manifest.proposal is None) else None

    def upload(self, files: Sequence[StoredFile]) -> None:
        """Put files in place ahead of the manifest, for workers elsewhere; each once.

        Nothing is done where the database is made in place.
        """
        if isinstance(self.store, LocalStore):
            return
        noted = self.work / _UPLOADED_NAME
        known = set(noted.read_text().split()) if noted.is_file() else set()
        there = {damage.path for damage in self.store.find_damage(files)}
        for file in files:
            if file.sha256 in known and file.path not in there:
                continue
            with (
                (self.root / file.path).open("rb") as source,
                self.store.open_write(file.path) as target,
            ):
                shutil.copyfileobj(source, target, _COPY_BYTES)
            known.add(file.sha256)
            with written_aside(noted) as aside:
                aside.write_text("\n".join(sorted(known)))

    def _refuse_other(self, found: dict[str, JsonValue], what: str) -> None:
        differing = [
            f"{name} {found.get(name)!r} instead of {self.request.get(name)!r}"
            for name in sorted(found.keys() | self.request.keys())
            if found.get(name) != self.request.get(name)
        ]
        if differing:
            raise DatabaseError(
                redact(self.uri),
                f"holds {what} made with {'; '.join(differing)}",
                "the same request",
                "choose another location or remove it",
            )

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep a second process on this machine from building the same database."""
        self.work.mkdir(parents=True, exist_ok=True)
        busy = DatabaseError(
            redact(self.uri), "another process is building here", "", "wait for it"
        )
        with locked(self.work / "lock", busy):
            with written_aside(self.work / _REQUEST_NAME) as aside:
                aside.write_text(json.dumps(self.request))
            yield

    def unfinished(self) -> None:
        """Make sure that what an interrupted change left, if anything, is of this request.

        Raises:
            DatabaseError: It is of another one.
        """
        begun = self.work / _REQUEST_NAME
        if begun.is_file():
            found = self._begun(begun, f"the unfinished change {self.work}")
            self._refuse_other(found, "an unfinished change")

    def publish(
        self, manifest: DatabaseManifest, files: Sequence[StoredFile] | None = None
    ) -> DatabaseManifest:
        """Put files in place, then the manifest, and forget the intermediate results.

        Args:
            manifest: The manifest, digest left out.
            files: What was made here. None: every file.
        """
        complete = manifest.with_digest()
        made = complete.files() if files is None else files
        damage = find_damage_in(self.root, made)
        if damage:
            raise DatabaseError(str(self.root), f"{damage[0]} before it was published")
        self.upload(made)
        self.store.write_bytes(MANIFEST_NAME, render_manifest(complete))
        shutil.rmtree(self.work if isinstance(self.store, LocalStore) else self.root)
        return complete
