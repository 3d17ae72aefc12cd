from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from rdm_batch.metrics.evaluation import ScoreSettings
from rdm_batch.metrics.novelty import NoveltyDistances
from rdm_batch.metrics.scorers import SCORERS
from rdm_batch.reports.table import score_label
from rdm_batch.specs.scores import OWN_LAYERS, SCORES, Score, ScoreDescription, ScoreKind

DOCS = Path(__file__).parents[2] / "docs"


def _score(name: str, extractor: str | None = None) -> Score:
    return Score(value=1.0, description=ScoreDescription(name=name, extractor=extractor))


def test_every_score_that_is_declared_is_computed_and_no_other() -> None:
    assert SCORERS.keys() == SCORES.keys()
    assert all(kind.id == key for key, kind in SCORES.items())


def test_every_score_is_documented() -> None:
    table = (DOCS / "scores.md").read_text().partition("## The scores")[2].partition("\n## ")[0]
    firsts = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    documented = {name.strip(" `,") for cell in firsts for name in cell.split("`, `")}
    assert documented == SCORES.keys()


@pytest.mark.parametrize("kind", SCORES.values(), ids=SCORES)
def test_a_record_names_what_there_is(kind: ScoreKind) -> None:
    assert kind.layer is None or kind.layer in OWN_LAYERS
    assert all(NoveltyDistances("digest").of(which) is None for which in kind.distances)


def test_least_samples_follow_the_settings() -> None:
    settings = ScoreSettings(k=7, density_k=9, splits=4)
    least = {name: kind.least_samples(settings) for name, kind in SCORES.items()}
    assert [least.pop(name) for name in ("precision", "recall")] == [8, 8]
    assert [least.pop(name) for name in ("density", "coverage")] == [10, 10]
    assert [least.pop(f"clipped_{name}") for name in ("density", "coverage")] == [10, 10]
    assert least.pop("fid_infinity") == 200
    assert least.pop("is") == 4
    assert set(least.values()) == {2}


@pytest.mark.parametrize(
    ("score", "extractor", "shown"),
    [
        ("fid", "inception-v3-compat", "FID"),
        ("fid", "dinov2-vit-l-14", "FD-DINOv2"),
        ("fid", "vgg16", "FD-VGG16"),
        ("fid", "ViT-B-32", "CLIP-FID"),
        ("fid", None, "FID"),
        ("clip_fid", "ViT-B-32", "CLIP-FID"),
        ("sfid", "inception-v3-compat", "sFID"),
        ("of_a_later_version", "ViT-B-32", "of_a_later_version"),
    ],
)
def test_a_frechet_distance_is_called_after_its_extractor(
    score: str, extractor: str | None, shown: str
) -> None:
    assert _score(score, extractor).label == shown


def test_a_label_carries_its_direction() -> None:
    assert score_label(_score("fid"), ()) == "FID ↓"
    assert score_label(_score("recall"), ()) == "recall ↑"
    assert score_label(_score("novelty_database"), ()) == "novelty to database"
    assert score_label(_score("of_a_later_version"), ()) == "of_a_later_version"


def test_scores_that_are_called_alike_are_told_apart() -> None:
    shown = [_score("fid", "ViT-B-32"), _score("clip_fid", "ViT-B-32"), _score("kid", "ViT-B-32")]
    labels = [score_label(score, shown) for score in shown]
    assert labels == ["CLIP-FID (fid) ↓", "CLIP-FID (clip_fid) ↓", "KID ↓"]
    assert score_label(shown[0], [shown[0], shown[0]]) == "CLIP-FID ↓"


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValidationError, match="finite"):
        Score(value=float("nan"), description=ScoreDescription(name="fid"))
