"""The DuckDB file: datasets and tables, and everything known about them, changed together or not at all.

A BigQuery table ``p.d.t`` is DuckDB's ``"p.d"."t"``. What DuckDB cannot keep (modes, descriptions, partitioning,
labels, job records) lives in schema ``_mlsys`` of the same file and changes in the transaction that changes the data,
so a `kill -9` at any moment leaves both or neither.
"""

import contextlib
import json
import re
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

import duckdb

from mlsys.local.bigquery import sql, types
from mlsys.local.bigquery.statements import Schema, TableRef, View
from mlsys.local.errors import ApiError, not_found, unsupported

_SETUP = """
CREATE SCHEMA IF NOT EXISTS _mlsys;
CREATE TABLE IF NOT EXISTS _mlsys.datasets (project VARCHAR, dataset VARCHAR, body VARCHAR);
CREATE TABLE IF NOT EXISTS _mlsys.tables (project VARCHAR, dataset VARCHAR, name VARCHAR, expires BIGINT, body VARCHAR);
CREATE TABLE IF NOT EXISTS _mlsys.jobs (project VARCHAR, id VARCHAR, parent VARCHAR, created BIGINT, body VARCHAR);
"""
#: What a user may set on a table beside its schema; everything else is either computed or refused.
PROPERTIES = (
    "description", "friendlyName", "labels", "expirationTime",
    "timePartitioning", "rangePartitioning", "clustering", "requirePartitionFilter",
)  # fmt: skip


def now_ms() -> int:
    """Return the time as BigQuery's resources write it."""
    return time.time_ns() // 1_000_000


def path_of(ref: TableRef) -> str:
    """Return ``project:dataset.table``, as error messages write it."""
    return f"{ref.project}:{ref.dataset}.{ref.table}"


class Database:
    """The file, and the one lock that its writers queue on.

    DuckDB lets writers conflict; BigQuery queues them. So does the lock. Readers never wait.
    """

    def __init__(self, path: Path) -> None:
        self._connection = duckdb.connect(str(path))
        sql.prepare(self._connection)
        self._connection.execute(_SETUP)
        self.writer = threading.Lock()
        self.sizes: dict[TableRef, tuple[str, int, int]] = {}  # etag, rows, bytes: counted once per state of a table
        # When they expire, and their metadata, as committed. A new one with each commit: who has read before it cannot
        # put what is old into it.
        self.tables: dict[TableRef, tuple[int | None, str]] = {}

    @contextlib.contextmanager
    def session(self) -> Iterator["Session"]:
        """Open a session outside any transaction; what it leaves open is rolled back."""
        session = Session(self, self._connection.cursor())
        try:
            yield session
        finally:
            session.close()

    @contextlib.contextmanager
    def write(self) -> Iterator["Session"]:
        """Open a session in a writing transaction, committed at the end of the block."""
        with self.session() as session:
            session.begin(write=True)
            yield session
            session.commit()

    def close(self) -> None:
        """Close the file."""
        with self.writer:
            self._connection.close()


