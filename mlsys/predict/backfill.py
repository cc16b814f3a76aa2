"""Many runs of one job, one for each past moment: what a schedule would have made, without a scheduler.

Each moment is a run as any other, in a process of its own, with its own slice of the output table. What the ledger
shows as done is skipped, so that a backfill that was stopped goes on where it was.
"""

import io
import logging
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mlsys import logs
from mlsys.errors import InterruptedRunError, InvalidNameError, MlsysError, NotFoundError
from mlsys.predict.job import PredictionJob
from mlsys.predict.workers import warm_up
from mlsys.registry.aliases import CHAMPION
from mlsys.registry.lookup import find_version, select
from mlsys.settings import Settings, get_settings

logger = logging.getLogger(__name__)

CHAMPION_OF_DAY = "champion-of-day"  # instead of a version: the champion as of each moment
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}
_MOST_MOMENTS = 10_000


@dataclass(frozen=True)
class Outcome:
    """What became of one moment: done, skipped, failed, or stopped; ``exit_code`` is that of `mlsys.errors`."""

    as_of: datetime
    state: str
    model_version: str | None = None
    rows: int | None = None
    rejected: int | None = None
    seconds: float | None = None
    reason: str | None = None
    exit_code: int = 0


def moments(first: datetime, last: datetime, every: str = "1d") -> list[datetime]:
    """Return the moments from ``first`` to ``last``, both included, in steps such as ``1d``, ``6h`` or ``1w``.

    Raises
    ------
    InvalidNameError
        The step has another form, the order is wrong, or there are more than 10,000.

    Examples
    --------
    >>> len(moments(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 10, tzinfo=UTC)))
    10
    """
    match = re.fullmatch(r"([1-9][0-9]{0,3})([hdw])", every)
    if not match:
        raise InvalidNameError(f"--every must be a step like 1d, 6h or 1w, got {every!r}")
    if first > last:
        raise InvalidNameError(f"--from {first.isoformat()} is after --to {last.isoformat()}: swap them")
    step = int(match[1]) * _UNITS[match[2]]
    count = (last - first) // step + 1
    if count > _MOST_MOMENTS:
        raise InvalidNameError(f"{count:,} moments are more than {_MOST_MOMENTS:,}: do it in parts")
    return [first + i * step for i in range(count)]


def backfill(
    job: PredictionJob,
    when: Sequence[datetime],
    *,
    parallel: int = 2,
    again: bool = False,
    advance: Callable[[int], object] = lambda _: None,
    settings: Settings | None = None,
) -> list[Outcome]:
    """Make a run of ``job`` for each moment, and return what became of each, in the order of time.

    Parameters
    ----------
    job
        The job; its own ``as_of`` does not count. An alias or ``latest`` is looked up once, so that all runs have one
        version; ``champion-of-day`` takes the version that was champion at each moment.
    parallel
        How many runs are made at once, each in a process of its own.
    again
        Make also those that the ledger shows as done by the version that is wanted.
    advance
        Called with 1 as each is decided.

    Raises
    ------
    NotFoundError
        There is no such model or version.

    Notes
    -----
    A failed run does not stop the others. KeyboardInterrupt does: those under way end and say so in the ledger, and the
    outcomes are then in the exception's ``args``.
    """
    settings = settings or get_settings()
    wanted = _versions(job, when, settings)
    done = {} if again else _done(job, when, settings)
    outcomes: dict[datetime, Outcome] = {}
    due: list[PredictionJob] = []
    for moment in when:
        of_moment = replace(job, as_of=moment, model_version=wanted.get(moment) or "latest")
        before = done.get(of_moment.run_id(settings.env))
        if moment not in wanted:
            reason = f"{job.model_name} had no {CHAMPION} at {moment.isoformat()}"
            outcomes[moment] = Outcome(moment, "failed", reason=reason, exit_code=NotFoundError.exit_code)
        elif before and before[0] == wanted[moment]:
            outcomes[moment] = Outcome(moment, "skipped", *before, reason="done before")
        else:
            due.append(of_moment)
            continue
        advance(1)
    try:
        for outcome in _Pool(parallel, logs.current()).run(due):
            outcomes[outcome.as_of] = outcome
            advance(1)
    except KeyboardInterrupt:
        rest = [Outcome(moment, "stopped", exit_code=130) for moment in when if moment not in outcomes]
        raise KeyboardInterrupt(sorted([*outcomes.values(), *rest], key=lambda each: each.as_of)) from None
    return [outcomes[moment] for moment in when]


