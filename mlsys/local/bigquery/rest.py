"""BigQuery's REST API, version 2: routes and the shapes of its answers."""

import asyncio
import json
import logging
import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from aiohttp import web

from mlsys.local.bigquery import cells, sql, types
from mlsys.local.bigquery.catalog import PROPERTIES, Session, path_of, reference
from mlsys.local.bigquery.jobs import ANONYMOUS, error_of
from mlsys.local.bigquery.snapshots import Snapshot
from mlsys.local.bigquery.statements import Query, TableRef, View
from mlsys.local.bigquery.store import Engine
from mlsys.local.bigquery.uploads import Upload
from mlsys.local.errors import ApiError, unsupported
from mlsys.local.http import Handler, Routes
from mlsys.local.uploads import content_range, incomplete, json_object, multipart, read_json, window

ENGINE: web.AppKey[Engine] = web.AppKey("bigquery", Engine)
routes = Routes("bigquery")
logger = logging.getLogger(__name__)

_PROJECT = "/bigquery/v2/projects/{project}"
_DATASET = _PROJECT + "/datasets/{dataset}"
_TABLE = _DATASET + "/tables/{table}"
_PAGE_ROWS = 10_000
_PAGE_BYTES = 10 << 20
_INSERT_WAIT_S = 2.0  # most jobs end within it, and clients that poll wait a second before they ask again
_DATASET_KEYS = (
    "access", "description", "friendlyName", "labels", "location", "defaultTableExpirationMs",
    "defaultPartitionExpirationMs", "maxTimeTravelHours", "storageBillingModel",
)  # fmt: skip
_COMPUTED = ("etag", "id", "kind", "selfLink", "creationTime", "lastModifiedTime", "type", "location")


@dataclass(frozen=True)
class Call:
    """One request, as the handlers see it."""

    engine: Engine
    path: Mapping[str, str]
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: dict

    @property
    def project(self) -> str:
        """Return the project in the path."""
        return self.path["project"]

    @property
    def ref(self) -> TableRef:
        """Return the table in the path."""
        return TableRef(self.project, self.path["dataset"], self.path["table"])

    def number(self, name: str, default: int) -> int:
        """Return an integer of the query string."""
        text = self.query.get(name) or str(default)
        if not re.fullmatch(r"[0-9]{1,19}", text):
            raise ApiError(400, "invalid", f"Invalid value for {name}: {text!r}")
        return min(int(text), 2**63 - 1)

    def columns(self) -> list[str]:
        """Return ``selectedFields``."""
        return [name for name in self.query.get("selectedFields", "").split(",") if name]

    def int64_timestamps(self) -> bool:
        """Say whether timestamps are asked for in microseconds."""
        given = self.query.get("formatOptions.useInt64Timestamp") or (self.body.get("formatOptions") or {}).get(
            "useInt64Timestamp"
        )
        return str(given).lower() == "true"


def _operation(method: str, path: str, name: str, parse_float: Callable = float) -> Callable:
    """Register a function of a `Call` that blocks: it runs in a thread of the engine and returns the JSON answer."""

    def register(handler: Callable[[Call], Any]) -> Handler:
        async def run(request: web.Request) -> web.Response:
            engine = request.app[ENGINE]
            body = json_object(await request.read(), parse_float=parse_float)
            call = Call(engine, request.match_info, request.query, request.headers, body)

            def handled() -> Any:
                try:
                    return handler(call)
                except (AttributeError, KeyError, TypeError, ValueError) as exc:  # so do bodies of another shape end
                    logger.exception("%s failed", name)
                    message = f"Invalid request, or the twin failed on it: {type(exc).__name__}: {exc}; see its log"
                    raise ApiError(400, "invalid", message) from exc

            return await _threaded(engine, handled)

        return routes.add(method, path, name)(run)

    return register


async def _threaded(engine: Engine, work: Callable[[], Any]) -> web.Response:
    """Answer what ``work`` returns; make the JSON in the thread too: a page of rows takes its time."""

    def encoded() -> bytes | None:
        answer = work()
        return None if answer is None else json.dumps(answer).encode()

    text = await asyncio.get_running_loop().run_in_executor(engine.threads, encoded)
    if text is None:
        return web.Response(status=204)
    return web.Response(body=text, content_type="application/json")


