"""Write a sample set shard by shard, resume it, and read it back.

Layout below one URI (design D3, D7)::

    sample_set.json        the header: what defines the samples; written first
    data/00000.parquet     the rows of shard 0; always the same bytes
    _shards/00000.json     its entry; written after the file is stored
    _SUCCESS.json          written when every planned shard has its entry

A process may die between any two of these. What counts is what has an entry whose file
is there; the rest is made again.

A listing may be late, so it only ever decides what is made again. Whether a set is complete,
and what a finished one holds, is asked for by name and compared with ``_SUCCESS.json``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
import pyarrow as pa

from rdm_batch.errors import SampleSetError
from rdm_batch.storage import reading
from rdm_batch.storage.manifest import (
    DATA_FOLDER,
    ENTRIES_FOLDER,
    HEADER_KEY,
    SUCCESS_KEY,
    Measured,
    SampleSetHeader,
    ShardEntry,
    Success,
    epoch_s,
    parse_manifest,
    shard_name,
)
from rdm_batch.storage.missing import MissingShards
from rdm_batch.storage.object_store import open_store
from rdm_batch.storage.store import Store
from rdm_batch.storage.table import table_bytes, wrong_sizes

_NUM_CONNECTIONS = 16
_MAX_NAMED = 5
# Lines about shards that are not stored, of which a plan may have a billion.
_MAX_LISTED = 1000


class SampleSet:
    """A sample set at a URI. Made by ``create_or_resume`` or ``open``."""

    def __init__(self, store: Store, header: SampleSetHeader) -> None:
        self.store = store
        self.header = header
        self._finished: list[ShardEntry] | None = None

    @property
    def uri(self) -> str:
        """Where the set is stored."""
        return self.store.uri

    @classmethod
    def create_or_resume(cls, uri: str, header: SampleSetHeader) -> SampleSet:
        """Start a set, or go on with the one that is there.

        Args:
            uri: Location of the set.
            header: What the samples will be. A set already there keeps its own.

        Raises:
            SampleSetError: When the location holds another job's samples (with the fields
                that differ), a damaged header, or shards without a header.
        """
        store = open_store(uri)
        stored = cls.check(uri, header)
        if stored is None:
            if store.write_bytes_if_absent(HEADER_KEY, header.to_bytes()):
                return cls(store, header)
            stored = _read_header(store) or header
            _refuse_other_job(uri, stored, header)
        return cls(store, stored)

    @classmethod
    def check(cls, uri: str, header: SampleSetHeader) -> SampleSetHeader | None:
        """Make sure that a set may be started or resumed at a location; write nothing.

        Returns:
            The header that is there; None where nothing is.

        Raises:
            SampleSetError: As ``create_or_resume``.
        """
        store = open_store(uri)
        stored = _read_header(store)
        if stored is not None:
            _refuse_other_job(uri, stored, header)
            return stored
        orphans = store.list_objects(ENTRIES_FOLDER) or store.list_objects(DATA_FOLDER)
        if orphans:
            raise SampleSetError(
                uri,
                f"holds {orphans[0].key} but no {HEADER_KEY}",
                "a sample set or nothing",
                "choose another output location",
            )
        return None

    @classmethod
    def find(cls, uri: str) -> SampleSet | None:
        """Open what is at a location, complete or not; None where there is no set."""
        store = open_store(uri)
        header = _read_header(store)
        return None if header is None else cls(store, header)

    @classmethod
    def open(cls, uri: str, allow_partial: bool = False) -> SampleSet:
        """Open a set for reading.

        Args:
            uri: Location of the set.
            allow_partial: Accept a set with missing shards.

        Raises:
            SampleSetError: When there is no set, it is incomplete (unless allowed), or its
                completion no longer agrees with its shards.
        """
        store = open_store(uri)
        header = _read_header(store)
        if header is None:
            raise SampleSetError(uri, f"holds no sample set ({HEADER_KEY} is missing)")
        sample_set = cls(store, header)
        if not allow_partial:
            sample_set.require_complete()
        return sample_set

    def first(self, num_shards: int) -> SampleSet:
        """Give the same set as if no more than its first shards had been stored.

        Raises:
            SampleSetError: One of them is not stored.
        """
        entries = [entry for entry in self.entries() if entry.shard < num_shards]
        lacking = set(range(min(num_shards, self.header.num_shards))) - {e.shard for e in entries}
        if lacking:
            raise SampleSetError(self.uri, _not_stored(min(lacking)), "", "run the job again")
        part = SampleSet(self.store, self.header)
        part._finished = entries
        return part

    def entries(self) -> list[ShardEntry]:
        """Give the entries of the set, in shard order.

        Of a finished set all of them, exactly those that its completion sums up. Of another
        those that are stored: an entry counts when its file is there with the size it names.

        Raises:
            SampleSetError: When an entry is damaged or does not belong to the plan, or a
                finished set is not what its completion says.
        """
        if self._finished is not None:
            return self._finished
        found = self.success()
        if found is None:
            return self._listed_entries()
        entries = self._named_entries()
        self._compare(found, entries)
        self._finished = entries
        return entries

    def recorded_entries(self) -> tuple[list[ShardEntry], list[str]]:
        """Read every entry, whether or not its file is there, and find what is wrong with others.

        Returns:
            The sound entries in shard order; and one line for every planned shard that has
            none (the first ``_MAX_LISTED``), and for every one that is damaged or does not belong
            to the plan.
        """
        listed = {item.key for item in self.store.list_objects(ENTRIES_FOLDER)}
        planned: Iterator[tuple[int, str]] = (
            (shard, self._entry_key(shard)) for shard in range(self.header.num_shards)
        )
        if self.store.exists(SUCCESS_KEY):
            # A finished set has them all, whatever a listing says.
            listed.update(key for _, key in planned)
            planned = iter(())
        absent = (shard for shard, key in planned if key not in listed)
        problems = [_not_stored(shard) for shard in islice(absent, _MAX_LISTED)]
        if len(problems) == _MAX_LISTED:
            problems.append("more shards are not stored")

        def read(key: str) -> ShardEntry | str | None:
            try:
                return self._read_entry(key)
            except SampleSetError as error:
                return str(error)

        keys = sorted(listed)
        with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
            found = list(pool.map(read, keys))
        gone = {key for key, item in zip(keys, found, strict=True) if item is None}
        problems += [
            _not_stored(shard)
            for shard in range(self.header.num_shards if gone else 0)
            if self._entry_key(shard) in gone
        ]
        problems += [item for item in found if isinstance(item, str)]
        return [item for item in found if isinstance(item, ShardEntry)], problems

    def missing_shards(self) -> MissingShards:
        """Tell the planned shards that are not stored yet."""
        known = self._listed_entries() if self.success() is None else self._named_entries()
        return MissingShards(self.header, (entry.shard for entry in known))

    def commit_shard(
        self,
        shard: int,
        table: pa.Table,
        measured: Measured | None = None,
    ) -> ShardEntry:
        """Store one shard: its file, then its entry.

        A shard that is stored already stays as it is and its entry is returned; committing
        twice is harmless.

        Args:
            shard: Position of the shard in the set.
            table: Its rows, by ``storage.table.make_table``, in the order of their indices.
            measured: Who made it and how fast; the interval ``write`` is added here.

        Raises:
            SampleSetError: When the rows are not the planned ones, an image has another
                size, or the store refuses.
        """
        self._check_rows(shard, table)
        self._finished = None
        begin = epoch_s()
        data = table_bytes(table)
        file, key = f"{DATA_FOLDER}/{shard_name(shard)}.parquet", self._entry_key(shard)
        present = self.store.stat(file)
        if present is not None:
            stored = self._read_entry(key)
            if stored is not None and stored.num_bytes == present.num_bytes:
                return stored
        self.store.write_bytes(file, data)
        if measured is not None:
            intervals = {**measured.intervals, "write": (begin, epoch_s())}
            measured = measured.model_copy(update={"intervals": intervals})
        entry = ShardEntry(
            shard=shard,
            first_index=self.header.rows_of(shard).start,
            num_rows=table.num_rows,
            file=file,
            sha256=hashlib.sha256(data).hexdigest(),
            num_bytes=len(data),
            measured=measured,
        )
        self.store.write_bytes(key, entry.to_bytes())
        return entry

    def finish(self) -> Success:
        """Declare the set complete.

        Raises:
            SampleSetError: When a planned shard is missing or the rows do not add up.
        """
        entries = self._named_entries()
        self._require_all(entries)
        success = Success.over(entries)
        self.store.write_bytes(SUCCESS_KEY, success.to_bytes())
        self._finished = entries
        return success

    def success(self) -> Success | None:
        """Read the proof of completion. None while there is none."""
        data = self.store.read_if_there(SUCCESS_KEY)
        if data is None:
            return None
        return parse_manifest(Success, data, self.store.child_uri(SUCCESS_KEY), SampleSetError)

    def require_complete(self) -> Success:
        """Make sure that every planned shard is stored and the completion agrees.

        Raises:
            SampleSetError: With the counts and the missing shards, when not.
        """
        entries = self._named_entries()
        self._require_all(entries)
        found = self.success()
        if found is None:
            raise SampleSetError(
                self.uri, "all shards are stored but it was not finished", "", "run the job again"
            )
        self._compare(found, entries)
        self._finished = entries
        return found

    def iter_batches(
        self, columns: Sequence[str] | None = None, shards: Sequence[int] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Stream the samples in order of their index, a row group at a time.

        Args:
            columns: Columns wanted. None means all.
            shards: Shards wanted, in the order wanted. None means every stored one.

        Raises:
            SampleSetError: When a shard is not stored, its file is damaged, or its samples
                are not the planned ones (duplicated, foreign, of another size), with counts.
        """
        # Of a finished set these are all planned shards, or entries() has failed.
        stored = {entry.shard: entry for entry in self.entries()}
        for shard in sorted(stored) if shards is None else shards:
            if shard not in stored:
                raise SampleSetError(self.uri, f"shard {shard} is not stored")
            yield from reading.iter_shard(self.store, self.header, stored[shard], columns)

    def _entry_key(self, shard: int) -> str:
        return f"{ENTRIES_FOLDER}/{shard_name(shard)}.json"

    def _listed_entries(self) -> list[ShardEntry]:
        """Read what a listing shows: enough to decide what is made again."""
        # Entries first: a shard that is committed meanwhile is then seen whole or not at all.
        keys = [item.key for item in self.store.list_objects(ENTRIES_FOLDER)]
        files = {item.key: item.num_bytes for item in self.store.list_objects(DATA_FOLDER)}
        with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
            found = [entry for entry in pool.map(self._read_entry, keys) if entry is not None]
        return [entry for entry in found if files.get(entry.file) == entry.num_bytes]

    def _named_entries(self) -> list[ShardEntry]:
        """Ask for every planned entry and its file by their names."""

        def read(shard: int) -> ShardEntry | None:
            entry = self._read_entry(self._entry_key(shard))
            if entry is None:
                return None
            file = self.store.stat(entry.file)
            return entry if file is not None and file.num_bytes == entry.num_bytes else None

        with ThreadPoolExecutor(_NUM_CONNECTIONS) as pool:
            found = pool.map(read, range(self.header.num_shards))
            return [entry for entry in found if entry is not None]

    def _compare(self, found: Success, entries: Sequence[ShardEntry]) -> None:
        summed = Success.over(entries)
        if found == summed:
            return
        self._require_all(entries)
        raise SampleSetError(
            self.uri,
            f"shards add up to {summed.num_rows:,} samples and {summed.num_bytes:,} bytes",
            f"{found.num_rows:,} samples and {found.num_bytes:,} bytes of the same content, "
            f"as {SUCCESS_KEY} says",
            "it was changed after it was finished; generate it again",
        )

    def _read_entry(self, key: str) -> ShardEntry | None:
        where, data = self.store.child_uri(key), self.store.read_if_there(key)
        if data is None:
            return None
        entry = parse_manifest(ShardEntry, data, where, SampleSetError)
        rows = self.header.rows_of(entry.shard)
        if (
            key != self._entry_key(entry.shard)
            or entry.first_index != rows.start
            or entry.num_rows != len(rows)
        ):
            raise SampleSetError(
                where,
                f"is shard {entry.shard} with {entry.num_rows:,} samples from "
                f"{entry.first_index:,}",
                f"a shard of {self.header.num_samples:,} samples by {self.header.shard_size:,}",
                "the set is duplicated or mixed with another; generate it again",
            )
        return entry

    def _check_rows(self, shard: int, table: pa.Table) -> None:
        where = f"{self.uri} shard {shard}"
        planned = self.header.rows_of(shard)
        indices = table.column("sample_index").to_numpy()
        if shard < 0 or not np.array_equal(indices, np.asarray(planned)):
            found = f"{len(indices):,} samples"
            raise SampleSetError(where, found, f"exactly {planned.start:,} to {planned.stop - 1:,}")
        sizes = wrong_sizes(table, self.header.image_size)
        if sizes:
            raise reading.mixed_sizes(where, sizes, table.num_rows, self.header.image_size)

    def _require_all(self, entries: Sequence[ShardEntry]) -> None:
        missing = MissingShards(self.header, (entry.shard for entry in entries))
        if missing:
            named = ", ".join(map(str, islice(missing, _MAX_NAMED)))
            more = f" and {len(missing) - _MAX_NAMED:,} more" if len(missing) > _MAX_NAMED else ""
            raise SampleSetError(
                self.uri,
                f"has {sum(entry.num_rows for entry in entries):,} of "
                f"{self.header.num_samples:,} samples (shards missing: {named}{more})",
                "",
                "run the job again to resume it",
            )


def _not_stored(shard: int) -> str:
    return f"shard {shard} is not stored"


def _read_header(store: Store) -> SampleSetHeader | None:
    data = store.read_if_there(HEADER_KEY)
    if data is None:
        return None
    return parse_manifest(SampleSetHeader, data, store.child_uri(HEADER_KEY), SampleSetError)


def _refuse_other_job(uri: str, stored: SampleSetHeader, header: SampleSetHeader) -> None:
    if stored.digest == header.digest:
        return
    changes = header.changes_from(stored)
    raise SampleSetError(
        uri,
        f"belongs to another job; changed since: {'; '.join(changes) or 'its digest'}",
        "",
        "choose another output location or undo the change",
    )