class Session:
    """One connection to the file: the catalog as its transaction sees it."""

    def __init__(self, database: Database, connection: duckdb.DuckDBPyConnection) -> None:
        self._database, self.db = database, connection
        self._open: str | None = None  # None, "read" or "write"

    def begin(self, *, write: bool) -> None:
        """Start a transaction; a writing one waits for its turn and clears away what has expired."""
        if write:
            self._database.writer.acquire()
        self._open = "write" if write else "read"
        self.db.execute("BEGIN")
        if write:
            for row in self._rows("SELECT project, dataset, name FROM _mlsys.tables WHERE expires <= ?", now_ms()):
                self.drop(TableRef(*row))

    def commit(self) -> None:
        """Commit, and let the next writer in."""
        self._end("COMMIT")

    def rollback(self) -> None:
        """Undo everything since `begin`."""
        self._end("ROLLBACK")

    def _end(self, how: str) -> None:
        mode, self._open = self._open, None
        try:
            if mode:
                self.db.execute(how)
        finally:
            if mode == "write":
                self._database.tables = {}
                self._database.writer.release()

    def close(self) -> None:
        """Roll back what is open and give the connection up."""
        with contextlib.suppress(duckdb.Error):  # a result that is still open forbids it, and closing does it as well
            self.rollback()
        self.db.close()

    def _rows(self, statement: str, *values: object) -> list[tuple]:
        return self.db.execute(statement, values).fetchall()

    # Datasets

    def datasets(self, project: str | None = None) -> list[dict]:
        """Return all datasets, of one project or of all, by name."""
        found = self._rows(
            "SELECT body FROM _mlsys.datasets WHERE ? IS NULL OR project = ? ORDER BY project, dataset",
            project, project,
        )  # fmt: skip
        return [json.loads(body) for (body,) in found]

    def dataset(self, project: str, dataset: str) -> dict:
        """Return a dataset or raise 404."""
        found = self._rows("SELECT body FROM _mlsys.datasets WHERE project = ? AND dataset = ?", project, dataset)
        if not found:
            raise not_found(f"Dataset {project}:{dataset}")
        return json.loads(found[0][0])

    def create_dataset(self, project: str, dataset: str, properties: Mapping) -> dict:
        """Create a dataset."""
        if not re.fullmatch(r"\w{1,1024}", dataset, re.ASCII) or dataset.startswith("_"):
            raise ApiError(400, "invalid", f'Invalid dataset ID "{dataset}". Dataset IDs must be alphanumeric.')
        for ref in (d["datasetReference"] for d in self.datasets()):
            if (ref["projectId"].lower(), ref["datasetId"].lower()) == (project.lower(), dataset.lower()):
                if (ref["projectId"], ref["datasetId"]) == (project, dataset):
                    raise ApiError(409, "duplicate", f"Already Exists: Dataset {project}:{dataset}")
                raise unsupported(f"dataset {project}:{dataset} beside {ref['projectId']}:{ref['datasetId']}")
        self.db.execute(f"CREATE SCHEMA {types.quote(f'{project}.{dataset}')}")
        body = {"location": "US", **properties, "creationTime": str(now_ms())}
        return self.save_dataset(project, dataset, body)

    def save_dataset(self, project: str, dataset: str, body: Mapping) -> dict:
        """Write the properties of a dataset."""
        body = {
            **body,
            "kind": "bigquery#dataset",
            "id": f"{project}:{dataset}",
            "datasetReference": {"projectId": project, "datasetId": dataset},
            "lastModifiedTime": str(now_ms()),
            "etag": uuid.uuid4().hex,
        }
        self.db.execute("DELETE FROM _mlsys.datasets WHERE project = ? AND dataset = ?", [project, dataset])
        self.db.execute("INSERT INTO _mlsys.datasets VALUES (?, ?, ?)", [project, dataset, json.dumps(body)])
        return body

    def drop_dataset(self, project: str, dataset: str, *, contents: bool = False) -> None:
        """Delete a dataset; with ``contents`` its tables too."""
        self.dataset(project, dataset)
        if not contents and self.tables(project, dataset):
            raise ApiError(400, "resourceInUse", f"Dataset {project}:{dataset} is still in use")
        for kind in ("tables", "datasets"):
            self.db.execute(f"DELETE FROM _mlsys.{kind} WHERE project = ? AND dataset = ?", [project, dataset])  # noqa: S608
        self.db.execute(f"DROP SCHEMA {types.quote(f'{project}.{dataset}')} CASCADE")

    # Tables

    def tables(self, project: str, dataset: str) -> list[dict]:
        """Return the tables of a dataset by name."""
        self.dataset(project, dataset)
        found = self._rows(
            "SELECT body FROM _mlsys.tables WHERE project = ? AND dataset = ? AND (expires IS NULL OR expires > ?)"
            " ORDER BY name", project, dataset, now_ms(),
        )  # fmt: skip
        return [json.loads(body) for (body,) in found]

    def find(self, ref: TableRef) -> dict | None:
        """Return a table, or None; raise 404 when its dataset is missing."""
        known = {} if self._open else self._database.tables
        found = known.get(ref)
        if found is None:
            where = "project = ? AND dataset = ? AND name = ?"
            for expires, body in self._rows(f"SELECT expires, body FROM _mlsys.tables WHERE {where}", *ref):  # noqa: S608
                known[ref] = found = expires, body
        if found is None or (found[0] is not None and found[0] <= now_ms()):
            self.dataset(ref.project, ref.dataset)
            return None
        return json.loads(found[1])

    def table(self, ref: TableRef) -> dict:
        """Return a table or raise 404."""
        body = self.find(ref)
        if body is None:
            raise not_found(f"Table {path_of(ref)}")
        return body

    def source(self, ref: TableRef) -> Schema | View:
        """Return the columns of a table, or a view: the `Catalog` that the SQL translation asks."""
        if ref.dataset.startswith("_"):
            raise unsupported("a query over a result's anonymous table; give the query a destination table")
        body = self.table(ref)
        if body["type"] == "VIEW":
            return View(body["view"]["query"], None, *body.get("completed_by", (ref.project, None)))
        if not body["schema"]["fields"]:
            raise ApiError(400, "invalid", f'Table "{".".join(ref)}" does not have a schema.')
        return body["schema"]["fields"]

    def information_schema(self, view: str, project: str, dataset: str) -> list[dict]:
        """Return the rows of an INFORMATION_SCHEMA view, times in microseconds; BigQuery has more columns."""
        tables, place = self.tables(project, dataset), {"table_catalog": project, "table_schema": dataset}
        if view == "COLUMNS":
            return [place | column for body in tables for column in _described(body)]
        return [place | _named(body) for body in tables]

    def create(self, ref: TableRef, schema: Schema, properties: Mapping, view: View | None = None) -> dict:
        """Create a table or a view."""
        dataset = self.dataset(ref.project, ref.dataset)
        self._check_name(ref)
        schema = types.normalize(schema)
        if schema and not view:  # DuckDB need not know a view, nor a table without columns, which has no rows
            self._create_relation(ref, schema)
        body = {"kind": "bigquery#table", "id": path_of(ref), "tableReference": reference(ref)}
        body |= {"type": "VIEW" if view else "TABLE", "location": dataset["location"], "creationTime": str(now_ms())}
        if view:
            body["view"] = {"query": view.text, "useLegacySql": False}
            body["completed_by"] = [view.project, view.dataset]
        if lifetime := dataset.get("defaultTableExpirationMs"):
            body["expirationTime"] = str(now_ms() + int(lifetime))
        body |= {key: properties[key] for key in PROPERTIES if properties.get(key) is not None}
        body = self.save(ref, body | {"schema": {"fields": schema}})
        self._database.sizes[ref] = (str(body["etag"]), 0, 0)
        return body

    def _check_name(self, ref: TableRef) -> None:
        if not re.fullmatch(r"[\w\- ]{1,1024}", ref.table):
            raise ApiError(400, "invalid", f'Invalid table ID "{ref.table}".')
        near = self._rows(
            "SELECT name FROM _mlsys.tables WHERE project = ? AND dataset = ? AND lower(name) = lower(?)", *ref
        )
        if near == [(ref.table,)]:
            raise ApiError(409, "duplicate", f"Already Exists: Table {path_of(ref)}")
        if near:
            raise unsupported(f"table {path_of(ref)} beside {near[0][0]}: names that differ only in case")

    def _create_relation(self, ref: TableRef, schema: Schema) -> None:
        self.db.execute(f"CREATE TABLE {types.relation(ref)} ({', '.join(map(_column, schema))})")

    def save(self, ref: TableRef, body: dict) -> dict:
        """Write a table's metadata under a new etag; call it after every change of the table's rows, too."""
        body = body | {"etag": uuid.uuid4().hex, "lastModifiedTime": str(now_ms())}
        _check_layout(body)
        expires = body.get("expirationTime")
        self.db.execute("DELETE FROM _mlsys.tables WHERE project = ? AND dataset = ? AND name = ?", ref)
        self.db.execute(
            "INSERT INTO _mlsys.tables VALUES (?, ?, ?, ?, ?)", [*ref, expires and int(expires), json.dumps(body)]
        )
        return body

    def drop(self, ref: TableRef) -> None:
        """Delete a table or view that is there."""
        where = "FROM _mlsys.tables WHERE project = ? AND dataset = ? AND name = ?"
        ((kind,),) = self._rows(f"SELECT body ->> '$.type' {where}", *ref)
        self.db.execute(f"DROP {kind} IF EXISTS {types.relation(ref)}")  # of views only older folders have one
        self.db.execute(f"DELETE {where}", ref)

    def replace_schema(self, ref: TableRef, schema: Schema) -> None:
        """Give a table other columns and no rows; the rest of what is known about it stays."""
        body = self.table(ref)
        self.db.execute(f"DROP TABLE IF EXISTS {types.relation(ref)}")
        self._create_relation(ref, schema)
        after = self.save(ref, body | {"schema": {"fields": schema}})
        self._database.sizes[ref] = (after["etag"], 0, 0)

    def alter(self, ref: TableRef, schema: Schema) -> None:
        """Move a table with its rows to a schema that `types.merged` allowed."""
        body = self.table(ref)
        old = body["schema"]["fields"]
        if not old:
            return self.replace_schema(ref, schema)
        for statement in _alterations(old, schema):
            self.db.execute(f"ALTER TABLE {types.relation(ref)} {statement}")
        self.save(ref, body | {"schema": {"fields": schema}})
        return None

    def grow(self, ref: TableRef, rows: int, size: int) -> None:
        """Note that a table has grown by ``rows`` of ``size`` bytes: a new etag, and nothing to count anew."""
        body = self.table(ref)
        before, after = self._database.sizes.get(ref), self.save(ref, body)
        if before and before[0] == body["etag"]:
            self._database.sizes[ref] = (after["etag"], before[1] + rows, before[2] + size)

    def size(self, body: dict) -> tuple[int, int]:
        """Return the rows of a table and its logical bytes over all columns."""
        ref = named_by(body["tableReference"])
        if not body["schema"]["fields"]:
            return 0, 0
        cached = self._database.sizes.get(ref)
        if cached is None or cached[0] != body["etag"]:
            sizes = types.total_sizes(body["schema"]["fields"])
            ((rows, *parts),) = self._rows(f"SELECT count(*), {sizes} FROM {types.relation(ref)}")  # noqa: S608
            cached = self._database.sizes[ref] = (body["etag"], int(rows), int(sum(parts)))
        return cached[1], cached[2]

    # Job records

    def job(self, project: str, job_id: str) -> dict | None:
        """Return the record of a job, or None."""
        found = self._rows("SELECT body FROM _mlsys.jobs WHERE project = ? AND id = ?", project, job_id)
        return json.loads(found[0][0]) if found else None

    def jobs(self, project: str, parent: str | None) -> list[dict]:
        """Return a project's jobs, or those of a script, newest first."""
        found = self._rows(
            "SELECT body FROM _mlsys.jobs WHERE project = ? AND parent IS NOT DISTINCT FROM ?"
            " ORDER BY created DESC, rowid DESC", project, parent,
        )  # fmt: skip
        return [json.loads(body) for (body,) in found]

    def save_job(self, record: Mapping) -> None:
        """Add the record of a finished job."""
        key, statistics = record["jobReference"], record["statistics"]
        self.db.execute(
            "INSERT INTO _mlsys.jobs VALUES (?, ?, ?, ?, ?)",
            [key["projectId"], key["jobId"], statistics.get("parentJobId"), int(statistics["creationTime"]),
             json.dumps(record)],
        )  # fmt: skip


