from __future__ import annotations

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from rdm_batch.errors import MetricError
from rdm_batch.metrics.inception_score import inception_score
from tests.metrics.examples import cloud
from tests.tolerances import MERGED_REL


@pytest.mark.parametrize(("count", "splits"), [(200, 10), (207, 10), (50, 1)])
def test_values_equal_torch_fidelity(count: int, splits: int) -> None:
    logits = cloud(count, 30, seed=0)
    theirs = isc_features_to_metric(torch.from_numpy(logits), splits=splits)
    ours = inception_score(logits, splits)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=MERGED_REL)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=MERGED_REL, abs=1e-12)


def test_certain_and_even_predictions_score_the_number_of_classes() -> None:
    logits = np.tile(200 * np.eye(5, dtype=np.float32), (100, 1))
    assert inception_score(logits, splits=1).mean == pytest.approx(5)


def test_one_prediction_for_all_scores_one() -> None:
    assert inception_score(np.tile(cloud(1, 9, seed=0), (40, 1))).mean == pytest.approx(1)


def test_fewer_samples_than_splits_are_refused() -> None:
    with pytest.raises(MetricError, match="7 samples; needed at least 10, one a split"):
        inception_score(cloud(7, 5, seed=0))
