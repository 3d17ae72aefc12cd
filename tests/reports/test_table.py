from __future__ import annotations

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from rdm_batch.reports.page import render_page
from rdm_batch.reports.run_report import HeadReport, HeadTimes, RunReport, Throughput
from rdm_batch.reports.table import describe, print_summary, shared_description
from tests.reports.fixtures import make_pictures, make_report, make_score


def printed(report: RunReport, width: int = 80, terminal: bool = False) -> str:
    stream = io.StringIO()
    print_summary(report, Console(file=stream, width=width, force_terminal=terminal))
    return stream.getvalue()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_is_longer_than_the_console_and_no_number_is_cut(
    width: int, terminal: bool
) -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=width, force_terminal=terminal, color_system=None)
    print_summary(make_report(), console)
    lines = stream.getvalue().splitlines()
    assert max(cell_len(line) for line in lines) <= width
    assert "…" not in stream.getvalue()


def test_key_numbers_carry_their_units() -> None:
    text = printed(make_report())
    assert "256 at out/shapes" in text
    assert "8 shards, 0 complete before; 1.18 MiB written" in text
    assert "25.6 between first and last shard, 10.2 with start-up" in text
    assert "15.0 s from command to first shard" in text
    assert "0.9960 over 64 queries" in text
    assert "12.34 ± 0.21" in text


def test_a_log_gets_neither_color_nor_trailing_spaces() -> None:
    text = printed(make_report())
    assert "\x1b" not in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_a_log_without_unicode_is_still_written() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_summary(make_report(), Console(file=stream, width=80))
    assert b"12.34 ? 0.21" in raw.getvalue()


def test_strings_from_outside_are_neither_markup_nor_escapes() -> None:
    scores = (make_score("[bold]w[/bold]\x1b]0;t\x07", 1.0),)
    report = make_report().model_copy(update={"job_name": "[red]x[/red]\x1b[2J", "scores": scores})
    text = printed(report)
    assert "Job [red]x[/red]�[2J" in text
    assert "[bold]w[/bold]�]0;t�" in text


def test_many_heads_are_summed_up() -> None:
    heads = tuple(
        HeadReport(
            name=f"head-{index}",
            device="cuda:0",
            images=100 + index,
            wall_s=10.0,
            times=HeadTimes.within(
                10.0, model_s=9.0, neighbors_s=0.0, encoding_s=0.0, writing_s=0.0
            ),
        )
        for index in range(64)
    )
    throughput = Throughput(images=8416, start_up_s=1, generation_s=10, heads=heads)
    text = printed(make_report().model_copy(update={"throughput": throughput}))
    assert "head-17" not in text
    rows = [line.split() for line in text.splitlines() if "of 64" in line]
    assert [row[0] for row in rows] == ["least", "mean", "most"]
    assert [row[3] for row in rows] == ["100", "132", "163"]


def test_gpus_say_how_long_they_drew_and_how_hard() -> None:
    report = make_report()
    assert "GPU" not in printed(report)
    heads = tuple(
        head.model_copy(update={"gpu_s": 9.7, "peak_flops_per_s": 8e14})
        for head in report.throughput.heads
    )
    update = {"heads": heads, "flops_per_image": 4e13}
    throughput = report.throughput.model_copy(update=update)
    text = printed(report.model_copy(update={"throughput": throughput}))
    assert "GPUs drew" in text
    assert "97.0 % of the heads' time" in text
    # 12.8 images a second of 40 TFLOP.
    assert "512 T a GPU, 64.0 % of what it does in matrix products" in text
    html = render_page(report.model_copy(update={"throughput": throughput}))
    assert "<dt>GPUs drew</dt><dd>97.0 %</dd>" in html
    assert "<dt>TFLOP/s a GPU</dt><dd>512</dd>" in html
    assert "GPUs drew" not in render_page(report)


def test_retrievers_say_what_they_hold_and_how_often_they_were_lost() -> None:
    text = " ".join(printed(make_report(), width=200).split())
    page = " ".join(render_page(make_report(), None, make_pictures(make_report())).split())
    for shown in (text, page):
        assert "334 MiB resident, without files that are mapped" in shown
        assert (
            "the retriever of shard 1 of the database (rows 25 and following), 2 times; brought "
            "back, nothing was lost with it" in shown
        )


def test_a_run_that_made_nothing_says_so() -> None:
    throughput = Throughput(images=0, start_up_s=2, generation_s=0)
    update = {"throughput": throughput, "retrieval": None, "scores": ()}
    text = printed(make_report().model_copy(update=update))
    assert "no image made in this run" in text
    assert "Retrieval" not in text
    assert "Scores" not in text


def test_what_all_scores_share_is_said_once() -> None:
    scores = (
        make_score("fid", 1, layer="a", num_generated=256),
        make_score("kid", 2, layer="b", num_generated=256),
    )
    assert shared_description(scores) == {
        "extractor": "inception-v3-compat",
        "extractor_digest": "ab12",
        "num_generated": 256,
        "k": 3,
        "settings": {},
        "partial": False,
    }
    text = printed(make_report().model_copy(update={"scores": scores}))
    assert text.count("num_generated 256") == 1
    assert "layer a" in text
    assert "layer b" in text


def test_digests_are_shortened() -> None:
    assert describe({"digest": "0a" * 32, "k": 3}) == "digest 0a0a0a0a0a0a, k 3"