def reference(ref: TableRef) -> dict:
    """Return a table's name in REST form."""
    return {"projectId": ref.project, "datasetId": ref.dataset, "tableId": ref.table}


def named_by(reference: Mapping) -> TableRef:
    """Return the table of a name in REST form."""
    return TableRef(reference["projectId"], reference["datasetId"], reference["tableId"])


def _named(body: dict) -> dict:
    """Return a table as INFORMATION_SCHEMA.TABLES lists it."""
    kind = "VIEW" if body["type"] == "VIEW" else "BASE TABLE"
    name, created = body["tableReference"]["tableId"], 1000 * int(body["creationTime"])
    return {"table_name": name, "table_type": kind, "creation_time": created}


def _described(body: dict) -> list[dict]:
    """Return the columns of a table as INFORMATION_SCHEMA.COLUMNS lists them."""
    partitioned = (body.get("timePartitioning") or body.get("rangePartitioning") or {}).get("field", "").lower()
    clustered = (body.get("clustering") or {}).get("fields", [])
    ranks = {name.lower(): rank for rank, name in enumerate(clustered, 1)}
    return [
        {
            "table_name": body["tableReference"]["tableId"], "column_name": f["name"], "ordinal_position": number,
            "is_nullable": "NO" if f["mode"] == "REQUIRED" else "YES", "data_type": types.standard_type(f),
            "is_partitioning_column": "YES" if f["name"].lower() == partitioned else "NO",
            "clustering_ordinal_position": ranks.get(f["name"].lower()),
        }
        for number, f in enumerate(body["schema"]["fields"], 1)
    ]  # fmt: skip


