"""Parts: the portions of a stream that are scored and loaded one by one, each exactly once.

A part is a fixed range of rows of a pinned stream, loaded by a job whose id says which. So whoever scores it, however
often, the staging table gets it once; and a task that is started again asks for the jobs to see where it was.
"""

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count, islice
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from mlsys import clients
from mlsys.bq.calls import call_retry
from mlsys.bq.errors import explained
from mlsys.bq.jobs import run_load
from mlsys.bq.loading import Target, load_config, write_file
from mlsys.deadlines import one_try
from mlsys.errors import RejectedRowsError
from mlsys.models import Model
from mlsys.names import TableId
from mlsys.predict import output
from mlsys.predict.plan import Counts, Plan
from mlsys.predict.scoring import Scored, too_many
from mlsys.settings import Settings

if TYPE_CHECKING:
    from google.cloud.bigquery import Client as BigQueryClient

logger = logging.getLogger(__name__)

BATCH_ROWS = 65_536  # measured: 8k-row batches double the time, larger ones only cost memory


@dataclass(frozen=True)
class Work:
    """What scoring a part of a run takes, on its way to any process."""

    plan: Plan
    model: Model
    id_columns: tuple[str, ...]
    source: str
    staging: TableId
    rejects_staging: TableId
    predictions: pa.Schema
    rejects: pa.Schema
    token: str
    location: str | None
    labels: dict[str, str]
    settings: Settings

    @property
    def batch_rows(self) -> int:
        """Rows of the batches that are scored: a part is a whole number of them."""
        return min(BATCH_ROWS, self.plan.part_rows)


class Part:
    """Rows to be scored by `model`, and the way to load what becomes of them."""

    def __init__(self, work: Work, rows: Iterable[pa.RecordBatch], tolerated: int) -> None:
        self.rows, self.max_rejects = rows, tolerated
        self.model, self.id_columns = work.model, work.id_columns
        self.scored: Iterable[Scored] = ()

    def load(self, scored: Iterable[Scored]) -> None:
        """Take what was scored; it is loaded into the staging table, and visible once the run is published."""
        self.scored = scored


type Score = Callable[[Part], None]
type Report = Callable[[int], object]


def score_stream(work: Work, stream: int, score_part: Score, report: Report, tolerated: int) -> Counts:
    """Score and load what is not loaded yet of one stream; return what all of it came to.

    ``report`` is told how many rows were scored since it was told last. Of more than ``tolerated`` rejects,
    `RejectedRowsError` is raised.
    """
    client = clients.bigquery_client(work.settings)
    with _Loader(work, stream, client) as loader, explained(client, reads=work.source):
        counts = Counts()
        for number in count():
            if (loaded := loader.find(number)) is None:
                break
            report(loaded.rows)
            counts += loaded
            if counts.rejected > tolerated:  # other streams have rejected as many as the run tolerates
                raise RejectedRowsError(
                    f"{counts.rejected} rows of stream {stream} cannot be scored, {tolerated} tolerated"
                )
            if loaded.rows < work.plan.part_rows:  # only a stream's last part is short
                return counts
        read_client = clients.read_client(work.settings)
        offset = number * work.plan.part_rows
        batches = work.plan.rows.read(stream, read_client, offset=offset, batch_rows=work.batch_rows)
        for number in count(number):  # noqa: B020 - it goes on where the loop above stopped
            if (first := next(batches, None)) is None:
                return counts
            rows = chain([first], islice(batches, work.plan.part_rows // work.batch_rows - 1))
            part = Part(work, rows, tolerated - counts.rejected)
            score_part(part)
            counts += loader.load(number, part, report)
    raise AssertionError


def _in_background(work: Callable[..., object], *arguments: Any) -> Future:
    """Call ``work`` in a thread that does not keep a process alive that is told to end."""
    future: Future = Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments))
        except BaseException as exc:  # noqa: BLE001 - whoever waits is told
            future.set_exception(exc)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future


class _Loader:
    """Loads the parts of a stream, one while the next is being scored."""

    def __init__(self, work: Work, stream: int, client: "BigQueryClient") -> None:
        self._work, self._client = work, client
        self._name = f"mlsys_part_{work.token}_{stream}"
        self._pending: Future | None = None

    def __enter__(self) -> "_Loader":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._settle()
        elif issubclass(kind, Exception):  # what is written is loaded, whatever came after; SIGTERM does not wait
            with suppress(Exception):
                self._settle()

    def find(self, number: int) -> Counts | None:
        """Return what a part came to that was loaded before; None for one that was not."""
        scored = self._rows_of(f"{self._name}_{number}")
        # Its rejects are loaded first: when the part is there, so are they.
        return None if scored is None else Counts(scored, self._rows_of(f"{self._name}_{number}_rejects") or 0)

    def _rows_of(self, job_id: str) -> int | None:
        from google.api_core.exceptions import NotFound

        for attempt in count():
            this_id = f"{job_id}_{attempt}" if attempt else job_id
            try:
                where = self._work.location
                job: Any = self._client.get_job(this_id, location=where, retry=call_retry(), timeout=one_try())
            except NotFound:
                return None
            if job.error_result is None:
                return (job.output_rows or 0) if job.state == "DONE" else None
        raise AssertionError

    def load(self, number: int, part: Part, report: Report) -> Counts:
        """Write a part to a file while it is scored, and let the file be loaded. Returns once it is written."""
        file = tempfile.TemporaryFile(prefix="mlsys-part-")  # noqa: SIM115 - the thread below closes it
        try:
            counts, rejects = self._write(file, part, report)
            self._settle()  # one load at a time: files would pile up
        except BaseException:
            file.close()
            raise
        self._pending = _in_background(self._send, number, file, rejects)
        return counts

    def _write(self, file: IO[bytes], part: Part, report: Report) -> tuple[Counts, list[pa.Table]]:
        totals, rejects = [0, 0], []

        def batches() -> Iterator[pa.RecordBatch]:
            for scored in part.scored:
                totals[0] += scored.predictions.num_rows
                totals[1] += scored.rejects.num_rows
                if scored.rejects.num_rows:
                    rejects.append(scored.rejects)
                if totals[1] > part.max_rejects:
                    raise too_many(totals[1], part.max_rejects, rejects[0])
                yield from scored.predictions.combine_chunks().to_batches()
                report(scored.predictions.num_rows + scored.rejects.num_rows)

        write_file(file, batches(), output.fields(self._work.predictions))
        return Counts(*totals), rejects

    def _send(self, number: int, file: IO[bytes], rejects: list[pa.Table]) -> None:
        work, job_id = self._work, f"{self._name}_{number}"
        if rejects:
            output.create_staging(self._client, work.rejects_staging, work.rejects)
            with tempfile.TemporaryFile(prefix="mlsys-rejects-") as other:
                table = pa.concat_tables(rejects).combine_chunks()
                write_file(other, table.to_batches(), output.fields(work.rejects))
                self._run(other, work.rejects_staging, work.rejects, f"{job_id}_rejects")
        with file:
            self._run(file, work.staging, work.predictions, job_id)

    def _run(self, file: IO[bytes], table: TableId, schema: pa.Schema, job_id: str) -> None:
        from google.cloud.bigquery import CreateDisposition

        fields = output.fields(schema)
        config = load_config(Target(table, "WRITE_APPEND", None), fields, self._work.labels)
        config.create_disposition = CreateDisposition.CREATE_NEVER  # once published, it is gone for good
        with explained(self._client, writes=table):
            run_load(self._client, file, str(table), config, job_id)

    def _settle(self) -> None:
        if self._pending is not None:
            self._pending.result()
            self._pending = None
