"""The whole job: check, connect, generate what is missing, measure, score, report."""

from __future__ import annotations

import copy
import sys
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rdm_batch.cluster.connect import NONE, connected
from rdm_batch.cluster.local import local_resources
from rdm_batch.cluster.pool import Cluster, RetrieverNeeds, device_for
from rdm_batch.cluster.texts import ClusterEmbedder
from rdm_batch.evaluation.evaluate import Evaluated, EvaluationRequest
from rdm_batch.evaluation.extraction import run_evaluation
from rdm_batch.evaluation.views import look_at
from rdm_batch.generation.counting import SampleCount
from rdm_batch.generation.engines import engine_of, search_effort
from rdm_batch.generation.exact_search import forget_searches, sources
from rdm_batch.generation.head_worker import HeadResources, make_shards, plan_resources
from rdm_batch.generation.modes import mode_of
from rdm_batch.generation.plan import ShardRange
from rdm_batch.generation.preflight import CheckedJob, preflight
from rdm_batch.generation.renderer import ContextSource
from rdm_batch.generation.retrieval_report import illustrate, measure_recall
from rdm_batch.generation.speed import (
    drawn_on_gpus,
    latencies,
    latest_run,
    measured_in,
    throughput,
)
from rdm_batch.generation.submission import default_address, load_job
from rdm_batch.heads.work import flops_per_sample
from rdm_batch.reports.latency import summarize_latencies
from rdm_batch.reports.pictures import Pictures
from rdm_batch.reports.progress import Progress
from rdm_batch.reports.provenance import collect_provenance, process_age_s, software_versions
from rdm_batch.reports.run_report import (
    IllustratedSample,
    LostRetriever,
    Recall,
    RetrievalReport,
    RunReport,
    SampleSetSummary,
    stages_from_milestones,
)
from rdm_batch.reports.saved import REPORT_KEY, SavedRun, load_run, save_run
from rdm_batch.reports.views import Views
from rdm_batch.retrieval.database import DatabaseManifest
from rdm_batch.specs.job import JobSpec
from rdm_batch.specs.scores import Score
from rdm_batch.storage.device_class import classes_of
from rdm_batch.storage.manifest import SampleSetHeader, ShardEntry, epoch_s
from rdm_batch.storage.sample_set import SampleSet

_QUERY_METHOD = "seconds of a search call, as the head waited for it, divided by its queries"


def run_job(
    path: Path, overrides: Sequence[str], address: str | None, progress: Progress
) -> tuple[RunReport, str]:
    """Run a job from its file to its report; arguments as ``load_job`` and ``run``.

    Args:
        path: The job file.
        overrides: ``key.path=value`` strings.
        address: Where to work.
        progress: Shows the stages.

    Returns:
        The report, and where its page is.

    Raises:
        RdmBatchError: The job cannot run, or could not finish; what was stored stays.
    """
    started = epoch_s() - process_age_s()
    saved, page = _complete(load_job(path, overrides), str(path), address, started, progress)
    return saved.report, page


def run(job: JobSpec, address: str | None = None) -> RunReport:
    """Make, score and report what a job asks for; what is stored already is not made again.

    Args:
        job: A job, as ``load_job`` gives it.
        address: Where to work: ``none`` in this process, without Ray; ``local`` on a Ray started
            here; ``auto`` on the running one; or the address of a cluster. None chooses
            ``auto`` in a submitted job or with RAY_ADDRESS set, else ``local``.

    Returns:
        The report, which is saved beside the samples as well.

    Raises:
        InvalidJobError: Something is missing or does not fit; all of it is listed.
        RdmBatchError: The job could not finish; what was stored stays.
    """
    with Progress() as progress:
        return _complete(job, job.name, address, epoch_s(), progress)[0].report


def _complete(
    spec: JobSpec, where: str, address: str | None, started: float, progress: Progress
) -> tuple[SavedRun, str]:
    """Run a job; give what came of it, and where its page is."""
    with progress.step("check the job"):
        job = preflight(spec, where, software_versions())
    run = JobRun(job, started)
    saved = run.nothing_to_do()
    if saved is None:
        address = address or default_address()
        if address in (NONE, "local"):
            # What this machine lacks is known before anything is started on it.
            planned = plan_resources(job.spec, local_resources(), len(job.shards))
            job.model.check_machine(device_for(planned.num_gpus))
        run.reached("checks")
        joining = None
        if address != NONE:
            joining = progress.begin("start Ray" if address == "local" else "join Ray")
        with connected(address) as cluster:
            if joining is not None:
                joining.finish()
                run.reached("Ray")
            saved = run.complete(cluster, progress)
        with progress.step("write the report"):
            return saved, save_run(spec.output.uri, saved)
    return saved, f"{spec.output.uri} (complete already; nothing was done)"


