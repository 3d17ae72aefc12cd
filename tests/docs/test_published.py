"""The README's way to the published files, typed as it stands there with files of their form."""

from __future__ import annotations

import pickle
import shlex
from pathlib import Path

import numpy as np
import pytest

from rdm_batch.cli import main
from rdm_batch.generation.modes import mode_of
from rdm_batch.inputs.databases import Database
from rdm_batch.specs.load import load_job
from tests.docs.documents import ROOT, command_lines, read_document

ROWS = 500
WIDTH = 512


def commands() -> list[list[str]]:
    """List the commands under "Published weights"."""
    blocks = [block for _, block in read_document(ROOT / "README.md").blocks]
    block = next(block for block in blocks if "import-npz" in block)
    return [shlex.split(line, comments=True)[1:] for line in command_lines(block)]


def test_the_imported_database_is_one_the_published_job_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (command,) = [command for command in commands() if "import-npz" in command]
    random = np.random.default_rng(0)
    for name in [word for word in command if word.endswith(".npz")]:
        np.savez(
            name,
            embedding=random.normal(size=(ROWS // 2, WIDTH)).astype(np.float32),
            img_id=np.arange(ROWS // 2),
            patch_coords=np.tile(np.array([0, 0, 8, 8]), (ROWS // 2, 1)),
        )
    memory = {"nn_memory": list(range(ROWS)), "id_count": dict.fromkeys(range(ROWS), 1)}
    (file,) = [word for word in command if word.endswith(".p")]
    Path(file).write_bytes(pickle.dumps(memory))
    assert main(command) == 0, capsys.readouterr().err
    job = load_job(ROOT / "jobs/in256_cfg.yaml", [])
    database = Database.open(job.database.uri)
    assert list(mode_of(job.conditioning).problems(database, None)) == []
