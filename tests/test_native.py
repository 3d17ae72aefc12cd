from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rdm_batch import native
from rdm_batch.native import compiled_library, private_folder


def test_a_library_with_other_bytes_is_compiled_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, compile_it = [], native._compile

    def counted(*of: Any) -> None:
        compiled.append(of)
        compile_it(*of)

    monkeypatch.setattr(native, "_compile", counted)
    folder, source = tmp_path / "code", tmp_path / "one.cpp"
    source.write_text('extern "C" int one() { return 1; }')
    private_folder(folder)
    assert compiled_library(source, folder, "kind").one() == 1
    compiled_library(source, folder, "kind")
    assert len(compiled) == 1
    (library,) = (folder / "native").glob("*.so")
    library.unlink()
    library.write_bytes(b"cut short")
    assert compiled_library(source, folder, "kind").one() == 1
    assert len(compiled) == 2
    # What the rest of the name follows from.
    source.write_text('extern "C" int one() { return 2; }')
    assert compiled_library(source, folder, "kind").one() == 2
    assert len(list((folder / "native").glob("*.so"))) == 2
