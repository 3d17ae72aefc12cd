"""Search and conditioning against what the authors' published code found.

``data/search.npz`` holds the database, the neighbor memories and the recorded answers of
the parity set: CompVis/retrieval-augmented-diffusion-models at 1017f2b on CPU, with its
brute-force search, over 500 seeded random embeddings in two ``.npz`` parts.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.retrieval import conditioning
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.retrieval.index import IndexSettings, build_index
from rdm_batch.retrieval.neighbor_memory import read_neighbor_memory
from rdm_batch.retrieval.npz_parts import order_parts, read_part
from rdm_batch.retrieval.shard import ShardSearcher
from tests.tolerances import COSINE_REL

PARTS = {"200x512-part_1": slice(0, 200), "300x512-part_2": slice(200, 500)}
ROW_QUERIES = [
    ("rdm", "rdata_top0.5"),
    ("rdm", "rdata_top40_weights"),
    ("rdm", "rdata_k1"),
    ("rdm", "rdata_k7"),
    ("rarm", "rdata_top0.5"),
    ("rarm", "rdata_top0.5_s2"),
]


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(Path(__file__).parent / "data/search.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def published(recorded: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published files: ``.npz`` parts and pickled neighbor memories."""
    root = tmp_path_factory.mktemp("published")
    for name, rows in PARTS.items():
        np.savez(
            root / f"{name}.npz",
            embedding=recorded["database/embedding"][rows],
            img_id=recorded["database/img_id"][rows],
            patch_coords=recorded["database/patch_coords"][rows],
        )
    for model in ("rdm", "rarm"):
        ids, counts = recorded[f"{model}/nn_memory"], recorded[f"{model}/counts"]
        memory = {
            "nn_memory": ids.tolist(),
            "id_count": dict(zip(ids.tolist(), counts.tolist(), strict=True)),
        }
        (root / f"{model}.p").write_bytes(pickle.dumps(memory))
    return root


@pytest.fixture(scope="module", params=["one shard", "a shard per part", "partitioned"])
def retriever(published: Path, request: pytest.FixtureRequest) -> CompositeRetriever:
    parts = [read_part(path).embeddings for path in order_parts(published, list(PARTS))]
    if request.param != "a shard per part":
        parts = [np.concatenate(parts)]
    settings = IndexSettings()
    if request.param == "partitioned":
        settings = IndexSettings(kind="tree_ah", leaves_to_search=500)
    first_rows = np.cumsum([0, *map(len, parts)])
    return CompositeRetriever(
        [
            ShardSearcher(rows, build_index(rows, settings, "parity"), int(first))
            for rows, first in zip(parts, first_rows, strict=False)
        ]
    )


@pytest.mark.parametrize(("model", "case"), ROW_QUERIES)
def test_pseudo_queries_find_the_published_neighbors(
    retriever: CompositeRetriever, recorded: dict[str, np.ndarray], model: str, case: str
) -> None:
    expected = recorded[f"{model}/{case}/nns"]
    queries = retriever.fetch(recorded[f"{model}/{case}/qids"])
    found = retriever.search(queries, expected.shape[1])
    np.testing.assert_array_equal(found.ids, expected)
    np.testing.assert_allclose(found.scores, recorded[f"{model}/{case}/scores"], rtol=COSINE_REL)
    if f"{model}/{case}/context" in recorded:
        np.testing.assert_array_equal(found.embeddings, recorded[f"{model}/{case}/context"])


@pytest.mark.parametrize("model", ["rdm", "rarm"])
def test_text_queries_find_the_published_neighbors(
    retriever: CompositeRetriever, recorded: dict[str, np.ndarray], model: str
) -> None:
    found = retriever.search(recorded[f"{model}/text_query"], 4)
    np.testing.assert_array_equal(found.ids, recorded[f"{model}/text_query_nns"])
    np.testing.assert_allclose(
        found.scores, recorded[f"{model}/text_query_scores"], rtol=COSINE_REL
    )


@pytest.mark.parametrize(
    ("model", "case", "k_nn", "variant"),
    [
        ("rdm", "query_k4", 4, "query_and_neighbors"),
        ("rdm", "query_k4_omit", 4, "neighbors"),
        ("rdm", "query_only_caption", 1, "query"),
        ("rarm", "caption_neighbours", 4, "neighbors"),
    ],
)
def test_text_contexts_are_the_published_ones(
    retriever: CompositeRetriever,
    recorded: dict[str, np.ndarray],
    model: str,
    case: str,
    k_nn: int,
    variant: conditioning.ContextVariant,
) -> None:
    queries = recorded[f"{model}/text_query"]
    made = conditioning.from_queries(retriever, queries, k_nn, variant)
    np.testing.assert_array_equal(made.context, recorded[f"{model}/{case}/context"])


@pytest.mark.parametrize("model", ["rdm", "rarm"])
def test_published_pseudo_queries_lie_in_the_truncated_proposal(
    published: Path, recorded: dict[str, np.ndarray], model: str
) -> None:
    proposal = read_neighbor_memory(published / f"{model}.p")
    np.testing.assert_array_equal(proposal.row_ids, recorded[f"{model}/nn_memory"])
    np.testing.assert_array_equal(proposal.counts, recorded[f"{model}/counts"])
    proposal.check_rows(500)
    half = proposal.truncate(0.5)
    assert len(half.row_ids) == 60
    assert set(recorded[f"{model}/rdata_top0.5/qids"]) <= set(half.row_ids)
