from __future__ import annotations

import numpy as np
import pytest

from rdm_batch.errors import SampleSetError
from rdm_batch.reports.latency import Latencies, summarize_latencies
from tests.reports.fixtures import make_latencies


def test_percentiles_are_order_statistics_of_the_raw_values() -> None:
    # 0, 1, ..., 100 ms: the p-th percentile is p milliseconds, in any order.
    seconds = np.random.default_rng(0).permutation(np.arange(101) / 1000)
    summary = summarize_latencies(seconds)
    assert (summary.p50_s, summary.p95_s, summary.p99_s) == pytest.approx((0.05, 0.095, 0.099))
    assert (summary.min_s, summary.max_s, summary.count) == (0.0, 0.1, 101)
    assert summary.mean_s == pytest.approx(0.05)


def test_one_slow_query_in_a_thousand_shows_in_the_maximum_not_in_p99() -> None:
    seconds = np.full(1000, 0.001)
    seconds[0] = 5.0
    summary = summarize_latencies(seconds)
    assert summary.p99_s == pytest.approx(0.001)
    assert summary.max_s == 5.0


def test_raw_latencies_survive_parquet_bit_for_bit() -> None:
    latencies = make_latencies()
    copy = Latencies.from_parquet(latencies.to_parquet())
    np.testing.assert_array_equal(copy.query_s, latencies.query_s)
    np.testing.assert_array_equal(copy.batch_s, latencies.batch_s)


def test_a_file_that_holds_no_latencies_is_refused() -> None:
    with pytest.raises(SampleSetError, match=r"^s3://a/l\.parquet: not a table of latencies"):
        Latencies.from_parquet(b"PAR1 no", where="s3://a/l.parquet")
