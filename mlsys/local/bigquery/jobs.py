"""Jobs: their ids, records and errors, and what each kind of job does to the tables.

A job's record commits in the transaction of its effect: after a crash `jobs.get` finds the job if and only if its
effect is there.
"""

import logging
import re
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import duckdb

from mlsys.local.bigquery import loads, queries, sql, writes
from mlsys.local.bigquery.catalog import Database, Session, named_by, now_ms, reference
from mlsys.local.bigquery.snapshots import Snapshots
from mlsys.local.bigquery.statements import TableRef
from mlsys.local.errors import ApiError, not_found, unsupported
from mlsys.local.faults import Faults

logger = logging.getLogger(__name__)

#: The dataset of query results that no table was asked for.
ANONYMOUS = "_anonymous"
_HTTP = {"notFound": 404, "duplicate": 409, "accessDenied": 403, "backendError": 503, "internalError": 500}
_LOAD_KEYS = {
    "destinationTable", "schema", "sourceFormat", "writeDisposition", "createDisposition", "schemaUpdateOptions",
    "timePartitioning", "rangePartitioning", "clustering", "destinationTableProperties", "parquetOptions", "autodetect",
    "fieldDelimiter", "quote", "skipLeadingRows", "allowQuotedNewlines", "nullMarker", "encoding",
    "ignoreUnknownValues", "sourceUris",
}  # fmt: skip


class Job:
    """A job from its submission to its record."""

    def __init__(self, project: str, body: dict) -> None:
        given = body.get("jobReference") or {}
        self.project, self.id = project, str(given.get("jobId") or f"job_{uuid.uuid4().hex}")
        self.location = given.get("location") or "US"
        self.configuration: dict = body.get("configuration") or {}
        self.kind = next((k for k in ("query", "load", "copy", "extract") if k in self.configuration), "")
        self.statistics: dict[str, Any] = {"creationTime": str(now_ms()), "startTime": str(now_ms())}
        self.status = {"state": "RUNNING"}  # what others see, until the job's effect is committed
        self.ended: dict[str, Any] = {"state": "DONE"}
        self.future: Future = Future()
        self.session: Session | None = None
        self.cancelled = False
        self.parent: str | None = None

    @property
    def path(self) -> str:
        """Return ``project:location.id``."""
        return f"{self.project}:{self.location}.{self.id}"

    def record(self) -> dict:
        """Return the job as ``jobs.get`` answers it."""
        return {
            "kind": "bigquery#job",
            "id": self.path,
            "jobReference": {"projectId": self.project, "jobId": self.id, "location": self.location},
            "configuration": {"jobType": self.kind.upper(), **self.configuration},
            "statistics": self.statistics | ({"parentJobId": self.parent} if self.parent else {}),
            "status": self.status,
            "user_email": "local@mlsys",
        }

    def after(self, seconds: float) -> dict:
        """Return the job's record once it has ended, or as it is after ``seconds``."""
        wait([self.future], timeout=seconds)
        return self.record()

    def done(self, error: ApiError | None = None) -> dict:
        """Return the record of the job as ended, which nobody sees before it is committed."""
        self.ended = {"state": "DONE"}
        self.statistics["endTime"] = str(now_ms())
        if error:
            result = {"reason": error.reason, "message": error.message}
            self.ended |= {"errorResult": result, "errors": [result]}
        return self.record() | {"status": self.ended}


def error_of(record: dict) -> ApiError | None:
    """Return the error that a job ended in, as the methods that answer rows raise it."""
    result = record["status"].get("errorResult")
    return result and ApiError(_HTTP.get(result["reason"], 400), result["reason"], result["message"])


