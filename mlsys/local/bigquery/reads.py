"""Which rows and columns of a table a reader gets."""

from collections.abc import Iterable

import pyarrow as pa

from mlsys.local.bigquery import types
from mlsys.local.bigquery.catalog import Session, path_of
from mlsys.local.bigquery.snapshots import Snapshot, Snapshots
from mlsys.local.bigquery.statements import Schema, TableRef
from mlsys.local.errors import ApiError, unsupported

BATCH_ROWS = 1 << 17


def readable(session: Session, ref: TableRef) -> dict:
    """Return a table that can be read or filled directly: no view."""
    body = session.table(ref)
    if body["type"] == "VIEW":
        raise ApiError(400, "invalid", f"{path_of(ref)} is a VIEW: query it instead.")
    return body


def frozen(session: Session, snapshots: Snapshots, ref: TableRef, columns: Iterable[str] = ()) -> Snapshot:
    """Return the rows of a table as they are now, all its columns when none is named.

    A table that is read again as it was needs no second copy.
    """
    body = readable(session, ref)
    fields = chosen(body["schema"]["fields"], columns)
    name = f"{body['etag']}/{','.join(field['name'] for field in fields)}"
    if kept := snapshots.get(name):
        return kept
    rows: Iterable[pa.RecordBatch] = ()
    if fields:
        text = f"SELECT {types.tidy_columns(fields)} FROM {types.relation(ref)}"  # noqa: S608
        rows = session.db.sql(text).to_arrow_reader(BATCH_ROWS)
    made = Snapshot.write(snapshots.folder, fields, rows)
    if session.table(ref)["etag"] == body["etag"]:  # else a writer came in between, and these are the rows of later
        snapshots.add(name, made)
    return made


def chosen(schema: Schema, columns: Iterable[str]) -> Schema:
    """Return the fields of ``columns`` in the table's order, all of them when none is named."""
    wanted = {name.lower().strip("`") for name in columns}
    if any("." in name for name in wanted):
        raise unsupported("the selection of a field inside a RECORD")
    if unknown := wanted - {f["name"].lower() for f in schema}:
        raise ApiError(400, "invalid", f"No such field: {min(unknown)}")
    return [f for f in schema if not wanted or f["name"].lower() in wanted]