def _paged(call: Call, kind: str, key: str, items: list[dict]) -> dict:
    """Return one page of a list."""
    start, most = call.number("pageToken", 0), call.number("maxResults", 1000)
    page = {"kind": f"bigquery#{kind}", "etag": f"{len(items)}", key: items[start : start + most]}
    if start + most < len(items):
        page["nextPageToken"] = str(start + most)
    return page


def _patched(old: dict, new: dict) -> dict:
    """Merge ``new`` into ``old``: null removes, labels merge one by one, the rest is replaced."""
    merged = dict(old)
    for key, value in new.items():
        if key == "labels" and value is not None:
            value = {k: v for k, v in {**(old.get("labels") or {}), **value}.items() if v is not None}
        merged[key] = value
    return {key: value for key, value in merged.items() if value is not None}


def _check_etag(call: Call, resource: dict) -> None:
    """Refuse a change of something that has changed since the client saw it."""
    given = call.headers.get("If-Match")
    if given and given not in ("*", resource["etag"]):
        raise ApiError(412, "conditionNotMet", "Precondition check failed.")


@_operation("GET", "/bigquery/v2/projects", "projects.list")
def _list_projects(call: Call) -> dict:
    with call.engine.database.session() as session:
        names = sorted({d["datasetReference"]["projectId"] for d in session.datasets()})
    projects = [{"id": n, "projectReference": {"projectId": n}, "friendlyName": n, "numericId": "1"} for n in names]
    return _paged(call, "projectList", "projects", projects) | {"totalItems": len(names)}


# Datasets


@_operation("GET", _PROJECT + "/datasets", "datasets.list")
def _list_datasets(call: Call) -> dict:
    if call.query.get("filter"):
        raise unsupported("the filter of datasets.list")
    with call.engine.database.session() as session:
        return _paged(call, "datasetList", "datasets", session.datasets(call.project))


@_operation("POST", _PROJECT + "/datasets", "datasets.insert")
def _insert_dataset(call: Call) -> dict:
    name = (call.body.get("datasetReference") or {}).get("datasetId") or ""
    with call.engine.database.write() as session:
        return session.create_dataset(call.project, name, _dataset_properties(call.body))


_OBJECTS = (
    "datasetReference", "tableReference", "schema", "view", "labels",
    "timePartitioning", "rangePartitioning", "clustering",
)  # fmt: skip


def _check_shape(body: dict) -> None:
    """Refuse what would be kept and then not be understood."""
    for key, value in body.items():
        if value is not None and key in _OBJECTS and not isinstance(value, dict):
            raise ApiError(400, "invalid", f"Invalid value for {key}: {value!r}")
        if key.startswith("expiration") and not re.fullmatch(r"[0-9]{1,18}", str(value or 0)):
            raise ApiError(400, "invalid", f"Invalid value for {key}: {value!r}")
    if not all(isinstance(value, str | None) for value in (body.get("labels") or {}).values()):
        raise ApiError(400, "invalid", "Invalid value for labels: they must be text")


def _dataset_properties(body: dict) -> dict:
    _check_shape(body)
    known = {*_DATASET_KEYS, *_COMPUTED, "datasetReference"}
    if extra := sorted(key for key in body.keys() - known if body[key]):
        raise unsupported(f"the dataset property {extra[0]}")
    return {key: body[key] for key in _DATASET_KEYS if key in body}


@_operation("GET", _DATASET, "datasets.get")
def _get_dataset(call: Call) -> dict:
    with call.engine.database.session() as session:
        return session.dataset(call.project, call.path["dataset"])


@_operation("PATCH", _DATASET, "datasets.patch")
def _patch_dataset(call: Call) -> dict:
    with call.engine.database.write() as session:
        old = session.dataset(call.project, call.path["dataset"])
        _check_etag(call, old)
        new = _dataset_properties(call.body)
        if new.get("location", old["location"]) != old["location"]:
            raise ApiError(400, "invalid", "Cannot change dataset location.")
        return session.save_dataset(call.project, call.path["dataset"], _patched(old, new))


@_operation("DELETE", _DATASET, "datasets.delete")
def _delete_dataset(call: Call) -> None:
    contents = call.query.get("deleteContents") == "true"
    with call.engine.database.write() as session:
        session.drop_dataset(call.project, call.path["dataset"], contents=contents)


