from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from rdm_batch.errors import ClusterError
from rdm_batch.heads.kept_code import seal_kept_code, use_kept_code

_SCRIPT = """
import torch
from torch._dynamo.utils import counters
from rdm_batch.heads.arithmetic import compiled
from rdm_batch.heads.kept_code import seal_kept_code, use_kept_code
function = compiled(lambda x: (x.sin() * 2 + 1).sum(1), torch.device("cpu"))
x = torch.arange(600.0).reshape(20, 30)
right = torch.allclose(function(x), (x.sin() * 2 + 1).sum(1))
seal_kept_code(use_kept_code())
print(right, counters["inductor"]["fxgraph_cache_hit"], counters["inductor"]["fxgraph_cache_miss"])
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RDM_BATCH_CACHE", str(tmp_path))
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        # First set, so that what the program sets is taken back in the end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def test_code_is_kept_in_a_folder_of_the_users_cache(cache: Path) -> None:
    folder = use_kept_code()
    assert folder.parent == cache / "compiled"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert use_kept_code() == folder


def test_a_folder_that_pytorch_has_named_is_not_used(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guessed = default_cache_dir()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", guessed)
    monkeypatch.setenv("TRITON_CACHE_DIR", f"{guessed}/triton/0")
    assert use_kept_code().is_relative_to(cache)
    assert "TRITON_CACHE_DIR" not in os.environ


@pytest.mark.usefixtures("cache")
def test_a_folder_that_is_named_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "mine"))
    assert use_kept_code() == tmp_path / "mine"
    assert (tmp_path / "mine").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("name", ["TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"])
@pytest.mark.parametrize(
    ("place", "mode", "reason"),
    [
        ("code", 0o720, "others can write into it"),
        ("code", 0o702, "others can write into it"),
        ("", 0o777, "anybody can replace what is in"),
    ],
)
def test_code_is_not_taken_from_where_others_can_put_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: str, mode: int, reason: str
) -> None:
    folder = cache / "shared" / "code"
    folder.mkdir(mode=0o700, parents=True)
    (cache / "shared" / place).chmod(mode)
    monkeypatch.setenv(name, str(folder))
    with pytest.raises(ClusterError, match=f"{folder}.* but {reason}"):
        use_kept_code()


@pytest.mark.usefixtures("cache")
def test_code_is_not_taken_from_somebody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = use_kept_code()
    monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    with pytest.raises(ClusterError, match="belongs to somebody else"):
        use_kept_code()


def test_a_cache_that_cannot_be_made_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (cache / "file").touch()
    monkeypatch.setenv("RDM_BATCH_CACHE", str(cache / "file"))
    with pytest.raises(ClusterError, match="set RDM_BATCH_CACHE to another one"):
        use_kept_code()


@pytest.mark.usefixtures("cache")
def test_what_has_other_bytes_than_it_was_sealed_with_is_thrown_away() -> None:
    folder = use_kept_code()
    (folder / "a").mkdir()
    for name in ("a/whole.so", "a/changed.so", "short.py"):
        (folder / name).write_bytes(b"code")
    seal_kept_code(folder)
    (folder / "a" / "changed.so").write_bytes(b"c0de")
    (folder / "short.py").write_bytes(b"cod")
    (folder / "a" / "new.so").write_bytes(b"not sealed yet")
    use_kept_code()
    assert sorted(path.name for path in folder.rglob("*.*") if path.suffix in (".so", ".py")) == [
        "new.so",
        "whole.so",
    ]
    seal_kept_code(folder)
    assert sorted(json.loads((folder / "sealed.json").read_text())) == ["a/new.so", "a/whole.so"]


@pytest.mark.parametrize("damage", ["{", "[]", '{"a": 1}'])
@pytest.mark.usefixtures("cache")
def test_without_a_readable_seal_nothing_is_trusted(damage: str) -> None:
    folder = use_kept_code()
    (folder / "a.so").write_bytes(b"code")
    (folder / "sealed.json").write_text(damage)
    use_kept_code()
    assert not (folder / "a.so").exists()


def test_a_second_start_compiles_nothing(cache: Path) -> None:
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env={**os.environ, "RDM_BATCH_CACHE": str(cache), "TORCHINDUCTOR_COMPILE_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found.append(done.stdout.strip())
    # Right; found; compiled.
    assert found == ["True 0 1", "True 1 0"]
