from __future__ import annotations

from pathlib import Path

import pytest

from rdm_batch.reports.evaluation_page import EvaluationReport, render_evaluation
from rdm_batch.reports.page import render_page
from rdm_batch.reports.pictures import Pictures
from rdm_batch.reports.views import FeatureMap, NovelSample, Points, Region, Views
from rdm_batch.reports.views_layout import lay_out
from tests.browser import PageResult, open_page
from tests.reports.fixtures import STARTED, make_picture, make_report

VIEWS = Views(
    extractor="clip-shapes",
    dim=64,
    num_samples=100,
    num_references=200,
    map=FeatureMap(
        explained=0.375,
        samples=Points(x=(0, 500, 1000), y=(0, 500, 1000), inside=(True, False, True)),
        references=Points(x=(10, 20), y=(30, 40), inside=(True, True)),
        outside=(7,),
        num_outside=1,
    ),
    regions=(
        Region(num_samples=0, num_references=20, references=(3, 4)),
        Region(num_samples=40, num_references=120),
        Region(num_samples=60, num_references=60, samples=(1,), references=(5,)),
    ),
    most_novel=(
        NovelSample(
            sample_index=7,
            neighbor_id=11,
            neighbor_distance=0.5,
            nearest_id=12,
            nearest_distance=0.25,
        ),
    ),
    least_novel=(
        NovelSample(
            sample_index=8,
            neighbor_id=12,
            neighbor_distance=0.125,
            nearest_id=12,
            nearest_distance=0.125,
        ),
    ),
)
PICTURES = Pictures(
    samples={index: make_picture(index) for index in (1, 7, 8)},
    neighbors={row: make_picture(row) for row in (11, 12)},
    references={row: make_picture(row) for row in (3, 4, 5)},
)


def _opened(tmp_path: Path, page: str, **settings: object) -> PageResult:
    path = tmp_path / "page.html"
    path.write_text(page, encoding="utf-8")
    return open_page(path, **settings)  # type: ignore[arg-type]


def test_inside_and_outside_are_drawn_apart() -> None:
    look = lay_out(VIEWS, PICTURES)
    assert look is not None
    samples, references = look.panels
    assert samples.inside == "M0.0 300.0h0M300.0 0.0h0"
    assert samples.outside == "M150.0 150.0h0"
    assert samples.behind == references.inside
    assert samples.count == "1 of 100 samples lie outside of the reference's manifold"
    assert references.outside == ""


def test_regions_are_counted_and_the_empty_ones_named() -> None:
    look = lay_out(VIEWS, PICTURES)
    assert look is not None
    assert (look.num_empty, look.empty_share) == (1, "10.0 %")
    assert [column.empty for column in look.columns] == [True, False, False]
    # Heights relative to the largest share of either set: 0.6, of reference and of samples.
    assert [column.reference for column in look.columns] == pytest.approx([100 / 6, 100, 50])
    assert [column.samples for column in look.columns] == pytest.approx([0, 200 / 3, 100])
    assert look.seldom[0].label == "0 samples, 10.0 expected from 20 reference images"
    assert look.often is not None
    assert look.often.label.startswith("60 samples, 30.0 expected")


def test_strips_say_how_far_a_sample_is_and_from_what() -> None:
    look = lay_out(VIEWS, PICTURES)
    assert look is not None
    (_, most), (_, least) = look.strips
    assert most[0].text == "0.500 to its neighbor, 0.250 to the database"
    assert least[0].text == "0.125 to the same entry"
    assert most[0].sample.picture is not None


@pytest.mark.parametrize("views", [None, Views()])
def test_nothing_to_look_at_leaves_the_sections_out(views: Views | None) -> None:
    assert lay_out(views, Pictures()) is None
    page = render_page(make_report().model_copy(update={"views": views}))
    assert "feature-space" not in page


def test_unknown_manifolds_leave_one_color() -> None:
    points = Points(x=(1, 2), y=(1, 2))
    views = VIEWS.model_copy(
        update={"map": FeatureMap(explained=1.0, samples=points, references=points)}
    )
    look = lay_out(views, PICTURES)
    assert look is not None
    assert [(panel.outside, panel.count) for panel in look.panels] == [("", ""), ("", "")]
    page = render_page(make_report().model_copy(update={"views": views}), None, PICTURES)
    assert "Score precision or recall to see which lie outside" in page


@pytest.mark.parametrize(
    "settings",
    [{}, {"dark": True}, {"width": 360, "height": 800, "phone": True}],
    ids=["desktop", "dark", "phone"],
)
def test_the_page_of_a_job_shows_map_regions_and_strips(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    report = make_report().model_copy(update={"views": VIEWS})
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    result = _opened(tmp_path, render_page(report, None, PICTURES), script=broken, **settings)
    assert result.console_errors == ()
    assert result.requests == ()
    assert result.value == 0
    assert result.scroll_width == settings.get("width", 1280)
    for text in (
        "Where the samples lie",
        "37.5 % of its variance",
        "1 of 3 regions holds no sample",
        "Most novel",
        "0.125 to the same entry",
    ):
        assert text in result.dom_text


def test_an_evaluation_has_a_page_of_its_own(tmp_path: Path) -> None:
    hostile = "<script>console.error('ran')</script>"
    report = EvaluationReport(
        samples=hostile,
        reference="references/a.npz",
        scores=make_report().scores,
        views=VIEWS,
        time=STARTED,
        command="rdm-batch evaluate a --reference b",
        software={"torch": "2.14.1"},
    )
    page = render_evaluation(report, Pictures())
    result = _opened(tmp_path, page)
    assert result.console_errors == ()
    assert hostile in result.dom_text
    assert "rdm-batch evaluate a --reference b" in result.dom_text
    assert "12.34" in result.dom_text
    # Nothing was saved of the pictures: empty frames stand for them.
    assert page.count("no picture") > 5