# Tables


def _resource(session: Session, body: dict) -> dict:
    """Return a table as ``tables.get`` answers it."""
    hidden = {"completed_by"} | ({"schema"} if not body["schema"]["fields"] else set())
    resource = {key: value for key, value in body.items() if key not in hidden}
    if body["type"] == "VIEW":
        return resource
    rows, size = session.size(body)
    return resource | {"numRows": str(rows), "numBytes": str(size), "numLongTermBytes": "0"}


@_operation("GET", _DATASET + "/tables", "tables.list")
def _list_tables(call: Call) -> dict:
    with call.engine.database.session() as session:
        found = session.tables(call.project, call.path["dataset"])
    shown = ("kind", "id", "tableReference", "type", "creationTime", "expirationTime", "labels", "friendlyName", "view",
             "timePartitioning", "rangePartitioning", "clustering")  # fmt: skip
    tables = [{key: body[key] for key in shown if key in body} for body in found]
    return _paged(call, "tableList", "tables", tables) | {"totalItems": len(tables)}


@_operation("POST", _DATASET + "/tables", "tables.insert")
def _insert_table(call: Call) -> dict:
    _check_table(call.body)
    ref = TableRef(call.project, call.path["dataset"], call.body["tableReference"]["tableId"])
    with call.engine.database.write() as session:
        fields = (call.body.get("schema") or {}).get("fields") or []
        view = _view(session, call) if call.body.get("view") else None
        if view:
            fields = view.query.schema
        return _resource(session, session.create(ref, fields, call.body, view))


def _view(session: Session, call: Call) -> View:
    view = call.body["view"]
    if view.get("useLegacySql", True):
        raise unsupported("views in legacy SQL; set useLegacySql to false")
    statement, *more = sql.script(
        view["query"], catalog=session, project=call.project, dataset=None, parameter_types={}
    )
    if more or not isinstance(statement, Query) or statement.kind != "SELECT":
        raise ApiError(400, "invalidQuery", "A view must be one SELECT statement.")
    return View(view["query"], statement, call.project, None)


def _check_table(body: dict) -> None:
    _check_shape(body)
    known = {*PROPERTIES, *_COMPUTED, "tableReference", "schema", "view", "numRows", "numBytes", "numLongTermBytes"}
    if extra := sorted(key for key in body.keys() - known if body[key]):
        raise unsupported(f"the table property {extra[0]}")


@_operation("GET", _TABLE, "tables.get")
def _get_table(call: Call) -> dict:
    ref = call.ref._replace(table=call.ref.table.partition("$")[0])
    if ref.dataset == ANONYMOUS:
        return _anonymous(ref, call.engine.anonymous(ref))
    with call.engine.database.session() as session:
        body = _resource(session, session.table(ref))
    if call.headers.get("If-None-Match") == body["etag"]:
        raise ApiError(304, "notModified", "Not Modified")
    return body


def _anonymous(ref: TableRef, snapshot: Snapshot) -> dict:
    return {
        "kind": "bigquery#table", "id": path_of(ref), "tableReference": reference(ref), "type": "TABLE",
        "etag": ref.table, "schema": {"fields": snapshot.fields}, "location": "US",
        "numRows": str(snapshot.num_rows), "numBytes": str(snapshot.nbytes),
    }  # fmt: skip


@_operation("PATCH", _TABLE, "tables.patch")
def _patch_table(call: Call) -> dict:
    _check_table(call.body)
    with call.engine.database.write() as session:
        old = session.table(call.ref)
        _check_etag(call, old)
        new = {key: call.body[key] for key in PROPERTIES if key in call.body}
        changed = _patched(old, new)
        for key in ("timePartitioning", "rangePartitioning"):
            if (changed.get(key) or {}).get("field") != (old.get(key) or {}).get("field"):
                raise ApiError(400, "invalid", f"Cannot change the partitioning of table {path_of(call.ref)}.")
        if call.body.get("view") and call.body["view"].get("query") != (old.get("view") or {}).get("query"):
            raise unsupported("a change of a view's query; use CREATE OR REPLACE VIEW")
        session.save(call.ref, changed)
        if call.body.get("schema"):
            _change_schema(session, call.ref, types.normalize(call.body["schema"].get("fields") or []))
        return _resource(session, session.table(call.ref))


