from __future__ import annotations

import pytest

from rdm_batch.generation.plan import ShardRange, plan_shards
from rdm_batch.specs.load import parse_job
from tests.worlds import World


@pytest.mark.parametrize(
    ("num_samples", "shard_size", "sizes"),
    [(24, 4, [4] * 6), (25, 4, [4] * 6 + [1]), (3, 4, [3]), (1, 1, [1]), (8, 8, [8])],
)
def test_shards_cover_every_sample_once_in_order(
    world: World, num_samples: int, shard_size: int, sizes: list[int]
) -> None:
    document = world.job(sampling__num_samples=num_samples, output__shard_size=shard_size)
    shards = plan_shards(parse_job(document, "job"))
    assert [shard.num_samples for shard in shards] == sizes
    assert [shard.index for shard in shards] == list(range(len(sizes)))
    assert [int(i) for shard in shards for i in shard.indices] == list(range(num_samples))


@pytest.mark.parametrize(
    ("batch_size", "batches"),
    [(3, [[8, 9, 10], [11]]), (4, [[8, 9, 10, 11]]), (9, [[8, 9, 10, 11]])],
)
def test_batches_split_a_shard_from_its_start(batch_size: int, batches: list[list[int]]) -> None:
    shard = ShardRange(2, 8, 12)
    assert [batch.tolist() for batch in shard.batches(batch_size)] == batches