def exit_code(outcomes: Iterable[Outcome]) -> int:
    """Return what a command ends with: 0, the code that all failures share, or 1."""
    codes = {outcome.exit_code for outcome in outcomes} - {0}
    return codes.pop() if len(codes) == 1 else int(bool(codes))


def _versions(job: PredictionJob, when: Sequence[datetime], settings: Settings) -> dict[datetime, str]:
    """Return the version for each moment; one that had no champion is left out."""
    if job.model_version != CHAMPION_OF_DAY:
        version = find_version(job.model_name, job.model_version, settings=settings).ref.version
        return dict.fromkeys(when, version)
    find_version(job.model_name, settings=settings)  # or say which models there are
    columns = "model_version, valid_from, valid_to"
    of_alias = {"where": "alias = @alias", "order": "valid_from", "alias": CHAMPION}
    frame = select(columns, "alias_history", job.model_name, settings, **of_alias)
    spans = list(frame.astype(object).where(frame.notna(), None).itertuples(index=False))
    return {
        moment: version
        for moment in when
        for version, since, until in spans
        if since <= moment and (until is None or until > moment)
    }


def _done(job: PredictionJob, when: Sequence[datetime], settings: Settings) -> dict[str, tuple[str, int, int]]:
    """Return version, rows and rejects of the runs that have succeeded, by their ids; of executions, the last."""
    if not when:
        return {}
    frame = select(
        "run_id, model_version, scored_rows, rejected_rows", "run_states", job.model_name, settings,
        where="state = 'succeeded' AND output_table = @output_table AND as_of BETWEEN @first AND @last",
        order="started_timestamp", output_table=str(job.output_table), first=min(when), last=max(when),
    )  # fmt: skip
    return {run_id: (version, int(rows), int(bad)) for run_id, version, rows, bad in frame.itertuples(index=False)}


class _Pool:
    """So many processes at once, one for each run."""

    def __init__(self, size: int, log: Callable[[], None]) -> None:
        self._size, self._log = max(1, size), log
        self._running: dict[Connection, tuple[BaseProcess, PredictionJob]] = {}

    def run(self, due: Iterable[PredictionJob]) -> Iterable[Outcome]:
        """Yield outcomes as they come; whatever ends the loop ends the processes."""
        jobs = list(reversed(list(due)))
        if jobs:
            warm_up()
        try:
            while jobs or self._running:
                while jobs and len(self._running) < self._size:
                    self._start(jobs.pop())
                ended = wait(list(self._running))
                for connection in [known for known in self._running if known in ended]:
                    yield self._outcome(connection)
        finally:
            self._end()

    def _start(self, job: PredictionJob) -> None:
        context = multiprocessing.get_context("forkserver")
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_main, args=(theirs, job, self._log))
        process.start()
        theirs.close()
        self._running[ours] = (process, job)

    def _outcome(self, connection: Connection) -> Outcome:
        process, job = self._running.pop(connection)
        try:
            outcome = connection.recv()
        except EOFError:
            process.join()
            reason = f"its process ended without a word (exit code {process.exitcode})"
            outcome = Outcome(job.as_of, "failed", reason=reason, exit_code=InterruptedRunError.exit_code)
        process.join()
        connection.close()
        return outcome

    def _end(self) -> None:
        for process, _ in self._running.values():
            process.terminate()  # they still say in the ledger that they were stopped
        for process, _ in self._running.values():
            process.join()


def _main(connection: Connection, job: PredictionJob, log: Callable[[], None]) -> None:
    """Make one run, in a process of its own, and say what became of it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)  # bars of several runs would overwrite each other
    log()
    connection.send(_make(job))


def _make(job: PredictionJob) -> Outcome:
    from scripts.predict import pull_predict_push

    try:
        record = pull_predict_push(job)
    except Exception as exc:  # noqa: BLE001 - the other runs go on, and this one is told about
        reason = " ".join(f"{exc}".split()) or type(exc).__name__
        return Outcome(job.as_of, "failed", job.model_version, reason=reason, exit_code=_code(exc))
    return Outcome(job.as_of, "done", record.model_version, record.rows, record.rejected, record.seconds)


def _code(exc: Exception) -> int:
    from mlsys.bq.calls import is_transient

    if isinstance(exc, MlsysError):
        return exc.exit_code
    return InterruptedRunError.exit_code if is_transient(exc) else 1


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


class _NoTerminal(io.TextIOWrapper):
    """Standard error, which no person watches."""

    def isatty(self) -> bool:
        return False
