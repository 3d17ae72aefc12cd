from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.experiments import edits
from benchmarks.records import read_record
from rdm_batch.datasets.shapes import ShapesSource
from rdm_batch.models.checkpoint import load_checkpoint, save_checkpoint
from rdm_batch.specs.families import KnnContinuousArchitecture
from rdm_batch.storage.object_store import local_path
from tests.tiny_heads import random_weights


class _Judge:
    """Says of every picture what it was told."""

    def __init__(self, facts: list[dict[str, str]]) -> None:
        self.facts = facts

    def attributes(self, images: np.ndarray) -> list[dict[str, str]]:
        return self.facts[: len(images)]


def test_every_picture_is_asked_for_with_one_other_value() -> None:
    asked = edits.ask(12)
    source = ShapesSource("held_out", 12)
    for number, (kind, wanted) in enumerate(zip(asked.kinds, asked.wanted, strict=True)):
        before = source[number].attributes
        assert [name for name in before if before[name] != wanted[name]] == [kind]
        assert all(wanted[name] in asked.texts[number] for name in ("color", "shape"))
    assert asked.kinds[:4] == ["color", "style", "shape", "color"]


def test_an_edit_counts_where_what_was_asked_for_is_there_and_the_rest_is_as_it_was() -> None:
    asked = edits.ask(12)
    seen = [dict(facts) for facts in asked.wanted]
    seen[0]["color"] = next(c for c in edits.ASKED["color"] if c != seen[0]["color"])
    seen[3]["background"] = "another"
    rows = edits.found_rows(_Judge(seen), asked, asked.sources, "trained")  # type: ignore[arg-type]
    color, style, shape = rows
    assert (color.value, color.met, color.details["asked right"]) == (0.5, False, 0.75)
    assert (color.details["all others kept"], color.details["background kept"]) == (0.75, 0.75)
    assert color.details["error"] == 0.25
    assert (style.value, shape.value, shape.met) == (1.0, 1.0, True)
    assert style.details["pixel distance outside"] == 0


def test_every_way_is_measured_beside_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = load_checkpoint(local_path(edits.SHIPPED))
    sizes = shipped.architecture
    assert isinstance(sizes, KnnContinuousArchitecture)
    unet = sizes.unet.model_copy(
        update={"model_channels": 8, "head_channels": 8, "norm_groups": 4, "source_channels": 6}
    )
    for name, given in (("edit", 6), ("plain", 0)):
        small = unet.model_copy(update={"source_channels": given})
        head = sizes.model_copy(update={"unet": small})
        save_checkpoint(tmp_path / f"{name}.safetensors", head, random_weights(head))
    monkeypatch.setattr(edits, "SHIPPED", str(tmp_path / "plain.safetensors"))
    file = tmp_path / "edits.json"
    edits.main(
        ["--head", str(tmp_path / "edit.safetensors"), "--samples", "3", "--steps", "4",
         "--guidance", "2", "--json", str(file), "--pictures", str(tmp_path)],
        _Judge([dict(facts) for facts in edits.ask(3).wanted]),  # type: ignore[arg-type]
    )  # fmt: skip
    record = read_record(file)
    assert record is not None
    names = ["trained", "drawn anew", "SDEdit 0.3", "SDEdit 0.5", "SDEdit 0.7"]
    assert [part.name for part in record.parts] == [f"{name}, guidance 2" for name in names]
    assert {row.value for part in record.parts for row in part.rows} == {1.0}
    assert (tmp_path / "edits-sdedit-0.5-2.png").exists()