def _change_schema(session: Session, ref: TableRef, fields: list[dict]) -> None:
    body = session.table(ref)
    old = body["schema"]["fields"]
    options = ("ALLOW_FIELD_ADDITION", "ALLOW_FIELD_RELAXATION")
    merged = types.merged(path_of(ref), old, fields, options, whole=True) if old else fields
    if body["type"] == "VIEW":
        if [f["name"] for f in merged] != [f["name"] for f in old]:
            raise ApiError(400, "invalid", f"The columns of view {path_of(ref)} come from its query.")
        session.save(ref, body | {"schema": {"fields": merged}})
    elif merged != old:
        session.alter(ref, merged)


@_operation("DELETE", _TABLE, "tables.delete")
def _delete_table(call: Call) -> None:
    if "$" in call.ref.table:
        raise unsupported("the deletion of a partition")
    if call.ref.dataset == ANONYMOUS:
        call.engine.anonymous(call.ref)
        call.engine.snapshots.drop(call.ref.table.removeprefix("anon"))
        return
    with call.engine.database.write() as session:
        _check_etag(call, session.table(call.ref))
        session.drop(call.ref)


# Rows


@_operation(
    "POST", _TABLE + "/insertAll", "tabledata.insertAll", parse_float=Decimal
)  # a NUMERIC has more digits than a float
def _insert_all(call: Call) -> dict:
    errors = call.engine.insert_all(call.ref, call.body)
    answer = {"kind": "bigquery#tableDataInsertAllResponse"}
    return answer | ({"insertErrors": errors} if errors else {})


@_operation("GET", _TABLE + "/data", "tabledata.list")
def _list_rows(call: Call) -> dict:
    """Answer a page of a table as it was when its first page was asked for."""
    name, _, start = call.query.get("pageToken", "").rpartition(".")
    snapshot = call.engine.snapshots.get(name) if name else call.engine.freeze(call.ref, call.columns())
    if snapshot is None:
        raise ApiError(400, "invalid", "The page token has expired: list the rows anew")
    name = name or uuid.uuid4().hex
    answer = _rows(call, snapshot, int(start or call.number("startIndex", 0)))
    if "pageToken" in answer:
        call.engine.snapshots.add(name, snapshot)
        answer["pageToken"] = f"{name}.{answer['pageToken']}"
    return {"kind": "bigquery#tableDataList", "etag": "rows"} | answer


