"""Run a sweep: all cells of one model by one set of heads, shard after shard, and their report."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from rdm_batch.cluster.connect import NONE, connected
from rdm_batch.cluster.local import LocalCluster, local_resources
from rdm_batch.cluster.pool import Cluster, Pool, WorkerNeeds, device_for
from rdm_batch.cluster.texts import ClusterEmbedder
from rdm_batch.evaluation.extraction import workers_worth_starting
from rdm_batch.generation.counting import SampleCount
from rdm_batch.generation.head_worker import SHARDS_IN_FLIGHT, plan_resources
from rdm_batch.generation.job import JobRun, retriever_needs
from rdm_batch.generation.modes import mode_of
from rdm_batch.generation.modes.mode import Conditioner
from rdm_batch.generation.renderer import ContextSource
from rdm_batch.generation.retrieval_report import illustrate, measure_recall
from rdm_batch.generation.submission import default_address
from rdm_batch.reports.progress import Progress
from rdm_batch.reports.provenance import collect_provenance, process_age_s
from rdm_batch.reports.run_report import Provenance, Recall
from rdm_batch.reports.saved import SavedRun, save_run
from rdm_batch.reports.sweep_page import save_sweep
from rdm_batch.reports.sweep_report import SweepReport
from rdm_batch.retrieval.composite import CompositeRetriever
from rdm_batch.storage.device_class import check_begun_on
from rdm_batch.storage.manifest import epoch_s
from rdm_batch.storage.sample_set import SampleSet
from rdm_batch.sweeps.cells import load_sweep
from rdm_batch.sweeps.compare import CellState, report_sweep
from rdm_batch.sweeps.judging import Judge, finished_state, first_pictures
from rdm_batch.sweeps.lookups import lookup_key, retriever_key
from rdm_batch.sweeps.plan import CheckedSweep, check_sweep
from rdm_batch.sweeps.rounds import looks_of
from rdm_batch.sweeps.worker import CellShard, CellWork, SweepWorker


def run_sweep(
    path: Path, overrides: Sequence[str], address: str | None, progress: Progress
) -> tuple[SweepReport, str]:
    """Run a sweep from its file to its report; what is stored already is not made again.

    Args:
        path: The job file with a ``sweep``.
        overrides: ``key.path=value`` strings for the job that the cells vary.
        address: Where to work, as ``generation.job.run`` takes it.
        progress: Shows the stages.

    Returns:
        The report, and where its page is.

    Raises:
        RdmBatchError: The sweep cannot run, or could not finish; what was stored stays.
    """
    return _complete(path, overrides, address, epoch_s() - process_age_s(), progress)


def sweep(
    job: str | Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    address: str | None = None,
) -> SweepReport:
    """Make, score and compare all cells of a sweep; what is stored already is not made again.

    Args:
        job: The job file with a ``sweep``, or what it would hold.
        overrides: ``key.path=value`` strings for the job that the cells vary.
        address: Where to work, as ``run`` takes it.

    Returns:
        The report, which is saved below the output location as well.

    Raises:
        InvalidJobError: The sweep, or a cell, is wrong; all mistakes are listed.
        RdmBatchError: The sweep could not finish; what was stored stays.
    """
    named = Path(job) if isinstance(job, str) else job
    with Progress() as progress:
        return _complete(named, overrides, address, epoch_s(), progress)[0]


def _complete(
    path: Path | Mapping[str, Any],
    overrides: Sequence[str],
    address: str | None,
    started: float,
    progress: Progress,
) -> tuple[SweepReport, str]:
    with progress.step("check the cells"):
        checked = check_sweep(load_sweep(path, overrides))
    running = _Running(checked, started, progress)
    if running.finished_before():
        return running.save(None, finished=True)
    address = address or default_address()
    if address in (NONE, "local"):
        for group in running.groups:
            job = checked.jobs[group[0]]
            planned = plan_resources(job.spec, local_resources(), len(job.shards))
            job.model.check_machine(device_for(planned.num_gpus))
    with connected(address) as cluster:
        return running.complete(cluster)


class _Running:
    """One execution of a sweep.

    Args:
        checked: The sweep.
        started: When the command started, seconds since the epoch.
        progress: Shows the stages.
    """

    def __init__(self, checked: CheckedSweep, started: float, progress: Progress) -> None:
        self.sweep, self.jobs = checked.sweep, checked.jobs
        self._started, self.progress = started, progress
        self.names = [cell.name for cell in checked.sweep.cells]
        self.runs = [JobRun(job, started, influences=True) for job in checked.jobs]
        self.judge = Judge(checked.sweep, checked.jobs)
        self.states: dict[int, CellState] = {}
        by_model: dict[str, list[int]] = {}
        for number, job in enumerate(checked.jobs):
            spec = job.spec
            key = f"{spec.model.model_dump_json()} {spec.cluster.model_dump_json()}"
            by_model.setdefault(key, []).append(number)
        self.groups = tuple(tuple(group) for group in by_model.values())

    def finished_before(self) -> bool:
        """Take cells as they are that are complete; tell whether all are."""
        for number, (run, job) in enumerate(zip(self.runs, self.jobs, strict=True)):
            saved = run.nothing_to_do()
            if saved is not None:
                state = finished_state(job, saved.report.scores)
                if state is not None:
                    self.states[number] = state
        return len(self.states) == len(self.jobs)

    def complete(self, cluster: Cluster) -> tuple[SweepReport, str]:
        """Make what is missing, judge the cells, and report."""
        for group in self.groups:
            with ExitStack() as stack:
                waiting = [number for number in group if number not in self.states]
                if waiting:
                    complete = [number for number in group if number in self.states]
                    _Group(self, cluster, waiting, complete, stack).complete()
        return self.save(cluster, finished=True)

    def save(
        self, cluster: Cluster | None, finished: bool, shown: Mapping[int, CellState] | None = None
    ) -> tuple[SweepReport, str]:
        """Write the report of what is known so far; give it, and where its page is.

        Args:
            cluster: Where the work was done, if anything was.
            finished: Whether nothing more will be made.
            shown: What is known of cells that are still made.
        """
        known = {**self.states, **(shown or {})}
        states = [
            known.get(number) or self.judge.unjudged(number) for number in range(len(self.jobs))
        ]
        report = report_sweep(
            self.sweep, states, self.judge.of_base, finished, self._provenance(cluster)
        )
        pictures = {
            cell.name: first_pictures(cell.uri, self.sweep.spec.pictures) for cell in report.cells
        }
        return report, save_sweep(report, pictures)

    def _provenance(self, cluster: Cluster | None) -> Provenance:
        started = datetime.fromtimestamp(self._started, UTC)
        nodes = () if cluster is None else cluster.nodes()
        return collect_provenance(started, datetime.now(UTC), ray_nodes=nodes)


class _Group:
    """The cells of one model that are not complete: made together, judged one after the other.

    Args:
        running: The sweep.
        cluster: Where to work.
        cells: Positions of the cells.
        complete: Positions of cells of the model that were complete before.
        stack: Ends what is opened here.
    """

    def __init__(
        self,
        running: _Running,
        cluster: Cluster,
        cells: Sequence[int],
        complete: Sequence[int],
        stack: ExitStack,
    ) -> None:
        self._of = running
        self._cluster = cluster
        self._cells, self._complete = tuple(cells), tuple(complete)
        self._stack = stack
        self._heads: tuple[ExitStack, Pool[SweepWorker]] | None = None
        self._loading = running.progress.begin("load heads and index")
        self._sets = {number: running.runs[number].begin_set() for number in cells}
        self._before = {number: running.runs[number].saved() for number in cells}
        self._sources: list[ContextSource] = []
        self._fresh: list[Conditioner] = []
        self._source_of: dict[int, int] = {}
        self._open()

    def _open(self) -> None:
        """Open each database once, and what conditions samples once for cells that share it."""
        retrievers: dict[str, CompositeRetriever] = {}
        known: dict[str, int] = {}
        for number in self._cells:
            job = self._of.jobs[number]
            searched, shared = retriever_key(job), lookup_key(job)
            if searched not in retrievers:
                needs = retriever_needs(job.spec, job.database.manifest)
                opened = self._cluster.retriever(job.database, needs)
                retrievers[searched] = self._stack.enter_context(opened)
            if shared not in known:
                mode = mode_of(job.spec.conditioning)
                conditioner = mode.build_conditioner(job, ClusterEmbedder(self._cluster))
                known[shared] = len(self._sources)
                # What a conditioner looks up it may keep: this one has not looked yet.
                self._fresh.append(copy.copy(conditioner))
                self._sources.append(ContextSource(conditioner, retrievers[searched]))
            self._source_of[number] = known[shared]

    def complete(self) -> None:
        """Make what is missing, shard after shard over all cells, and judge them."""
        active = list(self._cells)
        missing = {number: list(self._sets[number].missing_shards()) for number in active}
        total = sum(self._of.jobs[number].spec.sampling.num_samples for number in active)
        left = sum(self._sets[number].missing_shards().num_samples for number in active)
        count = SampleCount(self._of.progress, total, total - left, self._loading.finish)
        try:
            begin = 0
            for stop in looks_of([self._of.jobs[number] for number in active]):
                items = [
                    (shard, number)
                    for number in active
                    for shard in missing[number]
                    if begin <= shard < stop
                ]
                if items:
                    self._make(sorted(items), count)
                active = self._look(active, stop, bool(items))
                begin = stop
        finally:
            self._close_heads()
        count.finish()
        self._loading.finish()
        self._finish(active)

    def _make(self, items: Sequence[tuple[int, int]], count: SampleCount) -> None:
        jobs, cells = self._of.jobs, self._cells

        def item_of(place: tuple[int, int]) -> CellShard:
            shard, number = place
            run, name = self._of.runs[number], self._of.names[number]
            return CellShard(cells.index(number), name, jobs[number].shards[shard], run.run_id)

        pool = self._pool()

        def look() -> None:
            for drawn in pool.glance(SweepWorker.drawn):
                count.drawn(drawn)

        made = pool.map(
            SweepWorker.make,
            map(item_of, items),
            where=str,
            shared=(tuple(self._sources),),
            on_wait=look,
        )
        for item, entry in made:
            self._of.runs[cells[item.cell]].reached("first shard")
            count.count_stored((item.cell, entry.shard), entry.num_rows)

    def _pool(self) -> Pool[SweepWorker]:
        """Give the heads, started when they are first needed."""
        if self._heads is not None:
            return self._heads[1]
        jobs = [self._of.jobs[number] for number in self._cells]
        shards = sum(len(job.shards) for job in jobs)
        resources = plan_resources(jobs[0].spec, self._cluster.resources, shards)
        needs = WorkerNeeds(resources.num_cpus, resources.num_gpus, SHARDS_IN_FLIGHT)
        for number, job in zip(self._cells, jobs, strict=True):
            if not job.spec.cluster.mixed_devices:
                check_begun_on(self._sets[number], needs.device)
        work = tuple(
            CellWork(
                job.spec,
                job.model,
                job.header,
                self._sources[self._source_of[number]].retriever.dim,
                self._source_of[number],
            )
            for number, job in zip(self._cells, jobs, strict=True)
        )
        stack = ExitStack()
        made = partial(SweepWorker, work, needs.device)
        pool = stack.enter_context(self._cluster.workers(made, resources.num_heads, needs))
        self._heads = stack, pool
        return pool

    def _close_heads(self) -> None:
        if self._heads is not None:
            self._heads[0].close()
            self._heads = None

    def _look(self, active: Sequence[int], stop: int, news: bool) -> list[int]:
        """Judge all cells at their first shards, and leave out those that are ended.

        What is decided follows from these samples alone, so a sweep that was interrupted decides
        again as it did before.
        """
        jobs, judge = self._of.jobs, self._of.judge
        if not judge.looks_at(stop, news) or all(stop >= len(jobs[n].shards) for n in active):
            return list(active)
        extractor = judge.extractor
        if not isinstance(self._cluster, LocalCluster) and extractor is not None:
            lacking = max(jobs[number].shards[0].num_samples for number in active) * stop
            if workers_worth_starting(lacking, extractor) > 1:
                # What extracts features waits for what the heads have reserved.
                self._close_heads()
        with self._of.progress.step(f"look at {stop:,} shards of each cell"):
            sets = {number: self._sets[number] for number in active}
            # Those that were complete before take part: what is decided must not depend on
            # whether the sweep was interrupted.
            for number in self._complete:
                sets[number] = SampleSet.open(jobs[number].spec.output.uri)
            states = judge.look(self._cluster, sets, stop)
        ended = {n: states[n] for n in active if states[n].ended is not None}
        self._of.states |= ended
        if news:
            self._of.save(self._cluster, finished=False, shown=states)
        return [number for number in active if number not in ended]

    def _finish(self, active: Sequence[int]) -> None:
        """Measure, score and report every finished cell as the job it is."""
        recalls: dict[int, Recall | None] = {}
        progress = self._of.progress
        looked, held = {}, {}
        with progress.step("measure retrieval"):
            for number in active:
                source, spec = self._source_of[number], self._of.jobs[number].spec
                self._sets[number].finish()
                retriever = self._sources[source].retriever
                assert isinstance(retriever, CompositeRetriever)
                if source not in recalls:
                    fresh, sampling = self._fresh[source], spec.sampling
                    recalls[source] = measure_recall(
                        retriever, fresh, sampling.seed, sampling.num_samples
                    )
                job = self._of.jobs[number]
                picture_of = mode_of(spec.conditioning).picture_of(job.queries)
                looked[number] = illustrate(self._sets[number], retriever, picture_of)
                held[number] = (
                    retriever.resident_bytes(),
                    self._cluster.lost_retrievers(retriever),
                )
        self._stack.close()
        for number in active:
            run, spec = self._of.runs[number], self._of.jobs[number].spec
            saved = run.report(
                self._cluster,
                self._sets[number],
                self._before[number],
                recalls[self._source_of[number]],
                looked[number],
                progress,
                *held[number],
            )
            save_run(spec.output.uri, saved)
            self._of.states[number] = self._state_of(number, saved, run)

    def _state_of(self, number: int, saved: SavedRun, run: JobRun) -> CellState:
        influences = {} if run.evaluated is None else run.evaluated.influences()
        job = self._of.jobs[number]
        state = finished_state(job, saved.report.scores, influences)
        assert state is not None
        return state
