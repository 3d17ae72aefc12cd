from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
import torch

from rdm_batch.errors import CheckpointError, ClusterError, DatabaseError, DeviceLostError
from rdm_batch.generation.modes.unconditional import UnconditionalConditioner
from rdm_batch.generation.plan import ShardRange, plan_shards
from rdm_batch.generation.renderer import (
    ContextSource,
    RenderedShard,
    ShardClock,
    ShardRenderer,
    drawn_shard,
)
from rdm_batch.heads.drawing import Drawing, Finished
from rdm_batch.heads.head import Head
from rdm_batch.heads.null import NullHead
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.inputs.weights import open_checkpoint
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.png import decode_png
from rdm_batch.storage.table import table_bytes
from tests.job_kit import DIM
from tests.worlds import World


@pytest.fixture(scope="module")
def spec(built_world: World) -> JobSpec:
    return parse_job(built_world.document, "job")


@pytest.fixture(scope="module")
def source(built_world: World) -> ContextSource:
    root = built_world.root / "database"
    proposal = Database.open(str(root)).proposal()
    assert proposal is not None
    return ContextSource(UnconditionalConditioner(proposal, 3, "proposal"), open_database(root))


@pytest.fixture(scope="module", params=["rdm", "noise"])
def head(request: pytest.FixtureRequest, spec: JobSpec) -> Head:
    if request.param == "noise":
        return NullHead(8, DIM)
    return open_checkpoint(spec.model).load_head(spec.sampling, DIM, "cpu")


def _render(renderer: ShardRenderer, source: ContextSource, shard: ShardRange) -> bytes:
    return renderer.render(shard, source, ShardClock()).images.tobytes()


def test_a_shard_has_the_same_bytes_in_any_order_and_beside_any_other(
    head: Head, spec: JobSpec, source: ContextSource
) -> None:
    shards = plan_shards(spec)[:4]
    in_order = ShardRenderer(head, 5, 3)
    expected = [_render(in_order, source, shard) for shard in shards]
    assert len(set(expected)) == len(shards)
    backwards = ShardRenderer(head, 5, 3)
    assert [_render(backwards, source, shard) for shard in reversed(shards)] == expected[::-1]
    at_once = ShardRenderer(head, 5, 3)
    with ThreadPoolExecutor(len(shards)) as pool:
        found = list(pool.map(lambda shard: _render(at_once, source, shard), shards))
    assert found == expected


def test_an_image_belongs_to_its_sample_not_to_its_shard(
    spec: JobSpec, source: ContextSource
) -> None:
    renderer = ShardRenderer(NullHead(8, DIM), 5, 3)
    whole = renderer.render(ShardRange(0, 0, 12), source, ShardClock()).images
    part = renderer.render(ShardRange(1, 5, 9), source, ShardClock()).images
    np.testing.assert_array_equal(part, whole[5:9])


def test_another_seed_makes_other_images(source: ContextSource) -> None:
    shard = ShardRange(0, 0, 4)
    first, second = (
        _render(ShardRenderer(NullHead(8, DIM), seed, 4), source, shard) for seed in (5, 6)
    )
    assert first != second


def test_the_clock_notes_what_a_shard_waited_for_and_did(source: ContextSource) -> None:
    clock = ShardClock()
    before = time.time()
    ShardRenderer(NullHead(8, DIM), 5, 3).render(ShardRange(0, 0, 4), source, clock)
    after = time.time()
    assert set(clock.intervals) == {"neighbors", "model"}
    neighbors, model = clock.intervals["neighbors"], clock.intervals["model"]
    assert before <= neighbors[0] <= neighbors[1] <= model[0] <= model[1] <= after
    assert [queries for queries, _ in clock.searches] == [4]
    assert 0 < clock.searches[0][1] <= neighbors[1] - neighbors[0] + 0.01


