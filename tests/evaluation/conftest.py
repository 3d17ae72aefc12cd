from __future__ import annotations

import pytest

from rdm_batch.inputs.extractors import load_extractor
from rdm_batch.metrics.features import FeatureExtractor
from rdm_batch.specs.job import EvaluationSpec
from rdm_batch.specs.load import parse_job
from rdm_batch.storage.sample_set import SampleSet
from tests.evaluation.kit import commit, extractor_of
from tests.worlds import World, checked


@pytest.fixture(scope="module")
def extractor(built_world: World) -> FeatureExtractor:
    return load_extractor(extractor_of(built_world))


@pytest.fixture
def evaluation(world: World) -> EvaluationSpec:
    spec = parse_job(world.document, "job").evaluation
    assert spec is not None
    return spec


@pytest.fixture
def sample_set(world: World) -> SampleSet:
    """A complete set of 24 images in 6 shards."""
    header = checked(world.document).header
    made = SampleSet.create_or_resume(world.document["output"]["uri"], header)
    commit(made, world, list(range(6)))
    made.finish()
    return made