class Jobs:
    """All jobs: those running in this process, and the records of the finished ones in the database."""

    def __init__(self, database: Database, snapshots: Snapshots, faults: Faults) -> None:
        self._database, self._snapshots, self._faults = database, snapshots, faults
        self._threads = ThreadPoolExecutor(32, "bigquery-job")
        self._lock = threading.Lock()
        self._running: dict[tuple[str, str], Job] = {}

    def close(self) -> None:
        """Wait for running jobs."""
        self._threads.shutdown()

    def submit(self, project: str, body: dict, upload: Path | None = None) -> Job:
        """Start a job; refuse an id that was used before. ``upload`` is the load's file; it is deleted at the end."""
        job = Job(project, body)
        try:
            if not re.fullmatch(r"[A-Za-z0-9_-]{1,1024}", job.id):
                raise ApiError(
                    400, "invalid", f"Invalid job ID {job.id!r}: letters, digits, dashes and underscores only"
                )
            with self._lock, self._database.session() as session:
                if (project, job.id) in self._running or session.job(project, job.id):
                    raise ApiError(409, "duplicate", f"Already Exists: Job {job.path}")
                self._running[project, job.id] = job
        except ApiError:
            if upload:
                upload.unlink()
            raise
        self._threads.submit(self._run, job, upload)
        return job

    def get(self, project: str, job_id: str) -> dict:
        """Return a job's record or raise 404."""
        job = self._running.get((project, job_id))
        with self._database.session() as session:
            record = session.job(project, job_id) or (job and job.record())
        if not record:
            raise not_found(f"Job {project}:US.{job_id}")
        return record

    def list(self, project: str, parent: str | None) -> list[dict]:
        """Return a project's jobs, newest first, or a script's."""
        with self._database.session() as session:
            ended = session.jobs(project, parent)
        known = {record["jobReference"]["jobId"] for record in ended}
        live = [job for job in list(self._running.values()) if job.project == project and job.parent == parent]
        return [job.record() for job in reversed(live) if job.id not in known] + ended

    def cancel(self, project: str, job_id: str) -> dict:
        """Ask a running job to stop, and return its record."""
        job = self._running.get((project, job_id))
        if job:
            job.cancelled = True
            if job.session:
                job.session.db.interrupt()
        return self.get(project, job_id)

    def query(self, project: str, request: dict, seconds: float) -> dict:
        """Run a ``jobs.query`` request and return its record after ``seconds`` at the latest.

        A request that was sent twice (by its ``requestId``) is one job.
        """
        top = ("dryRun", "labels", "jobTimeoutMs")
        own = ("kind", "maxResults", "timeoutMs", "formatOptions", "requestId", "location", "preserveNulls")
        query = {k: v for k, v in request.items() if k not in (*top, *own, "jobCreationMode")}
        body = {"configuration": {"query": query, **{k: request[k] for k in top if k in request}}}
        body["jobReference"] = {"location": request.get("location")}
        if request.get("requestId"):
            body["jobReference"]["jobId"] = "job_" + uuid.uuid5(uuid.NAMESPACE_OID, request["requestId"]).hex
        try:
            return self.submit(project, body).after(seconds)
        except ApiError as exc:
            if exc.reason != "duplicate":
                raise
            return self.wait(project, body["jobReference"]["jobId"], seconds)

    def wait(self, project: str, job_id: str, seconds: float) -> dict:
        """Return a job's record once it has ended, or as it is after ``seconds``."""
        job = self._running.get((project, job_id))
        return job.after(seconds) if job else self.get(project, job_id)

    def _run(self, job: Job, upload: Path | None) -> None:
        try:
            with self._database.session() as session:
                job.session = session
                self._injected(job)
                self._work(job, session, upload)
        except ApiError as exc:
            self._fail(job, exc)
        except duckdb.InterruptException:
            self._fail(job, ApiError(499, "stopped", "Job execution was cancelled: User requested cancellation"))
        except duckdb.Error as exc:
            self._fail(job, sql.runtime_error(exc))
        except Exception as exc:
            logger.exception("job %s failed", job.path)
            # Not BigQuery's internalError, which clients repeat: a defect of ours would only come again.
            self._fail(job, ApiError(400, "invalid", f"the twin failed: {type(exc).__name__}: {exc}; see its log"))
        finally:
            if upload:
                upload.unlink(missing_ok=True)
            job.status = job.ended
            self._running.pop((job.project, job.id), None)
            job.future.set_result(None)

    def _injected(self, job: Job) -> None:
        fault = self._faults.take("bigquery.jobs.run")
        if fault:
            time.sleep(fault.delay_s)
            if fault.kind == "job_error":
                raise ApiError(503, "backendError", fault.message)
        if job.cancelled:
            raise duckdb.InterruptException

    def _fail(self, job: Job, error: ApiError) -> None:
        record = job.done(error)
        if not job.configuration.get("dryRun"):
            with self._database.session() as session:
                session.save_job(record)

    def _work(self, job: Job, session: Session, upload: Path | None) -> None:
        work: dict[str, Callable] = {"query": self._query, "load": self._load}
        if job.kind not in work:
            raise unsupported(f"{job.kind or 'unknown'} jobs")
        _check_options("job", job.configuration, {"jobType", "labels", job.kind, *["dryRun"] * (job.kind == "query")})
        work[job.kind](job, session, upload)

    def _query(self, job: Job, session: Session, _upload: None) -> None:
        query = job.configuration["query"]

        def finish(outcome: queries.Outcome) -> None:
            session.save_job(self._settle(job, outcome))

        def save_child(number: int, outcome: queries.Outcome) -> None:
            child = Job(job.project, {"jobReference": {"jobId": queries.child_id(job.id, number)}})
            child.parent, child.kind = job.id, "query"
            child.configuration = {"query": {"query": f"-- statement {number} of {job.id}", "useLegacySql": False}}
            session.save_job(self._settle(child, outcome))
            job.statistics["numChildJobs"] = str(int(job.statistics.get("numChildJobs", 0)) + 1)

        run = queries.QueryRun(session, job.project, query, self._snapshots, finish, save_child)
        if job.configuration.get("dryRun"):
            self._settle(job, run.dry_run())
        else:
            run.run()

    def _settle(self, job: Job, outcome: queries.Outcome) -> dict:
        """Write a query's outcome into its job, and keep its rows for those who will ask."""
        processed = outcome.statistics.get("totalBytesProcessed", "0")
        details = {"statementType": outcome.kind, "cacheHit": False, "totalBytesBilled": "0", **outcome.statistics}
        job.statistics |= {"totalBytesProcessed": processed, "query": details}
        if outcome.snapshot:
            query = job.configuration["query"]
            query.setdefault("destinationTable", reference(TableRef(job.project, ANONYMOUS, f"anon{job.id}")))
            query.setdefault("writeDisposition", "WRITE_TRUNCATE")
            self._snapshots.add(job.id, outcome.snapshot)
        return job.done()

    def _load(self, job: Job, session: Session, upload: Path | None) -> None:
        load = job.configuration["load"]
        _check_options("load", load, _LOAD_KEYS)
        if upload is None:
            raise unsupported("load jobs from sourceUris; upload the file")
        ref, partition = writes.split_decorator(named_by(load["destinationTable"]))
        session.begin(write=True)
        there = session.find(ref)
        fields, batches = loads.open_file(upload, load, there["schema"]["fields"] if there else None)
        writes.prepare(session, ref, partition, fields, load, "WRITE_APPEND")
        rows, size = writes.insert(session, ref, fields, batches, partition)
        job.statistics["load"] = {
            "inputFiles": "1", "inputFileBytes": str(upload.stat().st_size), "badRecords": "0",
            "outputRows": str(rows), "outputBytes": str(size),
        }  # fmt: skip
        session.save_job(job.done())
        session.commit()


def _check_options(what: str, given: dict, known: set[str]) -> None:
    """Refuse options that would change what a job does and are not done here."""
    if extra := sorted(key for key in given.keys() - known if given[key] not in (None, "", [], {}, 0, "0", False)):
        raise unsupported(f"the {what} option {extra[0]}")
