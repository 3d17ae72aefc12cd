"""What lies in a database: where its rows lie, which are near duplicates, what p_D covers."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int64

from rdm_batch.databases.describe import describe_database
from rdm_batch.errors import DatabaseError
from rdm_batch.formats.format_error import FormatError
from rdm_batch.formats.npy_file import NpyFile
from rdm_batch.inputs.databases import Database
from rdm_batch.metrics.regions import principal_plane
from rdm_batch.reports.database_page import (
    Coverage,
    DatabaseReport,
    Leaves,
    Pair,
    PlacedRow,
    RowsMap,
)
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.retrieval.row_records import RowRecord

MAP_ROWS = 2_000
"""Rows that are placed on the map."""
DUPLICATE_ROWS = 1_000
"""Rows whose nearest other row is looked up."""
DUPLICATE_SIMILARITY = 0.999
"""Cosine similarity from which two rows count as duplicates: re-encoded copies of one picture."""
SHARES = (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Values of ``top_m`` whose mass is told."""

_SEED = 0
_PAIRS = 12
_PICTURES = 70
_CUT = 0.005
# Sides of a picture on the map, in thousandths of the map's.
_PICTURE_SIDE = 62
_CURVE_POINTS = 200
_TOKENS = "datapoint_to_token.npy"


def look_into(database: Database) -> DatabaseReport:
    """Collect what there is to see in a database; equal databases give equal reports.

    Args:
        database: The database; its rows are loaded.

    Raises:
        DatabaseError: It is incomplete or damaged.
    """
    manifest = database.manifest
    database.check_stored_files()
    retriever = database.retriever()
    chosen = _some_rows(manifest.rows, MAP_ROWS)
    embeddings = retriever.fetch(chosen)
    map_, shown = _map(chosen, embeddings)
    pairs, nearest = _pairs(retriever, chosen[:DUPLICATE_ROWS], embeddings[:DUPLICATE_ROWS])
    ids = {*shown, *(row for pair in pairs for row in (pair.row, pair.nearest))}
    proposal = database.proposal()
    return DatabaseReport(
        uri=database.uri,
        facts=describe_database(manifest),
        rows=manifest.rows,
        map=map_,
        pairs=pairs,
        num_compared=len(nearest),
        num_duplicates=int((nearest >= DUPLICATE_SIMILARITY).sum()),
        duplicate_similarity=DUPLICATE_SIMILARITY,
        median_nearest=float(np.median(nearest)) if len(nearest) else None,
        coverage=None if proposal is None else _coverage(proposal, manifest.rows),
        leaves=_leaves(database),
        pictures=_thumbnails(retriever, sorted(ids)),
        captions={
            row: record.text or record.item_id
            for row, record in _records(retriever, sorted(ids)).items()
        },
    )


def _some_rows(rows: int, count: int) -> Int64[np.ndarray, " n"]:
    """Choose rows by lot, always the same ones, in an order that is a lot as well."""
    if rows <= count:
        return np.random.default_rng(_SEED).permutation(rows).astype(np.int64)
    drawn = np.random.default_rng(_SEED).integers(0, rows, 2 * count)
    _, first = np.unique(drawn, return_index=True)
    return drawn[np.sort(first)][:count].astype(np.int64)


def _map(
    ids: Int64[np.ndarray, " n"], embeddings: Float32[np.ndarray, "n dim"]
) -> tuple[RowsMap | None, list[int]]:
    """Place rows in the plane in which they vary most; pictures where they do not overlap."""
    if len(ids) < 3:
        return None, []
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    plane = principal_plane(unit, unit)
    places = plane.reference
    low, high = (np.quantile(places, end, axis=0) for end in (_CUT, 1 - _CUT))
    span = np.where(high > low, high - low, 1)
    scaled = np.clip(1000 * (places - low) / span, 0, 1000).round().astype(np.int64)
    pictured = _apart(scaled)
    return RowsMap(
        explained=plane.explained,
        dots=tuple((int(x), int(y)) for x, y in scaled),
        pictured=tuple(PlacedRow(int(ids[row]), *scaled[row].tolist()) for row in pictured),
    ), [int(ids[row]) for row in pictured]


