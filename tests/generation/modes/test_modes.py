from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from rdm_batch.cluster.local import LocalCluster
from rdm_batch.cluster.texts import ClusterEmbedder
from rdm_batch.generation.modes import MODES, mode_of
from rdm_batch.generation.modes.class_pools import ClassConditioner
from rdm_batch.generation.modes.mode import Conditioner, SampleInputs
from rdm_batch.generation.modes.queried import ContextOf, Turn, variant_of
from rdm_batch.generation.modes.text import TextConditioner
from rdm_batch.generation.modes.unconditional import CommonConditioner, UnconditionalConditioner
from rdm_batch.inputs.databases import Database, open_database
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.merge import Neighbors
from rdm_batch.retrieval.proposal import Proposal
from rdm_batch.sampling.noise import SampleNoise
from rdm_batch.specs.conditioning import ConditioningSpec
from rdm_batch.specs.job import EncoderSpec
from tests.job_kit import DIM, ROWS, write_database
from tests.worlds import World, assert_says, checked, problem_of

PROMPTS = ("a red circle", "a blue square", "a circle")
LABELS = ("circle", "square")
SEED = 11


@pytest.fixture(scope="module")
def retriever(built_world: World) -> CompositeRetriever:
    return open_database(built_world.root / "database")


def _proposal(world: World) -> Proposal:
    proposal = Database.open(str(world.root / "database")).proposal()
    assert proposal is not None
    return proposal


def _embeddings(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, DIM)).astype(np.float32)


def _class_conditioner() -> ClassConditioner:
    return ClassConditioner(LABELS, LABELS, _embeddings(2), k_nn=3, pool_size=8)


def _text_conditioner(context: str, k_nn: int) -> TextConditioner:
    made = ContextOf(k_nn, variant_of(context))
    return TextConditioner(PROMPTS, _embeddings(3), Turn(3), made)


@pytest.fixture(params=["unconditional", "text", "class"])
def conditioner(request: pytest.FixtureRequest, built_world: World) -> Conditioner:
    match request.param:
        case "unconditional":
            proposal = _proposal(built_world)
            return UnconditionalConditioner(proposal.truncate(0.5), 3, "proposal")
        case "text":
            return _text_conditioner("text_and_neighbors", 3)
        case _:
            return _class_conditioner()


def _inputs(
    conditioner: Conditioner, retriever: CompositeRetriever, indices: Sequence[int]
) -> SampleInputs:
    return conditioner(SampleNoise(SEED, np.array(indices, dtype=np.int64)), retriever)


def _of_sample(inputs: SampleInputs, position: int) -> list[object]:
    found = inputs.conditioning
    return [
        found.context[position].tobytes(),
        found.neighbor_ids[position].tolist(),
        found.neighbor_scores[position].tobytes(),
        None if found.query_ids is None else int(found.query_ids[position]),
        None if inputs.labels is None else inputs.labels[position],
        None if inputs.prompts is None else inputs.prompts[position],
    ]


def test_a_sample_has_the_same_inputs_in_every_shard_and_batch(
    conditioner: Conditioner, retriever: CompositeRetriever
) -> None:
    together = _inputs(conditioner, retriever, range(12))
    for indices in ([7], [11, 7, 0], [6, 7, 8]):
        apart = _inputs(conditioner, retriever, indices)
        for position, index in enumerate(indices):
            assert _of_sample(apart, position) == _of_sample(together, index)


def test_samples_differ(conditioner: Conditioner, retriever: CompositeRetriever) -> None:
    found = _inputs(conditioner, retriever, range(24)).conditioning
    assert len({row.tobytes() for row in found.context}) >= 3


def test_another_seed_draws_other_queries(
    built_world: World, retriever: CompositeRetriever
) -> None:
    conditioner = UnconditionalConditioner(_proposal(built_world), 3, "uniform")
    drawn = [
        conditioner(SampleNoise(seed, np.arange(20)), retriever).conditioning.query_ids
        for seed in (1, 2)
    ]
    assert drawn[0] is not None
    assert drawn[1] is not None
    assert drawn[0].tolist() != drawn[1].tolist()


