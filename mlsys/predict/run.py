"""One run, or one task's share of it: checked, planned, scored, and published by whichever task is the last.

Every step can be repeated by a task that is started again, or done by two at once: what must happen once is decided by
Cloud Storage (an object is created once) or by BigQuery (a job id is used once).
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from math import floor
from typing import Any

import joblib

from mlsys import clients, logs
from mlsys.bq import bq_pin
from mlsys.errors import (
    InterruptedRunError,
    MissingRowsError,
    MlsysError,
    NotFoundError,
    RejectedRowsError,
    SchemaError,
)
from mlsys.models.environment import git_commit
from mlsys.names import labels, rejects_table
from mlsys.predict import output, preflight
from mlsys.predict.job import PredictionJob, RunRecord
from mlsys.predict.metadata import Metadata
from mlsys.predict.parts import BATCH_ROWS, Score, Work
from mlsys.predict.plan import Counts, Plan, RunFolder
from mlsys.predict.preflight import Input, Preflight
from mlsys.predict.task import current_task
from mlsys.predict.workers import score_streams, warm_up
from mlsys.progress import rows_bar
from mlsys.registry.runs import RunEntry, known_timestamps, record_run
from mlsys.settings import Settings, get_settings

logger = logging.getLogger(__name__)

_PROCESS_SECONDS = 5.0  # of work: with less, another process takes as long to start, from the same cores, as it saves
_TRANSFER_SECONDS_A_ROW = 0.6e-6  # reading and writing a row of a few columns
_MOST_PARTS = 1000  # BigQuery allows 1,500 load jobs a day for a table
_PINNED = timedelta(hours=6)  # as long as BigQuery keeps a read session
_WARM_UP_BYTES = 64_000_000  # an input that is likely to be that much work, before the model is known
_LAST_WORDS = 8.0  # seconds; Cloud Run gives ten between SIGTERM and SIGKILL


class Run:
    """A run that is under way. ``record`` says what it did, once it has ended."""

    def __init__(self, job: PredictionJob, settings: Settings) -> None:
        self.job, self.settings, self.task = job, settings, current_task()
        self.run_id = job.run_id(settings.env)
        self.token = self.task.token(self.run_id)
        self.client = clients.bigquery_client(settings)
        self.folder = RunFolder.of(
            self.run_id, self.task.execution, settings.model_bucket(), clients.storage_client(settings)
        )
        self.record: RunRecord | None = None
        self.work: Work | None = None  # not before everything was checked
        self.metadata: Metadata | None = None
        self._started = time.monotonic()
        self._counts: Counts | None = None  # not before this task's share is scored
        self._publishing = False  # from the first statement that changes the output until it is in the ledger
        self._entry = RunEntry(
            run_id=self.run_id,
            execution=self.task.execution,
            environment=str(settings.env),
            model_name=job.model_name,
            source=job.source,
            output_table=str(job.output_table),
            as_of=job.as_of.astimezone(UTC),
            started_timestamp=datetime.now(UTC),
            tasks=self.task.task_count,
            attempt=self.task.task_attempt,
            image=settings.mlsys_image,
            git_commit=settings.mlsys_git_commit or git_commit(),
        )

    def share_out(self, score_part: Score) -> None:
        """Call ``score_part`` for each part of this task's share of the rows, in as many processes as that is worth.

        It must be a function of a module, so that other processes can import it.
        """
        done = self.folder.finished([self.task.task_index])
        self._counts = done[0] if done else self._score(score_part)

    def _score(self, score_part: Score) -> Counts:
        plan, streams = self.work.plan, self.work.plan.streams_of(self.task.task_index)
        rows = plan.rows.total_rows * len(streams) // max(1, len(plan.rows.streams))
        processes = min(_workers(self.settings), len(streams), 1 + rows // self._process_rows)
        with rows_bar(f"rows scored by {self.job.model_name} {plan.model_version}", None) as start:
            return score_streams(self.work, streams, score_part, start(rows), processes)

    def open(self) -> None:
        """Check, note that it started, and plan; or take the plan that there is."""
        moment = self._note_start()
        plan = self.folder.plan()
        if plan and datetime.now(UTC) - plan.prediction_timestamp > _PINNED and not self.folder.is_published:
            raise NotFoundError(
                f"the rows that {self.task.execution} pinned at {plan.prediction_timestamp:%Y-%m-%d %H:%M} UTC are gone"
                ": start a new execution"
            )
        job = self.job if plan is None else replace(self.job, model_version=plan.model_version)
        source = (
            preflight.look_at_input(job, self.settings, self.client)
            if plan is None
            else Input(plan.rows.schema, plan.bytes_processed)
        )
        if source.bytes_processed > _WARM_UP_BYTES and _workers(self.settings) > 1:
            warm_up()  # while this process loads the model
        checked = preflight.check(job, source, self.settings, self.client)
        if plan is None:
            plan = self.folder.agree(self._new_plan(checked, moment))
            # Another version may have been registered, or an alias moved, since the first task looked: its holds.
            if plan.model_version != checked.model.ref.version:
                job = replace(self.job, model_version=plan.model_version)
                checked = preflight.check(job, source, self.settings, self.client)
        if plan.tasks != self.task.task_count:
            raise SchemaError(f"execution {self.task.execution} has {plan.tasks} tasks, got {self.task.task_count}")
        self._prepare(checked, plan)

    def _note_start(self) -> datetime:
        """Record the start, once for all tasks; return the moment that tells this execution's rows from others."""
        job_id = f"mlsys_start_{self.token}"
        entry = replace(self._entry, prediction_timestamp=self._entry.started_timestamp)
        job = record_run(entry, self.client, job_id)
        if self.task.task_attempt:
            record_run(self._entry, self.client, f"{job_id}_attempt_{self.task.task_index}_{self.task.task_attempt}")
        return next(p.value for p in job.query_parameters if p.name == "prediction_timestamp")

    def _new_plan(self, checked: Preflight, moment: datetime) -> Plan:
        job, tasks = self.job, self.task.task_count
        inputs = [field.name for field in checked.model.manifest.signature.inputs]
        rows = bq_pin(
            job.source,
            streams=(tasks, tasks * _workers(self.settings)),
            rows_a_stream=_process_rows(checked, self.settings),
            parameters=job.parameters,
            columns=list(dict.fromkeys([*job.id_columns, *inputs])),
            max_bytes_billed=job.max_bytes_billed,
            labels=self._labels(checked.model.ref.version),
            job_id=f"mlsys_input_{self.token}",
            client=self.client,
            read_client=clients.read_client(self.settings),
        )
        part_rows = max(job.part_rows, -(-rows.total_rows // _MOST_PARTS))
        batch_rows = min(BATCH_ROWS, part_rows)
        return Plan(
            model_version=checked.model.ref.version,
            prediction_timestamp=moment,
            rows=rows,
            tasks=tasks,
            part_rows=-(-part_rows // batch_rows) * batch_rows,
            max_rejects=_tolerated(job.max_rejects, rows.total_rows),
            bytes_processed=checked.source.bytes_processed,
        )

    def _prepare(self, checked: Preflight, plan: Plan) -> None:
        target, job_labels = self.job.output_table, self._labels(plan.model_version)
        staging = target.sibling(f"{target.table}__staging_{self.token}")
        self._process_rows = _process_rows(checked, self.settings)
        output.create(self.client, target, checked.predictions, job_labels)
        location = output.create_staging(self.client, staging, checked.predictions)
        self.metadata = Metadata(
            self.job.model_name, plan.model_version, plan.prediction_timestamp, self.run_id,
            self.job.as_of.astimezone(UTC),
        )  # fmt: skip
        self.work = Work(
            plan=plan,
            model=checked.model,
            id_columns=self.job.id_columns,
            source=self.job.source,
            staging=staging,
            rejects_staging=target.sibling(f"{target.table}__staging_{self.token}_rejects"),
            predictions=checked.predictions,
            rejects=checked.rejects,
            token=self.token,
            location=location,
            labels=job_labels,
            settings=self.settings,
        )  # fmt: skip
        self._entry = replace(
            self._entry,
            model_version=plan.model_version,
            model_sha256=checked.model.manifest.model_file.sha256,
            bytes_processed=plan.bytes_processed,
        )
        logger.info("%s over %d rows of %s", checked.model.ref, plan.rows.total_rows, self.job.source[:200])

    def push(self) -> None:
        """Note that this task is done; when it is the last one, publish all rows, each with ``metadata``.

        Raises
        ------
        RuntimeError
            `share_out` was not called: no rows would take the place of those that are there.
        MissingRowsError, RejectedRowsError
            Not every row of the input is accounted for, or all tasks together rejected too many.
        """
        if self._counts is None:
            raise RuntimeError("there is nothing to push: call run.share_out() first")
        self.folder.finish(self.task.task_index, self._counts)
        done = self.folder.finished(range(self.work.plan.tasks))
        total = self._counts if done is None else sum(done, Counts())
        self._report(total, published=done is not None and self._publish(total))

    def _publish(self, total: Counts) -> bool:
        """Make the rows visible; say whether they are, or a later execution's instead."""
        if not self.folder.is_published:
            try:
                newest = self._replace_slices(total)
                self.folder.publish({"scored": total.scored, "rejected": total.rejected, "newest": newest})
            except (NotFoundError, MissingRowsError):  # another was quicker: the staging table is gone, or new
                if not self.folder.is_published:
                    raise
        newest = self.folder.outcome()["newest"]
        reason = None if newest else "a later execution of the run had published already: its rows stay"
        self._note_end("succeeded", reason, total)
        self._publishing = False
        self._drop_staging()
        return newest

    def _drop_staging(self) -> None:
        for staging in (self.work.staging, self.work.rejects_staging):
            output.drop_staging(self.client, staging)

    def _replace_slices(self, total: Counts) -> bool:
        self._check(total)
        work, target = self.work, self.job.output_table
        replace_slice = partial(
            output.replace_slice,
            self.client,
            metadata=self.metadata,
            token=self.token,
            written_before=lambda: known_timestamps(self.run_id, self.job.model_name, self.settings),
            labels=work.labels,
        )
        self._publishing = True
        try:
            newest = replace_slice(target, work.staging, work.predictions.names)
        except MlsysError:
            self._publishing = False  # BigQuery has refused: nothing was changed
            raise
        if not newest:
            return False
        rejects = rejects_table(target)
        # Without any, too, where an execution may have had some: its rows are not to stand beside this one's.
        if work.plan.max_rejects or output.check(self.client, rejects, work.rejects):
            output.create(self.client, rejects, work.rejects, work.labels)
            output.create_staging(self.client, work.rejects_staging, work.rejects)
            replace_slice(rejects, work.rejects_staging, work.rejects.names)
        return True

    def _check(self, total: Counts) -> None:
        """Raise unless every row of the input is accounted for."""
        plan = self.work.plan
        if total.rejected > plan.max_rejects:
            raise RejectedRowsError(
                f"{total.rejected} rows cannot be scored by all tasks together, {plan.max_rejects} tolerated"
            )
        staged = output.count_rows(self.client, self.work.staging)
        if staged != total.scored or (plan.rows.exact and total.rows != plan.rows.total_rows):
            raise MissingRowsError(
                f"rows are missing: the input has {plan.rows.total_rows}, {total.rows} were read, {total.scored} scored"
                f", {total.rejected} rejected, and {staged} are staged. Nothing was published: start a new execution"
            )
        if total.rejected and output.count_rows(self.client, self.work.rejects_staging) != total.rejected:
            raise MissingRowsError("rejected rows are missing. Nothing was published: start a new execution")

    def _note_end(self, status: str, reason: str | None, total: Counts | None = None) -> None:
        known: dict[str, Any] = {"seconds": time.monotonic() - self._started}
        if total is not None:
            known |= {"input_rows": total.rows, "scored_rows": total.scored, "rejected_rows": total.rejected}
        record_run(self._entry.ended(status, reason, **known), self.client)

    def fail(self, exc: BaseException) -> None:
        """Leave the reason in the ledger, and no tables, if that can be had: the error itself is what counts."""
        reason = " ".join(f"{type(exc).__name__}: {exc}".split())[:2000]
        if self._publishing:
            reason = f"ended while its rows were being published, which BigQuery may have done or may yet do: {reason}"
        last_words = threading.Thread(target=self._try_to_note, args=(reason,), daemon=True)
        last_words.start()
        last_words.join(_LAST_WORDS)

    def _try_to_note(self, reason: str) -> None:
        try:
            self._note_end("failed", reason)
        except Exception as exc:  # noqa: BLE001 - whatever it is, another error is being told
            logger.warning("the run ledger could not be told that the run failed: %s", exc)
        # Cloud Run starts an execution again, which goes on with what is there; one by hand is never started again.
        if self.work and self.task.by_hand and not self._publishing:
            self._drop_staging()

    def _report(self, counts: Counts, *, published: bool) -> None:
        metadata = self.metadata
        self.record = RunRecord(
            run_id=self.run_id,
            execution=self.task.execution,
            model_name=metadata.model_name,
            model_version=metadata.model_version,
            output_table=self.job.output_table,
            as_of=metadata.as_of,
            prediction_timestamp=metadata.prediction_timestamp,
            rows=counts.scored,
            rejected=counts.rejected,
            published=published,
            seconds=time.monotonic() - self._started,
        )
        logger.info("%d rows scored, %d rejected, in %.1f s%s", counts.scored, counts.rejected, self.record.seconds,
                    f"; published in {self.job.output_table}" if published else "")  # fmt: skip

    def _labels(self, version: str) -> dict[str, str]:
        return labels(env=self.settings.env, model=self.job.model_name, model_version=version, run_id=self.run_id)


@contextmanager
def open_run(job: PredictionJob, *, settings: Settings | None = None) -> Iterator[Run]:
    """Open a run: check it, note its start in the ledger, pin its rows. `Run.push` publishes it.

    Raises
    ------
    InterruptedRunError
        SIGTERM came, or a process was lost: the same execution, started again, goes on where it was.
    MissingRowsError
        Rows of the input did not arrive: only a new execution can make it good.
    RuntimeError
        The block ended without `Run.push`.
    MlsysError
        The run was refused (see `mlsys.predict.preflight.check`), or rows could not be scored. Nothing of it is
        visible in the output table.
    """
    settings = settings or get_settings()
    run = Run(job, settings)
    logs.bind(run_id=run.run_id, execution=run.task.execution, task=str(run.task.task_index))
    try:
        with _stoppable():
            run.open()
            yield run
            if run.record is None:
                raise RuntimeError("the run was not pushed: run.push() was not called, or failed")
    except BaseException as exc:
        run.fail(exc)
        raise


class _Stopped(BaseException):
    """SIGTERM came. No Exception: a model that catches those must not catch this one."""


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM into `InterruptedRunError`, raised where the main thread is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Stopped

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Stopped:
        raise InterruptedRunError(
            "stopped by SIGTERM: nothing is half published; the same execution, started again, goes on where it was"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _tolerated(fraction: float, rows: int) -> int:
    # 0.29 * 100 is less than 29; and the number of a table's rows may be an estimate: all are more than that.
    return sys.maxsize if fraction == 1 else floor(fraction * rows + 1e-9)


def _process_rows(checked: Preflight, settings: Settings) -> int:
    """Return how many rows are worth a process of their own: any, when the number of processes was set on purpose."""
    if settings.mlsys_workers:
        return 1
    return max(1, int(_PROCESS_SECONDS / (checked.seconds_a_row + _TRANSFER_SECONDS_A_ROW)))


def _workers(settings: Settings) -> int:
    return settings.mlsys_workers or joblib.cpu_count()