def _apart(places: Int64[np.ndarray, "n 2"]) -> list[int]:
    """Choose rows whose pictures do not cover each other, in the order they come."""
    kept: list[int] = []
    for row, place in enumerate(places):
        if len(kept) == _PICTURES:
            break
        if not kept or (np.abs(places[kept] - place).max(axis=1) > _PICTURE_SIDE).all():
            kept.append(row)
    return kept


def _pairs(
    retriever: CompositeRetriever,
    ids: Int64[np.ndarray, " n"],
    embeddings: Float32[np.ndarray, "n dim"],
) -> tuple[tuple[Pair, ...], Float64[np.ndarray, " n"]]:
    """Find the nearest other row of each; give the closest pairs, each once."""
    if retriever.rows < 2:
        return (), np.empty(0)
    found = retriever.search(embeddings, 2)
    # Among duplicates the row itself need not come first.
    other = np.where(found.ids[:, 0] == ids, 1, 0)
    rows = np.arange(len(ids))
    nearest, scores = found.ids[rows, other], found.scores[rows, other].astype(np.float64)
    pairs: dict[tuple[int, int], Pair] = {}
    for place in np.argsort(-scores, kind="stable").tolist():
        row, near = int(ids[place]), int(nearest[place])
        pairs.setdefault((min(row, near), max(row, near)), Pair(row, near, float(scores[place])))
        if len(pairs) == _PAIRS:
            break
    return tuple(pairs.values()), scores


def _coverage(proposal: Proposal, rows: int) -> Coverage:
    """Say how much of p_D its most frequent entries hold, in the terms of ``top_m``."""
    cumulative = np.cumsum(proposal.counts) / proposal.counts.sum()
    entries = len(cumulative)

    def mass(top_m: float) -> float:
        return float(cumulative[max(1, int(top_m * entries)) - 1])

    last = np.unique(np.linspace(1, entries, min(entries, _CURVE_POINTS)).astype(np.int64))
    return Coverage(
        entries=entries,
        rows=rows,
        masses=tuple((share, mass(share)) for share in SHARES if share * entries >= 1),
        curve=((0.0, 0.0), *((int(n) / entries, float(cumulative[n - 1])) for n in last)),
    )


def _leaves(database: Database) -> tuple[Leaves, ...]:
    """Count the rows of each leaf of the partitioned shards, where the index says it."""
    found = []
    for number, shard in enumerate(database.manifest.shards):
        path = next((f.path for f in shard.index_files if f.path.endswith(_TOKENS)), None)
        if path is None:
            continue
        try:
            tokens = NpyFile(database.root([number]) / path).rows()
        except FormatError as problem:
            raise DatabaseError(f"{database.uri}/{path}", str(problem), "an index") from None
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or (tokens.size and tokens.min() < 0):
            raise DatabaseError(f"{database.uri}/{path}", "is no list of leaves", "an index")
        num_leaves = shard.index.resolve(shard.rows).leaves or 1
        if tokens.size and int(tokens.max()) >= num_leaves:
            found_leaf = f"leaf {int(tokens.max()):,}"
            raise DatabaseError(f"{database.uri}/{path}", found_leaf, f"less than {num_leaves:,}")
        # Of a tree_soar, one after the other: the leaf of each row, and its second one.
        counts = np.bincount(tokens.astype(np.int64), minlength=num_leaves)
        low, middle, high = np.quantile(counts, [0, 0.5, 1]).tolist()
        found.append(Leaves(number, num_leaves, int(low), middle, int(high)))
    return tuple(found)


def _records(retriever: CompositeRetriever, ids: list[int]) -> dict[int, RowRecord]:
    found = retriever.records(np.array(ids, dtype=np.int64))
    return dict(zip(ids, found, strict=True))


def _thumbnails(retriever: CompositeRetriever, ids: list[int]) -> dict[int, bytes]:
    try:
        return dict(zip(ids, retriever.thumbnails(np.array(ids, dtype=np.int64)), strict=True))
    except DatabaseError:  # a database may be stored without
        return {}