class _OneAtATime:
    """A head that notices who enters it, and whether two do at once."""

    image_size = 4
    context_dim = DIM

    def __init__(self, fixed_batches: bool = False) -> None:
        self.fixed_batches = fixed_batches
        self.warmed_up: list[tuple[int, ...]] = []
        self.threads: set[int] = set()
        self.batches: list[int] = []
        self._inside = threading.Lock()

    def warm_up(self, context: np.ndarray) -> None:
        assert not self.batches
        self.threads.add(threading.get_ident())
        self.warmed_up.append(context.shape)

    def start(self, context: np.ndarray, noise: SampleNoise) -> Drawing:
        return Finished(self.generate(context, noise))

    def generate(self, context: np.ndarray, noise: SampleNoise) -> np.ndarray:
        assert self._inside.acquire(blocking=False), "two threads are in the model"
        self.threads.add(threading.get_ident())
        self.batches.append(len(noise))
        time.sleep(0.005)
        self._inside.release()
        return np.zeros((len(noise), 4, 4, 3), dtype=np.uint8)


def test_the_model_is_entered_by_one_thread_in_batches_of_fixed_size(
    spec: JobSpec, source: ContextSource
) -> None:
    head = _OneAtATime()
    renderer = ShardRenderer(head, 5, 3)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda shard: _render(renderer, source, shard), plan_shards(spec)))
    assert len(head.threads) == 1
    assert head.batches == [3, 1] * 6


def test_a_head_of_one_shape_gets_full_batches_and_warms_up_once(
    spec: JobSpec, source: ContextSource
) -> None:
    head, clocks = _OneAtATime(fixed_batches=True), [ShardClock() for _ in range(6)]
    renderer = ShardRenderer(head, 5, 3)
    with ThreadPoolExecutor(4) as pool:
        jobs = zip(plan_shards(spec), clocks, strict=True)
        shards = list(pool.map(lambda job: renderer.render(job[0], source, job[1]), jobs))
    assert head.batches == [3, 3] * 6
    assert [len(shard.images) for shard in shards] == [4] * 6
    assert head.warmed_up == [(3, 3, DIM)]
    assert len(head.threads) == 1
    # One shard tells of it, and no shard's own time begins before it ended.
    (ended,) = [clock.intervals["warm-up"][1] for clock in clocks if "warm-up" in clock.intervals]
    assert all(clock.intervals["neighbors"][0] >= ended for clock in clocks)


def test_what_fills_a_batch_up_is_dropped(spec: JobSpec, source: ContextSource) -> None:
    head = NullHead(8, DIM)
    plain = ShardRenderer(head, 5, 3).render(ShardRange(0, 0, 4), source, ShardClock())
    head.fixed_batches = True
    filled = ShardRenderer(head, 5, 3, rows=7).render(ShardRange(0, 0, 4), source, ShardClock())
    np.testing.assert_array_equal(filled.images, plain.images)


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0"),
            ClusterError,
            "GPU memory: a batch of 3 samples wanted 20.00 GiB beside 60.00 GiB in use, "
            "and 10.00 GiB were free; set sampling.batch_size to 2",
        ),
        (
            torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nfor"),
            DeviceLostError,
            "GPU: computes nothing more in this process (CUDA error: an illegal "
            "memory access was encountered); run the same command again",
        ),
        (RuntimeError("of another kind"), RuntimeError, "of another kind"),
    ],
)
def test_a_failing_gpu_is_told_of_in_one_message(
    source: ContextSource,
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
    kind: type[Exception],
    message: str,
) -> None:
    def fail(*_: object) -> None:
        raise failure

    monkeypatch.setattr(NullHead, "generate", fail)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 65 << 30)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 60 << 30)
    with pytest.raises(kind) as caught:
        _render(ShardRenderer(NullHead(8, DIM), 5, 3), source, ShardRange(0, 0, 4))
    assert message in str(caught.value)


def test_a_failure_of_the_head_reaches_the_caller(source: ContextSource) -> None:
    renderer = ShardRenderer(NullHead(8, DIM + 1), 5, 3)
    with pytest.raises(DatabaseError, match="are 6 wide"):
        _render(renderer, source, ShardRange(0, 0, 4))


