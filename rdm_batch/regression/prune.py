"""Remove what old runs have kept of their samples; the runs themselves stay."""

from __future__ import annotations

from dataclasses import dataclass

from rdm_batch.errors import RegressionError
from rdm_batch.regression.baseline import load_baseline
from rdm_batch.regression.history import ARTIFACTS_FOLDER, History
from rdm_batch.regression.suite import Suite


@dataclass(frozen=True)
class Pruned:
    """Say what was removed, or would be.

    Args:
        runs: Whose artifacts.
        objects: How many.
        num_bytes: Of all of them.
    """

    runs: tuple[str, ...]
    objects: int
    num_bytes: int


def prune(suite: Suite, history: History, keep: int, really: bool = True) -> Pruned:
    """Remove canaries, influences and candidates of a suite's old runs.

    Those of the latest runs stay, and whatever the suite's baseline refers to, however old it is.
    Figures and verdicts are never touched, nor the runs of other suites.

    Args:
        suite: The suite, with its baseline file as it is now.
        history: The history.
        keep: How many of the suite's latest runs keep everything.
        really: Whether to remove anything.

    Raises:
        RegressionError: ``keep`` is below 1, or the baseline or the history cannot be read.
    """
    if keep < 1:
        raise RegressionError("--keep", f"{keep}", "1 or more: the latest run may be accepted yet")
    baseline = load_baseline(suite.baseline, suite.spec.name)
    accepted = () if baseline is None else baseline.accepted
    needed = {kept.key for one in accepted for kept in one.objects.values()}
    runs = [run for run in history.read().runs if run.suite == suite.spec.name]
    old = {f"{ARTIFACTS_FOLDER}/{run.id}": run.id for run in runs[:-keep]}
    found = [
        item
        for item in history.store.list_objects(ARTIFACTS_FOLDER)
        if item.key.rpartition("/")[0] in old and item.key not in needed
    ]
    if really:
        for item in found:
            history.store.delete(item.key)
    of_runs = dict.fromkeys(old[item.key.rpartition("/")[0]] for item in found)
    return Pruned(tuple(of_runs), len(found), sum(item.num_bytes for item in found))
