"""BigQuery jobs that survive lost replies: the id is made first, and the server is asked what became of it.

Google's client absorbs refused and broken calls, but not a call that worked and whose reply was lost: it repeats the
same id and raises ``Conflict``. And a job can end in an error of BigQuery's own, after which only a new id can succeed.
"""

import logging
import re
import uuid
from collections.abc import Callable
from itertools import count
from typing import IO, Any, cast

from google.api_core import exceptions
from google.api_core.retry import Retry
from google.cloud import bigquery

from mlsys.bq.calls import call_retry, is_transient
from mlsys.bq.errors import is_contention, reason
from mlsys.deadlines import deadline, one_try

logger = logging.getLogger(__name__)

type Job = bigquery.LoadJob | bigquery.QueryJob

# Seconds. BigQuery itself ends a load or a query after six hours.
_JOB_TIMEOUT = 6 * 3600.0

_BACKEND_REASONS = frozenset(
    [
        "backendError",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "jobRateLimitExceeded",
        "rateLimitExceeded",
    ]
)


# BigQuery can deny for a moment that the job is there which it has just reported.
def _may_be_found(exc: BaseException) -> bool:
    return isinstance(exc, exceptions.NotFound) or is_transient(exc)


class _NotDone(Exception):  # noqa: N818 - a signal to the retry, never seen outside
    """The job is still running."""


# Google's own polling starts at a second: longer than a small load takes.
_until_done = Retry(
    predicate=lambda exc: isinstance(exc, _NotDone), initial=0.05, multiplier=1.5, maximum=2, timeout=_JOB_TIMEOUT
)


class _Again(Exception):  # noqa: N818 - a signal to the retry, never seen outside
    """The job is over and did nothing; the next id may succeed."""


def _job_retry() -> Retry:
    return Retry(predicate=lambda exc: isinstance(exc, _Again), initial=1, maximum=60, timeout=deadline())


def new_job_id() -> str:
    """Return a job id that nobody else has."""
    return f"mlsys_{uuid.uuid4().hex}"


def run_query(
    client: bigquery.Client, query: str, config: bigquery.QueryJobConfig, job_id: str | None = None
) -> bigquery.QueryJob:
    """Run a query to its end and return its job. With the same ``job_id`` it is run once."""

    def start(this_id: str) -> bigquery.QueryJob:
        return _start_query(client, query, config, this_id)

    return _run(client, job_id or new_job_id(), start, inherits=job_id is not None)


def run_in_turn(
    client: bigquery.Client,
    chain: str,
    config: bigquery.QueryJobConfig,
    statement: Callable[[list[bigquery.QueryJob]], tuple[str, list]],
    *,
    token: str,
) -> bigquery.QueryJob:
    """Run a query after all those that came before it in a chain, while none of the chain is running, and once.

    BigQuery lets statements that only insert run side by side, and has no locks. But an id is given once: whoever wants
    to run takes the first free one of ``chain_0``, ``chain_1`` …, and waits for each that is taken.

    Parameters
    ----------
    statement
        Gets the jobs of the chain that succeeded so far; returns the query and its parameters. It may raise.
    token
        Says whose turn a job is, as its label ``turn``. A token that had its turn does not get another one.

    Returns
    -------
    QueryJob
        The job that succeeded under this token, now or before.
    """
    earlier: list[bigquery.QueryJob] = []

    def start(job_id: str) -> tuple[bigquery.QueryJob, bool]:
        query, parameters = statement(earlier)
        config.query_parameters, config.labels = parameters, {**config.labels, "turn": token}
        return _start_or_find(client, job_id, lambda this_id: _start_query(client, query, config, this_id))

    def take_turn() -> bigquery.QueryJob:
        while True:
            job_id = f"{chain}_{next(numbers)}"
            there = _find(client, job_id)
            job, found = (there, True) if there else start(job_id)
            ours = job.labels.get("turn") == token
            if ours:
                return _wait(job, inherited=found)
            if _succeeded(job):
                earlier.append(job)

    numbers = count()
    return _repeated(take_turn)