class _Device(_OneAtATime):
    """A head whose batches are drawn by something else; it notes what is asked of it when."""

    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.log: list[tuple[str, int]] = []
        self.busy = threading.Event()
        self._fail_at = fail_at

    def start(self, context: np.ndarray, noise: SampleNoise) -> Drawing:
        images = self.generate(context, noise)
        first = int(noise.sample_indices[0])
        images[:, 0, 0, 0] = noise.sample_indices
        self.log.append(("start", first))
        if len(self.log) == 1:
            # The other shards are waiting by the time the first batch is launched.
            assert self.busy.wait(10)
        return _Drawn(self, first, images, first == self._fail_at)


@dataclass
class _Drawn:
    head: _Device
    first: int
    images: np.ndarray
    fails: bool
    in_background: bool = True

    def collect(self) -> np.ndarray:
        self.head.threads.add(threading.get_ident())
        self.head.log.append(("collect", self.first))
        if self.fails:
            raise CheckpointError(f"sample {self.first}", "its latents are not finite")
        return self.images

    def gpu_s(self) -> float | None:
        return 0.25


def _render_at_once(
    head: _Device, shards: Sequence[ShardRange], source: ContextSource
) -> list[RenderedShard | BaseException]:
    """Render shards from a thread each, all of which wait for the model when it begins."""
    renderer = ShardRenderer(head, 5, 3)
    clocks = [ShardClock() for _ in shards]
    with ThreadPoolExecutor(len(shards)) as pool:
        calls = []
        for number, (shard, clock) in enumerate(zip(shards, clocks, strict=True)):
            calls.append(pool.submit(renderer.render, shard, source, clock))
            # In order: the first has begun, the others stand in line.
            while number and renderer._waiting < number:
                time.sleep(0.001)
            while not head.log:
                time.sleep(0.001)
        head.busy.set()
        done = [call.exception() or call.result() for call in calls]
    for clock, rendered in zip(clocks, done, strict=True):
        # The GPU's own clock, of both batches.
        assert clock.gpu_s == (0.5 if isinstance(rendered, RenderedShard) else 0.25)
    return done


def test_a_batch_is_launched_before_the_one_before_is_waited_for(
    spec: JobSpec, source: ContextSource
) -> None:
    head = _Device()
    shards = plan_shards(spec)[:3]
    done = _render_at_once(head, shards, source)
    order = [first for what, first in head.log if what == "start"]
    assert order == [0, 3, 4, 7, 8, 11]
    # Also from one shard to the next; only the last is waited for with nothing behind it.
    expected = [("start", 0)]
    for before, after in pairwise(order):
        expected += [("start", after), ("collect", before)]
    assert head.log == [*expected, ("collect", 11)]
    assert len(head.threads) == 1
    for shard, rendered in zip(shards, done, strict=True):
        assert isinstance(rendered, RenderedShard)
        assert rendered.images[:, 0, 0, 0].tolist() == shard.indices.tolist()


def test_a_failure_found_late_is_that_of_its_own_shard(
    spec: JobSpec, source: ContextSource
) -> None:
    # The last batch of the first shard: it is collected when the second has begun.
    head = _Device(fail_at=3)
    first, second = _render_at_once(head, plan_shards(spec)[:2], source)
    assert isinstance(first, CheckpointError)
    assert isinstance(second, RenderedShard)
    assert second.images[:, 0, 0, 0].tolist() == [4, 5, 6, 7]


def test_rows_hold_the_images_and_their_provenance(spec: JobSpec, source: ContextSource) -> None:
    rendered = ShardRenderer(NullHead(8, DIM), 5, 3).render(
        ShardRange(1, 4, 8), source, ShardClock()
    )
    table = drawn_shard(rendered, spec.sampling).table()
    rows = table.to_pylist()
    assert [row["sample_index"] for row in rows] == [4, 5, 6, 7]
    for row, image, ids in zip(
        rows, rendered.images, rendered.inputs.conditioning.neighbor_ids, strict=True
    ):
        np.testing.assert_array_equal(decode_png(row["image"]["bytes"]), image)
        assert row["neighbor_ids"] == ids.tolist()
        assert row["query_id"] == ids[0]
        assert (row["sampler"], row["num_steps"], row["eta"]) == ("ddim", 3, 1.0)
        assert (row["seed"], row["guidance_scale"], row["label"]) == (5, 1.5, None)
    assert table_bytes(table) == table_bytes(drawn_shard(rendered, spec.sampling).table())
