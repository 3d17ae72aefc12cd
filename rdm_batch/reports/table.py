"""The summary printed when a job ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from statistics import fmean

from pydantic import JsonValue
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rdm_batch.reports.latency import LatencySummary
from rdm_batch.reports.run_report import (
    HeadReport,
    LostRetriever,
    RetrievalReport,
    RunReport,
    Throughput,
)
from rdm_batch.reports.units import (
    format_bytes,
    format_count,
    format_measured,
    format_number,
    format_seconds,
    format_share,
    printable,
)
from rdm_batch.specs.scores import Better, Score

# More heads than this are summed up: a table of 64 rows hides what matters.
_MAX_HEAD_ROWS = 8


def print_summary(report: RunReport, console: Console | None = None) -> None:
    """Print the summary of a finished job.

    Args:
        report: The finished job.
        console: Where to print; None means standard output. No line is longer than the
            console is wide.
    """
    print_blocks(summary(report), console or Console())


def print_blocks(blocks: Iterable[RenderableType], console: Console) -> None:
    """Print blocks, a blank line after each; without color or trailing spaces in a log.

    A character that the log's encoding lacks is printed as a question mark.
    """
    if console.is_terminal:
        for block in blocks:
            console.print(block)
            console.print()
        return
    with console.capture() as capture:
        for block in blocks:
            console.print(block)
            console.print()
    text = "\n".join(line.rstrip() for line in capture.get().split("\n"))
    console.file.write(text.encode(console.encoding, "replace").decode(console.encoding))
    console.file.flush()


def summary(report: RunReport) -> list[RenderableType]:
    """Build the blocks of the summary: key figures, heads, retrieval, scores."""
    blocks: list[RenderableType] = [_key_figures(report)]
    if report.throughput.heads:
        blocks.append(_heads(report.throughput.heads))
    if report.retrieval is not None:
        table = new_table("Retrieval latency")
        add_columns(table, "", ("count", "mean", "p50", "p95", "p99", "max"))
        table.add_row("per query", *_latency_cells(report.retrieval.per_query))
        table.add_row("per batch", *_latency_cells(report.retrieval.per_batch))
        blocks.append(table)
    if report.scores:
        blocks.append(score_table(report.scores))
    return blocks


def new_table(title: str) -> Table:
    """Start a table in the style all of them share; the title is never read as markup."""
    return Table(
        title=Text(printable(title), "bold"),
        title_justify="left",
        box=None,
        header_style="bright_black",
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )


def add_columns(table: Table, first: str, numeric: Iterable[str]) -> None:
    """Add a column of names, which wraps, and columns of numbers, which never do."""
    table.add_column(first, overflow="fold")
    for name in numeric:
        table.add_column(name, justify="right", no_wrap=True)


def text_cell(value: str, style: str = "") -> Text:
    """Make a cell from a string of unknown origin: no markup, no control characters."""
    return Text(printable(value), style)


def _key_figures(report: RunReport) -> Table:
    samples, speed = report.sample_set, report.throughput
    table = Table.grid(padding=(0, 2))
    table.title = Text(f"Job {printable(report.job_name)}", "bold")
    table.title_justify = "left"
    table.add_column(no_wrap=True, style="bright_black")
    table.add_column(overflow="fold")
    table.add_row("samples", text_cell(f"{samples.rows:,} at {samples.uri}"))
    shards = format_count(samples.shards, "shard")
    written = format_bytes(samples.bytes_written)
    table.add_row(
        "shards", f"{shards}, {samples.resumed_shards:,} complete before; {written} written"
    )
    table.add_row("images/s", _rates(report))
    if len(samples.device_classes) > 1:
        table.add_row("mixed", text_cell(f"made on {' and '.join(samples.device_classes)}"))
    start_up = f"{format_seconds(speed.start_up_s)} from command to first shard"
    if speed.warm_up_s:
        start_up += f", {format_seconds(speed.warm_up_s)} of it to compile"
    table.add_row("start-up", start_up)
    if speed.model_share is not None:
        table.add_row("in the model", f"{format_share(speed.model_share)} of the heads' time")
    if speed.gpu_share is not None:
        table.add_row("GPUs drew", f"{format_share(speed.gpu_share)} of the heads' time")
    if speed.flops_per_s is not None:
        table.add_row("FLOP/s", _operations(speed))
    if report.retrieval is not None and report.retrieval.recall is not None:
        recall = report.retrieval.recall
        queries = format_count(recall.queries, "query").replace("querys", "queries")
        table.add_row(f"recall@{recall.k}", f"{recall.value:.4f} over {queries}")
    if report.retrieval is not None and report.retrieval.resident_bytes is not None:
        table.add_row("retrievers", retriever_memory(report.retrieval))
    for lost in () if report.retrieval is None else report.retrieval.lost:
        table.add_row("lost", text_cell(lost_retriever(lost)))
    return table


def retriever_memory(retrieval: RetrievalReport) -> str:
    """Say what the retrievers of a job hold in memory."""
    held = retrieval.resident_bytes or 0
    return f"{format_bytes(held)} resident, without files that are mapped"


def lost_retriever(lost: LostRetriever) -> str:
    """Say how often a retriever was lost, and that nothing came of it."""
    if lost.times is None:
        return f"perhaps the retriever of {lost.holds}: Ray did not tell; nothing was lost with it"
    times = format_count(lost.times, "time")
    return f"the retriever of {lost.holds}, {times}; brought back, nothing was lost with it"


def _rates(report: RunReport) -> str:
    speed = report.throughput
    if speed.images_per_s is None or speed.images_per_s_with_start_up is None:
        return "no image made in this run"
    return (
        f"{format_number(speed.images_per_s)} between first and last shard, "
        f"{format_number(speed.images_per_s_with_start_up)} with start-up"
    )


def _operations(speed: Throughput) -> str:
    told = f"{format_number((speed.flops_per_s or 0.0) / 1e12)} T a GPU"
    if speed.peak_share is not None:
        told += f", {format_share(speed.peak_share)} of what it does in matrix products"
    return told


def _heads(heads: tuple[HeadReport, ...]) -> Table:
    table = new_table("Heads: images and where the time went")
    activities = ("model", "neighbors", "encoding", "writing", "idle")
    add_columns(table, "head", ("images", "images/s", *activities))
    if len(heads) <= _MAX_HEAD_ROWS:
        for head in heads:
            shares = head.times.shares().values()
            rate = head.images_per_s
            table.add_row(
                text_cell(f"{head.name} ({head.device})"),
                f"{head.images:,}",
                "-" if rate is None else format_number(rate),
                *(format_share(share) for share in shares),
            )
        return table
    columns = [[float(head.images) for head in heads], [head.images_per_s or 0.0 for head in heads]]
    by_head = [list(head.times.shares().values()) for head in heads]
    for label, pick in (("least", min), ("mean", fmean), ("most", max)):
        table.add_row(
            f"{label} of {len(heads)}",
            *(format_number(pick(column)) for column in columns),
            *(format_share(pick(shares)) for shares in zip(*by_head, strict=True)),
        )
    return table


def _latency_cells(latency: LatencySummary) -> list[str]:
    seconds = (latency.mean_s, latency.p50_s, latency.p95_s, latency.p99_s, latency.max_s)
    return [f"{latency.count:,}", *(format_seconds(value) for value in seconds)]


def score_table(scores: tuple[Score, ...]) -> RenderableType:
    """Show scores with their uncertainties, and what they depend on once where it is shared."""
    shared = shared_description(scores)
    table = new_table("Scores")
    table.add_column("score", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("of", overflow="fold")
    for score in scores:
        table.add_row(
            text_cell(score_label(score, scores)),
            format_measured(score.value, score.uncertainty),
            text_cell(describe(own_description(score, shared))),
        )
    return Group(table, text_cell(f"all of {describe(shared)}")) if shared else table


def shared_description(scores: tuple[Score, ...]) -> dict[str, JsonValue]:
    """Find the part of the description that all of several scores have in common."""
    if len(scores) < 2:
        return {}
    first, *others = (score.description.conditions() for score in scores)
    return {
        key: value
        for key, value in first.items()
        if all(key in other and other[key] == value for other in others)
    }


def own_description(score: Score, shared: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """Give the part of a score's description that it does not share with the others."""
    return {
        key: value for key, value in score.description.conditions().items() if key not in shared
    }


def score_label(score: Score, among: Iterable[Score]) -> str:
    """Name a score and the direction in which it gets better: ``FID ↓``.

    Args:
        score: The score.
        among: What is shown with it: of two that are called alike, each is named with its id.
    """
    alike = any(other.label == score.label and other.id != score.id for other in among)
    return with_arrow(f"{score.label} ({score.id})" if alike else score.label, score.better)


def with_arrow(label: str, better: Better) -> str:
    """Add the direction in which a figure gets better."""
    return label + {"higher": " ↑", "lower": " ↓", None: ""}[better]


def describe(description: Mapping[str, JsonValue]) -> str:
    """Write a description on one line; long digests keep their first twelve characters."""
    return ", ".join(f"{key} {short_value(value)}" for key, value in leaves(description))


def leaves(tree: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, JsonValue]]:
    """List the values of nested mappings with their dotted names."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def short_value(value: JsonValue) -> str:
    """Write a value of a description; a digest keeps its first twelve characters."""
    text = value if isinstance(value, str) else json.dumps(value)
    is_digest = len(text) >= 32 and all(character in "0123456789abcdef" for character in text)
    return text[:12] if is_digest else text
