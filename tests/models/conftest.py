from __future__ import annotations

import pytest

from rdm_batch.specs.families import RdmArchitecture
from tests.tiny_heads import TINY_RDM


@pytest.fixture(scope="session")
def tiny_rdm() -> RdmArchitecture:
    return TINY_RDM
