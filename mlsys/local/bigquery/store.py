"""The engine: one data folder's tables, jobs, results and uploads."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa

from mlsys.local.bigquery import cells, loads, reads, writes
from mlsys.local.bigquery.catalog import Database, relation
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
        return kept or self.freeze(TableRef(target["projectId"], target["datasetId"], target["tableId"]), [])

    def freeze(self, ref: TableRef, columns: list[str], restriction: str = "") -> Snapshot:
        """Return the rows of a table or result as they are now; all its columns when ``columns`` is empty."""
        if ref.dataset == ANONYMOUS:
            return self._narrowed(self.anonymous(ref), columns, restriction)
        with self.database.session() as session:
            schema, etag = reads.readable(session, ref), session.table(ref)["etag"]
            fields = reads.chosen(schema, columns)
            # A table that is read again as it was needs no second copy. A restriction may depend on the clock.
            name = "" if restriction else f"{etag}/{','.join(field['name'] for field in fields)}"
            if name and (frozen := self.snapshots.get(name)):
                return frozen
            frozen = Snapshot.write(
                self.snapshots.folder, fields, reads.scan(session, relation(ref), schema, fields, restriction)
            )
            if name:
                self.snapshots.add(name, frozen)
            return frozen

    def _narrowed(self, result: Snapshot, columns: list[str], restriction: str) -> Snapshot:
        fields = reads.chosen(result.fields, columns)
        if fields == result.fields and not restriction:
            return result
        with self.database.session() as session:
            session.db.register("_mlsys_result", pa.RecordBatchReader.from_batches(result.schema, result.batches()))
            scan = reads.scan(session, "_mlsys_result", result.fields, fields, restriction)
            return Snapshot.write(self.snapshots.folder, fields, scan)

    def page(self, ref: TableRef, columns: list[str], start: int, rows: int) -> tuple[Snapshot, int, str]:
        """Return some rows of a table, how many it has, and a mark of its state: pages of two states do not mix."""
        with self.database.session() as session:
            schema, etag = reads.readable(session, ref), session.table(ref)["etag"]
            fields = reads.chosen(schema, columns)
            scan = reads.scan(session, relation(ref), schema, fields, limit=f"LIMIT {rows} OFFSET {start}")
            return Snapshot.write(self.snapshots.folder, fields, scan), session.size(ref)[0], etag

    def insert_all(self, ref: TableRef, body: dict) -> list[dict]:
        """Insert rows as ``tabledata.insertAll`` does; return its ``insertErrors``."""
        if body.get("templateSuffix") or "$" in ref.table:
            raise unsupported("insertAll with a templateSuffix or into a partition")
        if not body.get("rows"):
            raise ApiError(400, "invalid", "No rows present in the request.")
        ignore, skip = bool(body.get("ignoreUnknownValues")), bool(body.get("skipInvalidRows"))
        with self.database.write() as session:
            fields = reads.readable(session, ref)
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
