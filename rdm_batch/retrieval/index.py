"""ScaNN search structures of one shard: build, load, candidates.

ScaNN (Guo et al. 2020, arXiv:1908.10396) proposes candidates; their order and scores are
then decided exactly (``shard.py``). What ScaNN does to a process that misuses it (ends it
on bad rows, zero threads or a damaged file) is prevented here, by checks before the call.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, UInt32

from rdm_batch.errors import DatabaseError
from rdm_batch.files import UNREADABLE
from rdm_batch.retrieval.embeddings import check_embeddings, unit_rows
from rdm_batch.specs.database import IndexSettings

PARTITIONED = ("tree_soar", "tree_ah")
"""Kinds of indexes that are stored: trees, whose leaves are searched by 4-bit codes."""
_ANISOTROPIC_THRESHOLD = 0.2
_DIMENSIONS_PER_BLOCK = 2
_TRAINING_ROWS = 250_000
_TRAINING_ROWS_PER_LEAF = 24
_FEWEST_TRAINING_ROWS_OF_A_LEAF = 8
"""Fewer, and its center is drawn anew. ScaNN's 50 make leaves of equal size, not of rows that lie
together: a quarter more of them must be searched."""
_TRAINING_PASSES = 6
_DEFAULT_PASSES = 12
# SOAR, Sun et al. 2023, arXiv:2404.00774: each row lies in a second leaf too, whose residual points
# elsewhere.
_SOAR_LAMBDA = 1.5
_SOAR_OVERRETRIEVE = 1.2
_SEEDS = {
    "partitioning": "clustering_seed: 1",
    "asymmetric_hash": "clustering_seed: 2 sampling_seed: 3",
}
_BRUTE_FORCE_BATCH = 256
_LEAST_ROWS = 16
"""As many as a code of four bits has values, each of which is learned."""


def codes_of_row(settings: IndexSettings) -> int:
    """Count the codes that a tree stores of each row: SOAR puts it into two leaves."""
    return 2 if settings.kind == "tree_soar" else 1


def learning_products(settings: IndexSettings, rows: int, dim: int) -> float:
    """Count the multiply-adds that making a tree takes: nearly all compare rows with leaves.

    Args:
        settings: Resolved settings of a partitioned index.
        rows: Rows of the shard.
        dim: Width of a row.
    """
    learned, passes = _TRAINING_ROWS, _DEFAULT_PASSES
    if settings.kind == "tree_soar":
        learned, passes = _TRAINING_ROWS_PER_LEAF * (settings.leaves or 1), _TRAINING_PASSES
    compared = passes * min(rows, learned) + codes_of_row(settings) * rows
    return float(compared) * (settings.leaves or 1) * dim


class ShardIndex:
    """Propose neighbor candidates of one shard.

    Args:
        searcher: ScaNN searcher over the normalized rows.
        rows: Rows of the shard.
        settings: Resolved settings the searcher was built with.
        num_threads: Threads of one search, at least 1.
    """

    def __init__(
        self, searcher: Any, rows: int, settings: IndexSettings, num_threads: int = 1
    ) -> None:
        if num_threads < 1:
            raise DatabaseError("index", f"num_threads = {num_threads}", "at least 1 thread")
        searcher.set_num_threads(num_threads)
        self._num_threads = num_threads
        self._searcher = searcher
        self.rows = rows
        self.settings = settings

    def searching(self, settings: IndexSettings) -> ShardIndex:
        """Give the same index with another effort."""
        other = copy.copy(self)
        other.settings = settings
        return other

    def candidates(
        self, unit_queries: Float32[np.ndarray, "n dim"], count: int
    ) -> tuple[UInt32[np.ndarray, "n found"], Float32[np.ndarray, "n found"]]:
        """Propose up to ``count`` rows per query.

        Queries of a partitioned index are searched one by one: what ScaNN finds then cannot
        depend on the batch a query arrived in. On one thread they are single searches, which
        visit the nearest leaf first and walk through no list of all leaves; ScaNN's batches of
        one find the same rows with the same scores, 0.05 ms later.

        Args:
            unit_queries: Finite normalized queries.
            count: Candidates per query, in 1..rows.

        Returns:
            Row positions, and ScaNN's own scores: not finite where there is no row, since fewer
            were found for a query than for another.
        """
        if len(unit_queries) == 0:
            return np.empty((0, count), np.uint32), np.empty((0, count), np.float32)
        if self.settings.kind == "brute_force":
            parts = [
                self._searcher.search_batched(
                    unit_queries[start : start + _BRUTE_FORCE_BATCH], final_num_neighbors=count
                )
                for start in range(0, len(unit_queries), _BRUTE_FORCE_BATCH)
            ]
            found = np.concatenate([part[0] for part in parts])
            scores = np.concatenate([part[1] for part in parts])
        else:
            codes_alone = self.settings.kind == "tree_soar"
            rescored = -1 if codes_alone else max(self.settings.reorder, count)
            leaves = self.settings.leaves_to_search or -1
            if self._num_threads == 1 or len(unit_queries) == 1:
                search = self._searcher.search
                found, scores = _side_by_side(
                    [search(query, count, rescored, leaves) for query in unit_queries]
                )
            else:
                found, scores = self._searcher.search_batched_parallel(
                    unit_queries, count, rescored, leaves, batch_size=1
                )
        return found, scores


def _side_by_side(
    answers: list[tuple[UInt32[np.ndarray, " _"], Float32[np.ndarray, " _"]]],
) -> tuple[UInt32[np.ndarray, "n found"], Float32[np.ndarray, "n found"]]:
    """Put answers of single searches into one table, filled as ScaNN fills those of batches."""
    if len(answers) == 1:
        ((found, scores),) = answers
        return found[None], scores[None]
    shape = len(answers), max(len(found) for found, _ in answers)
    rows, values = np.zeros(shape, np.uint32), np.full(shape, np.nan, np.float32)
    for number, (found, scores) in enumerate(answers):
        rows[number, : len(found)] = found
        values[number, : len(found)] = scores
    return rows, values


def build_index(
    embeddings: Float[np.ndarray, "rows dim"],
    settings: IndexSettings,
    where: str,
    num_threads: int = 1,
) -> ShardIndex:
    """Build the search structure of one shard in memory.

    Args:
        embeddings: Raw rows of the shard; normalized here, since the search is cosine.
        settings: Index settings; automatic values are resolved for this shard.
        where: URI or description used in messages.
        num_threads: Training and search threads, at least 1.

    Raises:
        DatabaseError: A row is not finite or zero (ScaNN would end the process), or there are
            too few rows for a tree.
    """
    check_embeddings(embeddings, where)
    if len(embeddings) == 0:
        raise DatabaseError(where, "no rows", "at least one row per shard")
    resolved = settings.resolve(len(embeddings))
    if resolved.kind in PARTITIONED and len(embeddings) < _LEAST_ROWS:
        found = f"{len(embeddings)} rows for an index of kind {resolved.kind}"
        raise DatabaseError(where, found, f"at least {_LEAST_ROWS}", "choose brute_force")
    searcher = scann_searcher(unit_rows(embeddings), resolved, num_threads)
    return ShardIndex(searcher, len(embeddings), resolved, num_threads)


def scann_searcher(
    unit: Float32[np.ndarray, "rows dim"],
    settings: IndexSettings,
    num_threads: int = 1,
    rescored_inside: bool = False,
) -> Any:
    """Let ScaNN build its search structure.

    Args:
        unit: Normalized rows, each with a direction.
        settings: Resolved settings.
        num_threads: Training threads, at least 1.
        rescored_inside: Whether ScaNN keeps rows of a ``tree_soar`` to rescore candidates itself,
            as a ``tree_ah`` does; to compare with.
    """
    import scann

    builder = scann.scann_ops_pybind.builder(unit, 1, "dot_product")
    if settings.kind == "brute_force":
        builder = builder.score_brute_force()
    else:
        soar = settings.kind == "tree_soar"
        sample, special = _TRAINING_ROWS, {}
        if soar:
            sample = _TRAINING_ROWS_PER_LEAF * (settings.leaves or 1)
            special = {
                "soar_lambda": _SOAR_LAMBDA,
                "overretrieve_factor": _SOAR_OVERRETRIEVE,
                "quantize_centroids": True,
                "min_partition_size": _FEWEST_TRAINING_ROWS_OF_A_LEAF,
                "training_iterations": _TRAINING_PASSES,
            }
        builder = builder.tree(
            settings.leaves,
            # Said with every search of a tree that is tuned; here it would make other bytes.
            1 if soar else settings.leaves_to_search,
            training_sample_size=min(len(unit), sample),
            random_init=False,
            **special,
        ).score_ah(_DIMENSIONS_PER_BLOCK, anisotropic_quantization_threshold=_ANISOTROPIC_THRESHOLD)
        if not soar or rescored_inside:
            kinds = scann.scann_ops_pybind.scann_builder.ReorderType
            quantize = getattr(kinds, settings.quantization.upper())
            builder = builder.reorder(settings.reorder, quantize=quantize)
    return scann.scann_ops_pybind.create_searcher(
        unit, _seeded(builder.create_config()), max(1, num_threads)
    )


def _seeded(config: str) -> str:
    """Fix what ScaNN would draw anew in every process.

    With these seeds, and with centers that do not begin at random (``random_init=False``), equal
    rows and settings make equal bytes, in any process and on any number of threads. No option of
    ScaNN's builder sets them; they are fields of the text it makes.
    """
    for part, seeds in _SEEDS.items():
        config = config.replace(f"{part} {{", f"{part} {{ {seeds}", 1)
    return config


def save_index(index: ShardIndex, folder: Path) -> list[Path]:
    """Write a partitioned index and list its files; a brute-force index has none.

    A scanned shard needs nothing but its embeddings, which the database stores anyway, so
    its searcher is made anew in milliseconds instead of storing the vectors twice.

    Raises:
        DatabaseError: ScaNN wrote something that could not be loaded safely elsewhere.
    """
    if index.settings.kind not in PARTITIONED:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    index._searcher.serialize(str(folder), relative_path=True)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    check_index_folder(folder, [path.name for path in files])
    return files


def check_index_folder(folder: Path, names: list[str]) -> None:
    """Refuse an index folder that ScaNN must not open.

    Args:
        folder: The folder.
        names: File names the manifest lists for it.

    Raises:
        DatabaseError: A file is missing or unknown, there is a pickle (ScaNN would
            unpickle ``scann_docids.pkl``), or an asset path leads out of the folder.
    """
    present = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if present != sorted(names):
        raise DatabaseError(
            str(folder),
            f"files {present}",
            f"exactly the files of the manifest {sorted(names)}",
            "rebuild the database or copy it again",
        )
    pickles = [name for name in names if name.endswith((".pkl", ".p", ".pickle"))]
    if pickles:
        raise DatabaseError(
            str(folder), f"a pickled file {pickles[0]}", "an index without pickles", "rebuild it"
        )
    assets = folder / "scann_assets.pbtxt"
    if assets.name not in names:
        raise DatabaseError(str(folder), f"no {assets.name}", "a complete index", "rebuild it")
    for line in assets.read_text(encoding="utf-8").splitlines():
        key, _, value = line.strip().partition(": ")
        if key == "asset_path" and value.strip('"') not in names:
            raise DatabaseError(
                str(assets),
                f"the asset {value}",
                "file names inside the index folder",
                "rebuild the database",
            )


def load_index(
    folder: Path, names: list[str], rows: int, settings: IndexSettings, num_threads: int = 1
) -> ShardIndex:
    """Load a partitioned index whose files have been checked against the manifest.

    Raises:
        DatabaseError: The folder fails :func:`check_index_folder`, or the index holds
            another number of rows.
    """
    import scann

    check_index_folder(folder, names)
    try:
        searcher = scann.scann_ops_pybind.load_searcher(str(folder), assets_backcompat_shim=False)
    except (RuntimeError, *UNREADABLE) as error:
        raise DatabaseError(
            str(folder),
            f"ScaNN cannot load it ({str(error)[:200]})",
            "a whole index",
            "compare the database with its digests (`rdm-batch database check`), or rebuild it",
        ) from None
    if searcher.size() != rows:
        raise DatabaseError(
            str(folder),
            f"an index of {searcher.size():,} rows",
            f"{rows:,} rows, as the shard's embeddings have",
            "rebuild the database",
        )
    return ShardIndex(searcher, rows, settings, num_threads)
