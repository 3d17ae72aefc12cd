"""What README, docs, model cards and comments of job files say can be typed, set and opened."""

from __future__ import annotations

import pytest

from tests.docs.documents import DOCUMENTS, ROOT, read_document
from tests.docs.promises import find_problems


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_command_field_and_file_of_a_document_exists(name: str) -> None:
    path = ROOT / name
    assert find_problems(path, read_document(path)) == []
