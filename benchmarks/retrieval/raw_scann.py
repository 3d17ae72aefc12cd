"""Raw ScaNN with the tree and codes of an index that is stored, rescoring inside: to compare with.

Built by itself it would be the same files, for builds are reproducible, and one more: its own copy
of the rows. A test holds the two equal; building a million rows again takes minutes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks.retrieval.databases import Asked
from rdm_batch.retrieval.embeddings import unit_rows
from rdm_batch.retrieval.index import ShardIndex
from rdm_batch.retrieval.scores import score_candidates

_RAISES = 4
"""Raises in a row that must find more together, else none will."""
_LESS = 0.002
"""Recall that counts as equal."""
_FEWER = (300, 200, 150, 100, 80, 64, 56, 48, 40, 32, 24, 20)
"""Candidates that are tried, falling."""
_ROWS_FILE = "bfloat16_dataset.npy"


def write_raw_index(index: Path, rows: np.ndarray, folder: Path) -> None:
    """Put bfloat16 rows beside the files of an index, and say that they rescore.

    Args:
        index: Folder of the index.
        rows: Rows that it was built of.
        folder: Where the other index goes.
    """
    from scann.proto import scann_pb2

    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(index, folder)
    rounded = torch.from_numpy(unit_rows(rows)).to(torch.bfloat16).view(torch.int16)
    np.save(folder / _ROWS_FILE, rounded.numpy())
    assets = folder / "scann_assets.pbtxt"
    entry = f'assets {{\n  asset_type: BF16_DATASET_NPY\n  asset_path: "{_ROWS_FILE}"\n}}\n'
    assets.write_text(assets.read_text() + entry)
    path = folder / "scann_config.pb"
    config = scann_pb2.ScannConfig.FromString(path.read_bytes())
    config.exact_reordering.approx_num_neighbors = 100
    config.exact_reordering.bfloat16.enabled = True
    config.exact_reordering.bfloat16.noise_shaping_threshold = float("nan")
    path.write_bytes(config.SerializeToString())


def equal_recall(index: ShardIndex, rows: np.ndarray, asked: Asked, recall: float) -> ShardIndex:
    """Raise the leaves that raw ScaNN searches until it finds as much, or no more by more leaves.

    It chooses by scores rounded to bfloat16: where neighbors score nearly alike, some are not
    among its first however many leaves it searches. Then it is given the fewest that find most.
    Last it rescores the fewest candidates that find as much: what it need not rescore is no cost
    of its own.
    """
    k = asked.exact.shape[1]

    def found_by(trial: ShardIndex) -> float:
        return asked.recall(lambda queries: rescored_scores(trial, rows, queries, k))

    found, chosen = _enough_leaves(index, found_by, recall - _LESS)
    for candidates in _FEWER:
        if candidates < chosen.settings.reorder:
            update = {"reorder": candidates}
            trial = chosen.searching(chosen.settings.model_copy(update=update))
            if found_by(trial) < min(recall - _LESS, found):
                break
            chosen = trial
    return chosen


def _enough_leaves(
    index: ShardIndex, found_by: Callable[[ShardIndex], float], needed: float
) -> tuple[float, ShardIndex]:
    settings = index.settings
    tried: list[tuple[float, ShardIndex]] = []
    while True:
        trial = index.searching(settings)
        found = found_by(trial)
        if found >= needed or settings.leaves_to_search == settings.leaves:
            return found, trial
        tried.append((found, trial))
        if len(tried) > _RAISES and found < tried[-1 - _RAISES][0] + 0.001:
            return tried[-1 - _RAISES]
        leaves = min(settings.leaves or 1, round((settings.leaves_to_search or 1) * 1.04) + 1)
        settings = settings.model_copy(update={"leaves_to_search": leaves})


def rescored_scores(index: ShardIndex, rows: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Score what raw ScaNN finds exactly: its own scores are rounded."""
    positions, rough = index.candidates(unit_rows(queries), k)
    return np.where(np.isfinite(rough), score_candidates(queries, rows, positions), -np.inf)
