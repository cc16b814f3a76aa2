"""The engine: one data folder's tables, jobs, results and uploads."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mlsys.local.bigquery import cells, loads, reads, writes
from mlsys.local.bigquery.catalog import Database, named_by
from mlsys.local.bigquery.jobs import ANONYMOUS, Jobs
from mlsys.local.bigquery.snapshots import Snapshot, Snapshots
from mlsys.local.bigquery.statements import TableRef
from mlsys.local.bigquery.uploads import Uploads
from mlsys.local.errors import ApiError, not_found, unsupported
from mlsys.local.faults import Faults

_DEDUPLICATED_S = 60.0


class Engine:
    """BigQuery on a folder.

    Parameters
    ----------
    folder
        Where the database is; uploads and results lie in ``tmp`` below it, which is emptied at start.
    faults
        The faults that jobs and read streams are told to have.
    """

    def __init__(self, folder: Path, faults: Faults) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        self.faults = faults
        self.database = Database(folder / "bigquery.duckdb")
        self.snapshots = Snapshots(scratch)
        self.jobs = Jobs(self.database, self.snapshots, faults)
        self.uploads = Uploads(scratch)
        self.threads = ThreadPoolExecutor(32, "bigquery-call")
        self._inserted: dict[tuple[TableRef, str], float] = {}

    def close(self) -> None:
        """Wait for running jobs and close the database."""
        self.jobs.close()
        self.threads.shutdown()
        self.database.close()

    def anonymous(self, ref: TableRef) -> Snapshot:
        """Return the query result that an anonymous table stands for."""
        snapshot = ref.dataset == ANONYMOUS and self.snapshots.get(ref.table.removeprefix("anon"))
        if not snapshot:
            raise not_found(f"Table {ref.project}:{ref.dataset}.{ref.table}")
        return snapshot

    def result(self, record: dict) -> Snapshot | None:
        """Return the rows that a finished query job answered; None for a statement without rows."""
        target = record["configuration"]["query"].get("destinationTable")
        if target is None:
            return None
        kept = self.snapshots.get(record["jobReference"]["jobId"])
        return kept or self.freeze(named_by(target), [])

    def freeze(self, ref: TableRef, columns: list[str]) -> Snapshot:
        """Return the rows of a table or result as they are now; all its columns when ``columns`` is empty."""
        if ref.dataset != ANONYMOUS:
            with self.database.session() as session:
                return reads.frozen(session, self.snapshots, ref, columns)
        result = self.anonymous(ref)
        fields = reads.chosen(result.fields, columns)
        if fields == result.fields:
            return result
        names = [field["name"] for field in fields]
        return Snapshot.write(self.snapshots.folder, fields, (batch.select(names) for batch in result.batches()))

    def insert_all(self, ref: TableRef, body: dict) -> list[dict]:
        """Insert rows as ``tabledata.insertAll`` does; return its ``insertErrors``."""
        if body.get("templateSuffix") or "$" in ref.table:
            raise unsupported("insertAll with a templateSuffix or into a partition")
        if not body.get("rows"):
            raise ApiError(400, "invalid", "No rows present in the request.")
        ignore, skip = bool(body.get("ignoreUnknownValues")), bool(body.get("skipInvalidRows"))
        with self.database.write() as session:
            fields = reads.readable(session, ref)["schema"]["fields"]
            rows, errors, ids, recent = [], {}, [], self._recent_ids()
            for index, given in enumerate(body["rows"]):
                try:
                    row = cells.row(given.get("json") or {}, fields, ignore_unknown=ignore)
                except cells.BadValueError as exc:
                    errors[index] = {"reason": "invalid", "location": exc.path, "debugInfo": "", "message": exc.message}
                    continue
                key = (ref, given.get("insertId"))
                if key[1] is None or key not in recent:
                    rows.append(row)
                    ids += [key] if key[1] is not None else []
            if errors and not skip:
                stopped = {"reason": "stopped", "location": "", "debugInfo": "", "message": ""}
                return [{"index": i, "errors": [errors.get(i, stopped)]} for i in range(len(body["rows"]))]
            writes.insert(session, ref, fields, loads.batches(rows, fields))
        self._inserted |= dict.fromkeys(ids, time.monotonic())
        return [{"index": index, "errors": [error]} for index, error in errors.items()]

    def _recent_ids(self) -> dict[tuple[TableRef, str], float]:
        """Return the rows inserted within the last minute: for so long BigQuery tries to drop what is sent again."""
        old = time.monotonic() - _DEDUPLICATED_S
        self._inserted = {key: born for key, born in list(self._inserted.items()) if born > old}
        return self._inserted