def _column(field: dict) -> str:
    extra = {"REQUIRED": " NOT NULL", "REPEATED": " DEFAULT []"}.get(field["mode"], "")
    return f"{types.quote(field['name'])} {types.duckdb_type(field)}{extra}"


def _alterations(old: Schema, new: Schema, prefix: str = "", *, top: bool = True) -> Iterator[str]:
    """Yield what ALTER TABLE must do; columns in SQL paths, ``a.element.b`` inside a repeated record."""
    before = {f["name"]: f for f in old}
    for field in new:
        path, was = prefix + types.quote(field["name"]), before.get(field["name"])
        if was is None:
            if field["mode"] == "REPEATED" and not top:
                raise unsupported(f"a REPEATED field {field['name']} added inside a RECORD")
            yield "ADD COLUMN " + (_column(field) if top else f"{path} {types.duckdb_type(field)}")
        elif was["mode"] != field["mode"] and top:
            yield f"ALTER {path} DROP NOT NULL"
        elif field["type"] == "RECORD":
            inner = f"{path}.element." if field["mode"] == "REPEATED" else f"{path}."
            yield from _alterations(was["fields"], field["fields"], inner, top=False)


def _check_layout(body: dict) -> None:
    """Refuse partitioning and clustering that BigQuery would refuse, or that would change answers here."""
    fields = {f["name"].lower(): f for f in body["schema"]["fields"]}
    time_, range_ = body.get("timePartitioning"), body.get("rangePartitioning")
    if any(str(part.get("requirePartitionFilter")).lower() == "true" for part in (body, time_ or {})):
        raise unsupported("requirePartitionFilter, as queries without a filter would have to fail")
    if int((time_ or {}).get("expirationMs") or 0):
        raise unsupported("the expiration of partitions, as their rows would have to go")
    allowed = {"DATE", "TIMESTAMP", "DATETIME"} if time_ else {"INTEGER"}
    column = (time_ or range_ or {}).get("field")
    if column and fields.get(column.lower(), {}).get("type") not in allowed:
        kinds = "/".join(sorted(allowed))
        raise ApiError(400, "invalid", f"The field specified for partitioning must be a {kinds} column, got: {column}")
    if time_ and time_.get("type") not in ("HOUR", "DAY", "MONTH", "YEAR"):
        raise ApiError(400, "invalid", f"Invalid time partitioning type: {time_.get('type')}")
    clustered = [name.lower() for name in (body.get("clustering") or {}).get("fields", [])]
    if len(set(clustered)) < len(clustered) or len(clustered) > 4:
        raise ApiError(400, "invalid", f"Clustering takes up to four different fields, got: {', '.join(clustered)}")
    for name in clustered:
        if name not in fields:
            raise ApiError(400, "invalid", f"The field specified for clustering cannot be found in the schema: {name}")
        if fields[name]["mode"] == "REPEATED" or fields[name]["type"] in ("FLOAT", "BYTES", "TIME", "JSON", "RECORD"):
            raise ApiError(400, "invalid", f"Clustering is not supported on field {name} of this type")
