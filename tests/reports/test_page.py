from __future__ import annotations

import re
from pathlib import Path

import pytest

from rdm_batch.errors import SampleSetError
from rdm_batch.reports.page import MAX_HEADS, MAX_SAMPLES, render_page
from rdm_batch.reports.pictures import Pictures
from rdm_batch.reports.run_report import (
    HeadReport,
    HeadTimes,
    IllustratedSample,
    RunReport,
    Throughput,
)
from tests.browser import PageResult, open_page
from tests.reports.fixtures import (
    make_latencies,
    make_picture,
    make_pictures,
    make_report,
    make_score,
)

HOSTILE = "</code></pre><script>console.error('ran')</script><img src=x onerror=alert(1)>\"'&"


def rendered(report: RunReport) -> str:
    return render_page(report, make_latencies(), make_pictures(report))


def opened(tmp_path: Path, page: str, **settings: object) -> PageResult:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    return open_page(path, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [{}, {"dark": True}, {"width": 360, "height": 800, "phone": True}],
    ids=["desktop", "dark", "phone"],
)
def test_page_opens_without_complaint_or_request_and_fits(
    tmp_path: Path, settings: dict[str, object]
) -> None:
    broken = "[...document.images].filter(image => !image.naturalWidth).length"
    report = make_report()
    result = opened(tmp_path, rendered(report), script=broken, **settings)
    assert result.console_errors == ()
    assert result.requests == ()
    assert result.value == 0
    assert result.scroll_width == settings.get("width", 1280)
    for text in ("4 of 256 samples", "12.34", "a red circle number 3", "num_steps: 20"):
        assert text in result.dom_text


def test_strings_from_outside_are_shown_and_never_run(tmp_path: Path) -> None:
    report = make_report(num_illustrated=1)
    illustrated = IllustratedSample(
        sample_index=0,
        caption=HOSTILE,
        neighbor_ids=(0,),
        neighbor_scores=(0.5,),
        neighbor_captions=(HOSTILE,),
    )
    score = make_score(HOSTILE, 1.0, settings={HOSTILE: HOSTILE})
    report = report.model_copy(
        update={
            "job_name": HOSTILE,
            "spec": {HOSTILE: HOSTILE},
            "illustrated": (illustrated,),
            "scores": (score,),
            "provenance": report.provenance.model_copy(update={"command": HOSTILE}),
            "sample_set": report.sample_set.model_copy(update={"uri": HOSTILE}),
        }
    )
    page = rendered(report)
    assert "<script" not in page
    assert "<img src=x" not in page
    # With the policy taken out, only the escaping stands between the strings and the reader.
    unguarded = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    assert unguarded != page
    scripts = "document.querySelectorAll('script, [onerror]').length"
    result = opened(tmp_path, unguarded, script=scripts)
    assert result.console_errors == ()
    assert result.value == 0
    # Heading, URI, caption, score and command all show it as it is.
    assert result.dom_text.count(HOSTILE) >= 6


def test_policy_lets_the_browser_load_nothing(tmp_path: Path) -> None:
    page = rendered(make_report())
    tampered = page.replace("</body>", "<img src='x.png' alt=''><script>1</script></body>")
    result = opened(tmp_path, tampered)
    assert sum("Content Security Policy" in line for line in result.console_errors) >= 2


def test_controls_are_reached_by_keyboard_and_figures_have_names(tmp_path: Path) -> None:
    script = """({
        unlabeled: [...document.querySelectorAll('img:not([alt]), [role=img]:not([aria-label])')]
            .length,
        headings: [...document.querySelectorAll('h1')].length,
        links: [...document.querySelectorAll('nav a')]
            .filter(link => !document.querySelector(link.getAttribute('href'))).length,
        shown: (() => {
            const scores = () => getComputedStyle(document.querySelector('.similarity')).display
            const before = scores()
            document.querySelector('label[for=show-scores]').click()
            return [before, scores()]
        })(),
    })"""
    result = opened(tmp_path, rendered(make_report()), script=script)
    assert result.value == {
        "unlabeled": 0,
        "headings": 1,
        "links": 0,
        "shown": ["none", "block"],
    }


def test_grid_is_capped_and_says_so() -> None:
    report = make_report(num_illustrated=MAX_SAMPLES + 10, k_nn=1)
    page = rendered(report)
    assert page.count('class="card"') == MAX_SAMPLES
    assert f"{MAX_SAMPLES} of 256 samples" in page


def test_large_pictures_are_reduced_and_tiny_ones_kept() -> None:
    report = make_report(num_illustrated=2, k_nn=1)
    tiny = make_pictures(report)
    assert render_page(report, None, tiny).count("data:image/png;base64,") == 4
    large = make_pictures(report, side=768)
    page = render_page(report, None, large)
    assert page.count("data:image/webp;base64,") == 4
    assert len(page) < 100_000


def test_a_full_page_of_small_images_is_small() -> None:
    report = make_report(num_illustrated=MAX_SAMPLES, k_nn=4)
    assert len(rendered(report).encode()) < 500_000


def test_a_picture_that_was_not_saved_leaves_an_empty_frame(tmp_path: Path) -> None:
    report = make_report(num_illustrated=2, k_nn=1)
    page = render_page(report, None, Pictures(samples={0: make_picture(0)}))
    assert page.count("no picture") == 3
    assert opened(tmp_path, page).console_errors == ()


def test_a_damaged_picture_is_one_clear_error() -> None:
    report = make_report(num_illustrated=1, k_nn=1)
    png = make_picture(0)
    for damaged in (b"", b"no image", png[:60]):
        with pytest.raises(SampleSetError, match=r"a picture of .* cannot be read"):
            render_page(report, None, Pictures(samples={0: damaged}))


def test_many_heads_are_drawn_up_to_a_limit_and_all_listed() -> None:
    times = HeadTimes.within(10.0, model_s=9.0, neighbors_s=0.0, encoding_s=0.0, writing_s=0.0)
    heads = tuple(
        HeadReport(name=f"head-{index:03}", device="cuda:0", images=1, wall_s=10, times=times)
        for index in range(MAX_HEADS + 5)
    )
    throughput = Throughput(images=21, start_up_s=1, generation_s=10, heads=heads)
    page = rendered(make_report().model_copy(update={"throughput": throughput}))
    assert page.count('class="stack"') == MAX_HEADS
    assert f"{MAX_HEADS} of {len(heads)} heads are drawn" in page
    assert page.count("head-020") == 1


def test_a_bare_report_still_makes_a_page(tmp_path: Path) -> None:
    report = make_report(num_illustrated=0).model_copy(
        update={
            "throughput": Throughput(images=0, start_up_s=1, generation_s=0),
            "retrieval": None,
            "scores": (),
            "start_up": (),
        }
    )
    result = opened(tmp_path, render_page(report))
    assert result.console_errors == ()
    assert "No image was made in this run" in result.dom_text


def test_command_to_write_the_page_again_is_quoted_for_the_shell() -> None:
    report = make_report()
    samples = report.sample_set.model_copy(update={"uri": "out/my set"})
    page = render_page(report.model_copy(update={"sample_set": samples}))
    assert "rdm-batch report &#39;out/my set&#39;" in page
