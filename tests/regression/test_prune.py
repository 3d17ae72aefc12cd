from __future__ import annotations

from pathlib import Path

import pytest

from rdm_batch.cli import main
from rdm_batch.errors import RegressionError
from rdm_batch.regression.baseline import save_baseline
from rdm_batch.regression.history import History
from rdm_batch.regression.prune import prune
from rdm_batch.regression.suite import Suite, load_suite
from tests.regression.kit import accept_night, make_night, make_run, night
from tests.regression.test_suite import write_suite


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return load_suite(write_suite(tmp_path))


def kept(history: History) -> dict[str, int]:
    """Count what each run has kept."""
    keys = [item.key.split("/")[1] for item in history.store.list_objects("artifacts")]
    return {run: keys.count(run) for run in keys}


def test_only_samples_of_old_runs_go_and_never_the_accepted_ones(
    suite: Suite, tmp_path: Path
) -> None:
    history = History(str(tmp_path / "history"))
    runs = [history.append(make_run(night(number))) for number in range(5)]
    elsewhere = history.append(make_run(night(0), suite="other"))
    for run in (*runs, elsewhere):
        history.keep(run.id, "quick.canary.parquet", b"1234")
        history.keep(run.id, "quick.influences.parquet", b"12")
    accepted = accept_night(history, make_night())
    # The oldest night was accepted; its canary is what later nights are held against.
    oldest = accepted.accepted[0]
    objects = {"canary": oldest.objects["canary"]}
    objects["canary"] = objects["canary"].model_copy(
        update={"key": f"artifacts/{runs[0].id}/quick.canary.parquet"}
    )
    changed = oldest.model_copy(update={"run": runs[0].id, "objects": objects})
    save_baseline(suite.baseline, accepted.model_copy(update={"accepted": (changed,)}))
    before = history.read().runs

    planned = prune(suite, history, 2, really=False)
    assert (planned.runs, planned.objects) == (tuple(run.id for run in runs[:3]), 5)
    assert planned.num_bytes == 1 * 2 + 2 * 6
    assert all(kept(history)[run.id] == 2 for run in runs)

    command = ["bench", "prune", str(suite.path), "--history", history.uri, "--keep", "2"]
    assert main(command) == 0
    left = kept(history)
    assert [left.get(run.id, 0) for run in runs] == [1, 0, 0, 2, 2]
    assert left[elsewhere.id] == 2
    assert left[oldest.run] == 2  # of no run that is known: one may be writing it
    assert history.read().runs == before
    assert prune(suite, history, 2).objects == 0


def test_the_latest_run_is_never_pruned(suite: Suite, tmp_path: Path) -> None:
    with pytest.raises(RegressionError, match="--keep: 0; needed 1 or more"):
        prune(suite, History(str(tmp_path / "history")), 0)