def _rows(call: Call, snapshot: Snapshot, start: int) -> dict:
    """Return a page of a snapshot with its total and the token of the next."""
    most = call.query.get("maxResults", call.body.get("maxResults"))
    fitting = max(1, _PAGE_BYTES * snapshot.num_rows // max(1, snapshot.nbytes))  # by the average size of a row
    stop = min(start + min(_PAGE_ROWS if most is None else int(most), fitting), snapshot.num_rows)
    rows = []
    for batch in snapshot.batches(start, stop):
        rows += cells.rest_rows(batch, snapshot.fields, int64_timestamps=call.int64_timestamps())
    answer: dict = {"totalRows": str(snapshot.num_rows)}
    if rows:  # clients take an empty list for a page
        answer["rows"] = rows
    if stop < snapshot.num_rows:
        answer["pageToken"] = str(stop)
    return answer


# Jobs


@_operation("POST", _PROJECT + "/jobs", "jobs.insert")
def _insert_job(call: Call) -> dict:
    record = call.engine.jobs.submit(call.project, call.body).after(_INSERT_WAIT_S)
    # A dry run makes no job that could hold the error, so the call itself fails.
    if record["configuration"].get("dryRun") and (error := error_of(record)):
        raise error
    return record


@_operation("GET", _PROJECT + "/jobs", "jobs.list")
def _list_jobs(call: Call) -> dict:
    found = call.engine.jobs.list(call.project, call.query.get("parentJobId"))
    low, high = call.number("minCreationTime", 0), call.number("maxCreationTime", 2**63)
    states = call.query.get("stateFilter", "").upper()
    jobs = [
        record | {"state": record["status"]["state"]}
        for record in found
        if low <= int(record["statistics"]["creationTime"]) <= high
        and (not states or record["status"]["state"] in states)
    ]
    return _paged(call, "jobList", "jobs", jobs)


@_operation("GET", _PROJECT + "/jobs/{job}", "jobs.get")
def _get_job(call: Call) -> dict:
    return call.engine.jobs.get(call.project, call.path["job"])


@_operation("POST", _PROJECT + "/jobs/{job}/cancel", "jobs.cancel")
def _cancel_job(call: Call) -> dict:
    return {"kind": "bigquery#jobCancelResponse", "job": call.engine.jobs.cancel(call.project, call.path["job"])}


@_operation("POST", _PROJECT + "/queries", "jobs.query")
def _query(call: Call) -> dict:
    seconds = int(call.body.get("timeoutMs") or 10_000) / 1000
    return _answer(call, call.engine.jobs.query(call.project, call.body, seconds), "queryResponse")


@_operation("GET", _PROJECT + "/queries/{job}", "jobs.getQueryResults")
def _get_query_results(call: Call) -> dict:
    seconds = call.number("timeoutMs", 10_000) / 1000
    return _answer(call, call.engine.jobs.wait(call.project, call.path["job"], seconds), "getQueryResultsResponse")


def _answer(call: Call, record: dict, kind: str) -> dict:
    """Return a query's rows, or its error, or that it is still running."""
    if error := error_of(record):
        raise error
    answer = {"kind": f"bigquery#{kind}", "jobReference": record["jobReference"], "jobComplete": False}
    if record["status"]["state"] != "DONE":
        return answer
    statistics = record["statistics"].get("query") or {}
    if not statistics:
        raise ApiError(400, "invalid", f"Cannot get the query results of {record['id']}: it is not a query job")
    answer |= {"jobComplete": True, "cacheHit": False, "totalBytesProcessed": statistics["totalBytesProcessed"]}
    answer |= {key: statistics[key] for key in ("numDmlAffectedRows", "dmlStats") if key in statistics}
    if kind == "queryResponse":
        answer |= {"queryId": record["jobReference"]["jobId"], "statementType": statistics["statementType"]}
        answer |= {"location": record["jobReference"]["location"]}
    if record["configuration"].get("dryRun"):
        return answer | {"schema": statistics.get("schema", {"fields": []}), "totalRows": "0"}
    snapshot = call.engine.result(record)
    if snapshot is None:
        return answer
    start = int(call.query.get("pageToken") or call.number("startIndex", 0))
    return answer | {"schema": {"fields": snapshot.fields}} | _rows(call, snapshot, start)


# Uploads


async def _upload(request: web.Request) -> web.Response:
    engine, project = request.app[ENGINE], request.match_info["project"]
    kind = request.query.get("uploadType")
    if kind == "multipart":
        body, _type, pieces = await multipart(request)
        upload = engine.uploads.new(project, body)
        try:
            await upload.append(pieces)
        except BaseException:
            upload.path.unlink()
            raise
        return await _threaded(engine, lambda: _loaded(engine, upload))
    if kind != "resumable":
        raise unsupported(f"uploads of type {kind}")
    upload_id = engine.uploads.start(project, await read_json(request))
    location = request.url.with_query(uploadType="resumable", upload_id=upload_id)
    return web.Response(headers={"Location": str(location)})


def _loaded(engine: Engine, upload: Upload) -> dict:
    return engine.jobs.submit(upload.project, upload.body, upload.path).after(_INSERT_WAIT_S)


async def _upload_chunk(request: web.Request) -> web.Response:
    engine = request.app[ENGINE]
    upload = engine.uploads.get(request.query.get("upload_id", ""))
    if upload.answer is None:
        first, end, total = content_range(request)
        if first is not None and first <= upload.size:  # beyond a hole, the answer says where to go on
            await upload.append(window(request.content.iter_any(), upload.size - first, end - first))
        if upload.size != total:
            return incomplete(request, upload.size)

    def answered() -> dict:
        if upload.answer is None:
            try:
                upload.answer = _loaded(engine, upload)
            except ApiError as exc:
                upload.answer = exc
        if isinstance(upload.answer, ApiError):
            raise upload.answer
        return upload.answer

    return await _threaded(engine, answered)


for _prefix in ("/upload", "/resumable/upload"):
    routes.add("POST", _prefix + _PROJECT + "/jobs", "jobs.insert")(_upload)
    routes.add("PUT", _prefix + _PROJECT + "/jobs", "jobs.insert")(_upload_chunk)
