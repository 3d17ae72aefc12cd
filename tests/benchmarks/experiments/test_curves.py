from __future__ import annotations

import shutil
from pathlib import Path

from benchmarks.experiments.curves import main, read_rows
from benchmarks.experiments.world import claim_row
from benchmarks.recorder import Recorder
from benchmarks.records import Row


def test_rows_of_this_form_read_like_those_of_the_earlier_one(tmp_path: Path) -> None:
    found = {"top_m": 0.1, "fid": 2.5, "precision": 0.9, "recall": 0.7}
    path = tmp_path / "world.json"
    path.write_text('{"samples": 4, "rows": [{"part": "top_m", "head": "rdm", "fid": 2.5}]}')
    assert read_rows(path) == [{"part": "top_m", "head": "rdm", "fid": 2.5}]
    recorder = Recorder("experiments.world", "World", "Measured.", path)
    row = Row(name="top_m 0.1", details=found)
    recorder.add("top_m, rdm", [row], {"part": "top_m", "head": "rdm"})
    recorder.add("top_m, rdm, quick", [row], {"part": "top_m", "head": "rdm", "quick": True})
    # What learned next to nothing is in no curve.
    assert read_rows(path) == [{"part": "top_m", "head": "rdm", **found}]


def test_curves_of_the_results_in_the_repository_are_drawn(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    for name in ("world.json", "subworlds.json"):
        shutil.copy(Path(__file__).parents[3] / "benchmarks" / "results" / name, results)
    main(["--results", str(results), "--pictures", str(tmp_path / "pictures")])
    drawn = {path.name for path in (tmp_path / "pictures").iterdir()}
    names = ("complexity-rarm", "complexity-rdm", "guidance", "k-train", "top-m")
    assert drawn == {f"curve-{name}.png" for name in names}


def test_a_claim_stands_beside_what_is_asked_of_its_head() -> None:
    found = {"shape": 0.9, "color": 1.0}
    diffusion, autoregression = (claim_row(kind, "class", found) for kind in ("rdm", "rarm"))
    assert (diffusion.needed, diffusion.met) == (0.95, False)
    assert (autoregression.needed, autoregression.met) == (0.85, True)
    free = claim_row("rdm", "unconditional", found)
    assert (free.value, free.met) == (None, None)
    assert free.details == {"case": "unconditional", **found}