def test_top_m_keeps_the_most_frequent_rows(
    built_world: World, retriever: CompositeRetriever
) -> None:
    proposal = _proposal(built_world).truncate(0.1)
    conditioner = UnconditionalConditioner(proposal, 3, "uniform")
    found = _inputs(conditioner, retriever, range(200)).conditioning
    assert found.query_ids is not None
    # The rows of this database are numbered by falling frequency.
    assert set(found.query_ids.tolist()) == set(range(ROWS // 10))
    assert (found.neighbor_ids[:, 0] == found.query_ids).all()


def test_jobs_that_keep_other_rows_may_share_their_queries(
    built_world: World, retriever: CompositeRetriever
) -> None:
    def drawn(top_m: float, samples: range) -> np.ndarray:
        conditioner = CommonConditioner(_proposal(built_world), top_m, 3, "proposal")
        query_ids = _inputs(conditioner, retriever, samples).conditioning.query_ids
        assert query_ids is not None
        return query_ids

    few, more, samples = drawn(0.1, range(64)), drawn(0.5, range(64)), range(64)
    shared = more < ROWS // 10
    assert 0 < shared.sum() < 64
    assert (few[shared] == more[shared]).all()
    assert few.max() < ROWS // 10
    alone = UnconditionalConditioner(_proposal(built_world), 3, "proposal")
    whole = _inputs(alone, retriever, samples).conditioning.query_ids
    assert whole is not None
    assert (drawn(1.0, samples) == whole).all()
    assert drawn(0.1, range(40, 64)).tolist() == few[40:].tolist()


def test_sample_i_takes_prompt_i_mod_p(retriever: CompositeRetriever) -> None:
    conditioner = _text_conditioner("neighbors", 2)
    inputs = _inputs(conditioner, retriever, [0, 1, 2, 3, 100])
    assert inputs.prompts == (PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[0], PROMPTS[1])
    assert inputs.labels is None


@pytest.mark.parametrize(
    ("context", "own", "neighbors"),
    [("text", 3, 0), ("text_and_neighbors", 1, 2), ("neighbors", 0, 3)],
)
def test_a_text_context_holds_the_text_its_neighbors_or_both(
    retriever: CompositeRetriever, context: str, own: int, neighbors: int
) -> None:
    embeddings = _embeddings(3)
    conditioner = _text_conditioner(context, 3)
    found = _inputs(conditioner, retriever, range(3)).conditioning
    expected = retriever.search(embeddings, 3)
    assert found.context.shape == (3, 3, DIM)
    np.testing.assert_array_equal(
        found.context[:, :own], np.repeat(embeddings[:, None], own, axis=1)
    )
    np.testing.assert_array_equal(found.context[:, own:], expected.embeddings[:, :neighbors])
    np.testing.assert_array_equal(found.neighbor_ids, expected.ids[:, :neighbors])


def test_a_class_sample_draws_distinct_rows_of_its_pool(retriever: CompositeRetriever) -> None:
    pools = retriever.search(_embeddings(2), 8).ids
    inputs = _inputs(_class_conditioner(), retriever, range(60))
    assert inputs.labels == LABELS * 30
    ids = inputs.conditioning.neighbor_ids
    for sample, row in enumerate(ids.tolist()):
        assert len(set(row)) == 3
        assert set(row) <= set(pools[sample % 2].tolist())
    assert set(ids[::2].ravel().tolist()) == set(pools[0].tolist())


class _CountingRetriever:
    def __init__(self, retriever: CompositeRetriever) -> None:
        self._retriever = retriever
        self.rows, self.dim = retriever.rows, retriever.dim
        self.fetch, self.thumbnails = retriever.fetch, retriever.thumbnails
        self.searches = 0

    def search(self, queries: np.ndarray, k: int) -> Neighbors:
        self.searches += 1
        return self._retriever.search(queries, k)


def test_pools_are_looked_up_once_for_all_threads(retriever: CompositeRetriever) -> None:
    conditioner, counting = _class_conditioner(), _CountingRetriever(retriever)
    noises = [SampleNoise(SEED, np.arange(4 * shard, 4 * shard + 4)) for shard in range(6)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda noise: conditioner(noise, counting), noises))
    assert counting.searches == 1


def test_conditioners_travel_to_other_processes(
    conditioner: Conditioner, retriever: CompositeRetriever
) -> None:
    here = _inputs(conditioner, retriever, range(4))
    there = _inputs(pickle.loads(pickle.dumps(conditioner)), retriever, range(4))
    assert [_of_sample(here, i) for i in range(4)] == [_of_sample(there, i) for i in range(4)]


def test_more_neighbors_than_rows_are_refused(world: World) -> None:
    message = problem_of(world.job(conditioning__k_nn=ROWS + 1))
    assert_says(message, "conditioning.k_nn: is 41", "holds 40 rows", "needed at most 40")


def test_a_pool_larger_than_the_database_is_refused(world: World) -> None:
    document = world.job(
        conditioning={"mode": "class", "labels": ["circle"], "k_nn": 3, "pool_size": 50}
    )
    message = problem_of(document)
    assert_says(message, "conditioning.pool_size: is 50", "holds 40 rows", "needed at most 40")


@pytest.mark.parametrize(
    "conditioning",
    [
        {"mode": "unconditional"},
        {"mode": "unconditional", "weighting": "uniform", "top_m": 0.5},
    ],
)
def test_a_draw_by_proposal_needs_a_proposal(
    world: World, tmp_path: Path, conditioning: dict[str, Any]
) -> None:
    write_database(tmp_path / "database", proposal=False)
    document = world.job(database__uri=str(tmp_path / "database"), conditioning=conditioning)
    message = problem_of(document)
    assert_says(
        message,
        "conditioning.weighting",
        "built without a proposal distribution",
        "--proposal-from, or set weighting: uniform and top_m: 1.0",
    )


def test_a_uniform_draw_from_all_rows_needs_no_proposal(world: World, tmp_path: Path) -> None:
    write_database(tmp_path / "database", proposal=False)
    conditioning = {"mode": "unconditional", "weighting": "uniform"}
    document = world.job(database__uri=str(tmp_path / "database"), conditioning=conditioning)
    assert checked(document).database.manifest.proposal is None


def test_every_mode_of_the_spec_has_its_module_and_no_other() -> None:
    (union, *_) = get_args(ConditioningSpec)
    ids = {get_args(spec.model_fields["mode"].annotation)[0] for spec in get_args(union)}
    assert MODES.keys() == ids


TEXTS = {"mode": "text", "k_nn": 3, "prompts": list(PROMPTS)}
CLASSES = {"mode": "class", "k_nn": 3, "labels": list(LABELS), "pool_size": 8}


@pytest.mark.parametrize(
    ("conditioning", "texts"),
    [
        ({"mode": "unconditional", "k_nn": 3, "top_m": 0.5}, None),
        (TEXTS, PROMPTS),
        (CLASSES, ("An image of a circle.", "An image of a square.")),
    ],
    ids=["unconditional", "text", "class"],
)
def test_a_mode_embeds_its_texts_and_builds_a_conditioner(
    world: World,
    retriever: CompositeRetriever,
    conditioning: dict[str, Any],
    texts: tuple[str, ...] | None,
) -> None:
    job = checked(world.job(conditioning=conditioning))
    asked: list[tuple[str, ...]] = []

    class Embed:
        def __call__(self, encoder: EncoderSpec, texts: tuple[str, ...]) -> np.ndarray:
            assert encoder == job.spec.database.encoder
            asked.append(texts)
            return _embeddings(len(texts))

        def pictures(self, encoder: EncoderSpec, location: str, count: int) -> np.ndarray:
            pytest.fail("pictures")

    built = mode_of(job.spec.conditioning).build_conditioner(job, Embed())
    assert asked == ([] if texts is None else [texts])
    assert (job.encoder is None) == (texts is None)
    assert job.spec.conditioning.embeds_text == (texts is not None)
    found = _inputs(built, retriever, range(6)).conditioning
    assert found.context.shape == (6, 3, DIM)


def test_without_a_proposal_every_row_is_drawn_alike(world: World, tmp_path: Path) -> None:
    write_database(tmp_path / "database", proposal=False)
    conditioning = {"mode": "unconditional", "k_nn": 3, "weighting": "uniform"}
    job = checked(world.job(database__uri=str(tmp_path / "database"), conditioning=conditioning))
    built = mode_of(job.spec.conditioning).build_conditioner(job, ClusterEmbedder(LocalCluster()))
    assert isinstance(built, UnconditionalConditioner)
    assert built.proposal.counts.tolist() == [1] * ROWS