def run_load(
    client: bigquery.Client, file: IO[bytes], table: str, config: bigquery.LoadJobConfig, job_id: str | None
) -> bigquery.LoadJob:
    """Load a file into a table in one job and return the job. With the same ``job_id`` it is loaded once."""

    def start(this_id: str) -> bigquery.LoadJob:
        # One: the pauses between more, 63 s for six, would come on top of the deadline. After two tries all of it is
        # sent again, by the retry that knows the deadline.
        return client.load_table_from_file(
            file,
            table,
            rewind=True,
            job_id=this_id,
            job_config=config,
            num_retries=1,
            timeout=(min(10.0, one_try()), one_try()),
        )

    # A job that was there before we came belongs to an earlier call under this name: what it failed of may be gone.
    return _run(client, job_id or new_job_id(), start, inherits=job_id is not None)


def _start_query(
    client: bigquery.Client, query: str, config: bigquery.QueryJobConfig, job_id: str
) -> bigquery.QueryJob:
    once: Any = None  # which Google's annotation leaves out
    return client.query(query, job_config=config, job_id=job_id, job_retry=None, retry=once, timeout=one_try())


def _run[J: Job](client: bigquery.Client, job_id: str, start: Callable[[str], J], *, inherits: bool) -> J:
    numbers = count()

    def attempt() -> J:
        number = next(numbers)
        this_id = f"{job_id}_{number}" if number else job_id
        job, found = _start_or_find(client, this_id, start)
        return _wait(job, inherited=found and inherits)

    return _repeated(attempt)


def _repeated[J: Job](attempt: Callable[[], J]) -> J:
    try:
        return _job_retry()(attempt)()
    except exceptions.RetryError as exc:
        if isinstance(exc.cause, _Again):
            raise cast("Exception", exc.cause.__cause__) from exc
        raise


def _start_or_find[J: Job](client: bigquery.Client, job_id: str, start: Callable[[str], J]) -> tuple[J, bool]:
    try:
        return call_retry()(start)(job_id), False
    except exceptions.Conflict as exc:
        logger.info("job %s is there already: taking it", job_id)
        location = _location(exc, job_id)
        retry = call_retry(_may_be_found)
        return cast("J", client.get_job(job_id, location=location, retry=retry, timeout=one_try())), True


def _find(client: bigquery.Client, job_id: str) -> bigquery.QueryJob | None:
    """Return a job if it is there, as far as that can be told without knowing its location."""
    try:
        return cast("bigquery.QueryJob", client.get_job(job_id, retry=call_retry(), timeout=one_try()))
    except exceptions.NotFound:
        return None


def _location(exc: exceptions.Conflict, job_id: str) -> str | None:
    """Return where the job runs that stands in the way; outside of US and EU it is found only by that, too."""
    found = re.search(rf"Job \S+:([\w-]+)\.{re.escape(job_id)}\b", str(exc))
    return found and found[1]  # without it, the client asks for its own location


def _wait[J: Job](job: J, *, inherited: bool) -> J:
    try:
        _until_done(_check_done)(job)
        # Not result(): for a query it calls once more, and waits 120 s for that reply, whatever it is told.
        if error := job.exception():
            raise error
    except exceptions.GoogleAPIError as exc:
        if _is_over(job) and (inherited or _is_worth_repeating(job, exc)):
            logger.warning("job %s failed (%s): trying again", job.job_id, exc)
            raise _Again from exc
        raise
    return job


def _succeeded(job: Job) -> bool:
    """Wait for somebody else's job, and say whether it did its work."""
    _until_done(_check_done)(job)
    return job.error_result is None


def _check_done(job: Job) -> None:
    if not job.done(retry=call_retry(), timeout=one_try()):
        raise _NotDone


def _is_over(job: Job) -> bool:
    """Say whether the job ended in an error (and so did nothing), rather than a call about it."""
    if job.state != "DONE":
        job.reload(retry=call_retry(), timeout=one_try())
    return job.state == "DONE" and job.error_result is not None


def _is_worth_repeating(job: Job, exc: exceptions.GoogleAPIError) -> bool:
    """Say whether it was not the job's fault. One statement that failed did nothing, so that any may be repeated."""
    # A script may have done half of its work: it is never repeated.
    is_script = isinstance(job, bigquery.QueryJob) and job.statement_type == "SCRIPT"
    why = job.error_result.get("reason") or reason(exc)
    return not is_script and (why in _BACKEND_REASONS or is_contention(job.error_result.get("message") or ""))