def _said(evaluation: object) -> object:
    """Leave out the fields that say nothing: a report of an earlier version lacks later ones."""
    if not isinstance(evaluation, dict):
        return evaluation
    return {name: value for name, value in evaluation.items() if value is not None}


class JobRun:
    """One execution of a job, from what is stored already to the finished set.

    Args:
        job: The job.
        started: When the command started, seconds since the epoch.
        influences: Whether scores are to tell what every image does to them.

    Attributes:
        run_id: Recorded in the entries of the shards it makes.
        evaluated: The evaluation behind the report, once there is one.
    """

    def __init__(self, job: CheckedJob, started: float, influences: bool = False) -> None:
        self._job = job
        self._started = started
        self._influences = influences
        self.run_id = uuid.uuid4().hex
        self.evaluated: Evaluated | None = None
        self._milestones: dict[str, float] = {}

    def reached(self, milestone: str) -> None:
        """Note the first time a milestone is reached."""
        self._milestones.setdefault(milestone, max(0.0, epoch_s() - self._started))

    def nothing_to_do(self) -> SavedRun | None:
        """Give what is saved where the set, its scores and its report are complete."""
        saved = self.saved()
        evaluation = self._job.spec.model_dump(mode="json")["evaluation"]
        if saved is None or _said(saved.report.spec.get("evaluation")) != _said(evaluation):
            return None
        return saved

    def saved(self) -> SavedRun | None:
        """Give what is saved beside a finished set, whatever it was judged by."""
        uri = self._job.spec.output.uri
        sample_set = SampleSet.find(uri)
        if sample_set is None or sample_set.success() is None:
            return None
        if sample_set.missing_shards() or not sample_set.store.exists(REPORT_KEY):
            return None
        return load_run(uri)

    def complete(self, cluster: Cluster, progress: Progress) -> SavedRun:
        """Make what is missing, measure and score the whole."""
        spec = self._job.spec
        loading = progress.begin("load heads and index")
        resources = plan_resources(spec, cluster.resources, len(self._job.shards))
        before = self.saved()
        sample_set = self.begin_set()
        missing = sample_set.missing_shards()
        searched = retriever_needs(spec, self._job.database.manifest)
        with cluster.retriever(self._job.database, searched) as retriever:
            conditioner = mode_of(spec.conditioning).build_conditioner(
                self._job, ClusterEmbedder(cluster)
            )
            # What a conditioner looks up it may keep: this one has not looked yet.
            fresh = copy.copy(conditioner)
            if missing:
                total = spec.sampling.num_samples
                stored = total - missing.num_samples
                count = SampleCount(progress, total, stored, loading.finish)
                # One after the other: a job may have a billion shards.
                shards = (self._job.shards[shard] for shard in missing)
                groups = sources(cluster, self._job, shards, conditioner, retriever, progress)
                for group, source in groups:
                    self._generate(cluster, group, source, resources, count)
                count.finish()
            loading.finish()
            with progress.step("measure retrieval"):
                sample_set.finish()
                forget_searches(spec.output.uri)
                recall, resident = None, retriever.resident_bytes()
                lost = cluster.lost_retrievers(retriever)
                if not searched.effort.exactly:
                    recall = measure_recall(
                        retriever, fresh, spec.sampling.seed, spec.sampling.num_samples
                    )
                picture_of = mode_of(spec.conditioning).picture_of(self._job.queries)
                illustrated = illustrate(sample_set, retriever, picture_of)
        return self.report(
            cluster, sample_set, before, recall, illustrated, progress, resident, lost
        )

    def begin_set(self) -> SampleSet:
        """Start the set, or go on with what is there.

        Raises:
            SampleSetError: The location holds another job's samples.
        """
        sample_set = SampleSet.create_or_resume(self._job.spec.output.uri, self._job.header)
        if sample_set.missing_shards():
            _tell_of_other_versions(sample_set.header, self._job.header)
        return sample_set

    def report(
        self,
        cluster: Cluster,
        sample_set: SampleSet,
        before: SavedRun | None,
        recall: Recall | None,
        illustrated: tuple[tuple[IllustratedSample, ...], Pictures],
        progress: Progress,
        resident_bytes: int | None = None,
        lost: tuple[LostRetriever, ...] = (),
    ) -> SavedRun:
        """Score a finished set, and put together what is known of it.

        Args:
            cluster: Where features are extracted.
            sample_set: The set.
            before: What was saved of it before, if anything.
            recall: Of its index, where that was measured.
            illustrated: What ``illustrate`` gave.
            progress: Shows the stages.
            resident_bytes: Memory that opening the database took, where that was measured.
            lost: Retrievers that were lost while samples were made.
        """
        spec = self._job.spec
        entries = sample_set.entries()
        mine = measured_in(self.run_id, entries)
        # Killed after the last shard and before the report: the entries still tell.
        known = mine or measured_in(latest_run(entries) or "", entries)
        raw = latencies(known)
        nodes = cluster.nodes()
        scores, views, seen = self._evaluate(cluster, progress)
        report = RunReport(
            job_name=spec.name,
            spec=spec.model_dump(mode="json"),
            spec_digest=self._job.header.digest,
            provenance=collect_provenance(
                datetime.fromtimestamp(self._started, UTC), datetime.now(UTC), ray_nodes=nodes
            ),
            sample_set=SampleSetSummary(
                uri=spec.output.uri,
                rows=sum(entry.num_rows for entry in entries),
                shards=len(entries),
                bytes_written=sum(shard.num_bytes for shard in mine),
                resumed_shards=len(entries) - len(mine),
                device_classes=classes_of(entries),
            ),
            throughput=throughput(
                known,
                self._started if mine else None,
                self._flops_per_image() if drawn_on_gpus(known) else None,
            ),
            start_up=stages_from_milestones(self._milestones),
            retrieval=None
            if raw is None
            else RetrievalReport(
                per_query=summarize_latencies(raw.query_s),
                per_batch=summarize_latencies(raw.batch_s),
                query_method=_QUERY_METHOD,
                recall=recall,
                engine=engine_of(spec, self._job.database.manifest),
                resident_bytes=resident_bytes,
                lost=lost,
            ),
            scores=scores,
            views=views,
            illustrated=illustrated[0],
        )
        if before is not None and not mine:
            # Nothing was generated: speed stays what it was when the samples were made.
            kept = {"throughput", "start_up", "sample_set"}
            report = report.model_copy(update={k: getattr(before.report, k) for k in kept})
        return SavedRun(report, raw, illustrated[1] | seen)

    def _flops_per_image(self) -> float | None:
        model, spec = self._job.model, self._job.spec
        if model.architecture is None:
            return None
        weaker = None if model.weaker is None else model.weaker.architecture
        conditioning = spec.conditioning
        return flops_per_sample(
            model.architecture, spec.sampling, conditioning.k_nn, weaker, conditioning.editing
        )

    def _evaluate(
        self, cluster: Cluster, progress: Progress
    ) -> tuple[tuple[Score, ...], Views | None, Pictures]:
        spec = self._job.spec
        if spec.evaluation is None:
            return (), None, Pictures()
        stage = progress.stage("features", spec.sampling.num_samples, "samples")

        def extracted(count: int) -> None:
            stage.advance(count)
            if stage.done >= spec.sampling.num_samples:
                stage.finish()

        request = EvaluationRequest(
            spec.output.uri,
            spec.evaluation,
            spec.database,
            opened=self._job.database,
            influences=self._influences,
        )
        with progress.step("compute scores"):
            evaluated = run_evaluation(cluster, request, extracted, self._job.references)
            stage.finish()
            self.evaluated = evaluated
            return evaluated.scores, *look_at(evaluated, self._job.database)

    def _generate(
        self,
        cluster: Cluster,
        shards: Iterable[ShardRange],
        source: ContextSource,
        resources: HeadResources,
        count: SampleCount,
    ) -> None:
        def committed(entry: ShardEntry) -> None:
            self.reached("first shard")
            count.committed(entry)

        make_shards(
            cluster,
            resources,
            self._job.spec,
            self._job.model,
            self._job.header,
            shards,
            source,
            self.run_id,
            committed,
            count.drawn,
        )


def retriever_needs(spec: JobSpec, manifest: DatabaseManifest) -> RetrieverNeeds:
    """Say how the database of a job is spread and searched."""
    return RetrieverNeeds(
        num_actors=spec.database.retriever_shards,
        effort=search_effort(spec, manifest),
        num_cpus=spec.cluster.cpus_per_retriever,
    )


def _tell_of_other_versions(begun: SampleSetHeader, now: SampleSetHeader) -> None:
    """Say so where a set is completed with other software than it was begun with.

    No refusal: nobody could finish what was begun before an upgrade. Where arithmetic has changed
    with a version, samples made from here on may differ in rounding from what the old one makes.
    """
    others = [
        f"{name} {version} (now {now.software[name]})"
        for name, version in begun.software.items()
        if now.software.get(name, version) != version
    ]
    if others:
        print(f"note: the set was begun with {', '.join(others)}", file=sys.stderr, flush=True)
